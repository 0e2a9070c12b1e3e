"""The classifier's benchmark: what it wrote, and that it still runs."""

from __future__ import annotations

import csv

from examples.benchmarks.classifier import RESULTS

BY = ("task", "method", "expert", "seed")  # what a row of any study of this project begins with


def test_the_rows_say_what_was_studied() -> None:
    """Guards tables that are joined with those of the other studies by task, method, expert and seed."""
    with (RESULTS / "classifier.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(BY)] == BY
    assert len({tuple(row[name] for name in BY) for row in rows}) == len(rows) >= 3
    assert all(row[name] for row in rows for name in BY)
