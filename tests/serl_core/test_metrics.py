from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serl_core.metrics import Metrics, read


def test_rows_come_back_and_a_restart_appends(tmp_path: Path) -> None:
    """Guards against a resumed run that overwrites its history."""
    path = tmp_path / "run" / "metrics.jsonl"
    assert read(path) == []
    with Metrics(path) as metrics:
        metrics.write(1, 10.0, loss=np.float32(0.5), who="actor", done=False)
    with Metrics(path) as metrics:
        metrics.write(2, 11.0, loss=float("nan"))
    assert read(path) == [
        {"step": 1, "wall": 10.0, "loss": 0.5, "who": "actor", "done": False},
        {"step": 2, "wall": 11.0, "loss": None},
    ]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    """Guards against a kill in the middle of a line that spoils the next one, at every byte."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path) as metrics:
        metrics.write(1, 1.0)
        metrics.write(2, 2.0)
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for size in range(second, len(whole)):
        path.write_bytes(whole[:size])
        with Metrics(path) as metrics:
            metrics.write(3, 3.0)
        steps = [row["step"] for row in read(path)]
        assert steps == ([1, 2, 3] if size == len(whole) - 1 else [1, 3])


def test_what_is_not_a_plain_value_is_refused(tmp_path: Path) -> None:
    """Guards against arrays that turn the file into something no tool can plot."""
    with Metrics(tmp_path / "m.jsonl") as metrics, pytest.raises(ValueError, match="reduce it first"):
        metrics.write(1, 1.0, loss=np.zeros(2))  # type: ignore[arg-type]
