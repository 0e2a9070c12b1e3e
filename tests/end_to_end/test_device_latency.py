"""The latency benchmark in short: what each device is made to say is seen, and becomes the same command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from examples.benchmarks.devices import Config, main

pytest.importorskip("pyspacemouse", reason="needs the package pyspacemouse", exc_type=ImportError)
pytest.importorskip("evdev", reason="needs the package evdev-binary", exc_type=ImportError)


def test_every_device_is_timed_to_the_end(tmp_path: Path) -> None:
    """Guards figures of a device whose pushes would be other than what is waited for: it would wait for ever."""
    assert main(Config(reports=6, results=tmp_path)) == 0
    with (tmp_path / "devices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["device"], row["stage"]) for row in rows] == [
        (device, stage) for device in ("spacemouse", "gamepad", "keyboard") for stage in ("read", "command")
    ]
    assert all(0 < float(row["p50_ms"]) <= float(row["max_ms"]) for row in rows)
