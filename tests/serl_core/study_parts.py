"""Rows of a study that another process writes: imports nothing that takes long to load."""

from __future__ import annotations

from pathlib import Path

from examples.benchmarks.rlif_rows import Rows

FEW = ("name", "seed", "score")


def append_some(path: Path, name: str, count: int) -> None:
    """``count`` rows, one after the other."""
    rows = Rows(path, FEW, 2)
    for seed in range(count):
        rows.append({"name": name, "seed": seed, "score": 1.5})
