"""The classifier's benchmark: what it wrote, and that it still runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from examples.benchmarks.classifier import RESULTS, Config, main
from examples.benchmarks.classifier_scenes import Wanted, record
from serl_core.agents.classifier import ClassifierConfig
from serl_core.data.episodes import EpisodeStore
from serl_core.judging.crossfit import Training
from serl_core.types import EpisodeStart

BY = ("task", "method", "expert", "seed")  # what a row of any study of this project begins with
SMALL = Training(folds=2, k=1, n=1, network=ClassifierConfig(blocks=2, width=8, hidden=(8,), batch=32, updates=40))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def episodes(folder: Path) -> list[int]:
    """The numbers of the recorded ones."""
    return [record.episode for record in EpisodeStore(folder).records() if isinstance(record, EpisodeStart)]


def test_the_rows_say_what_was_studied() -> None:
    """Guards tables that are joined with those of the other studies by task, method, expert and seed."""
    rows = rows_of(RESULTS / "classifier.csv")
    assert tuple(rows[0])[: len(BY)] == BY
    assert len({tuple(row[name] for name in BY) for row in rows}) == len(rows) >= 3
    assert all(row[name] for row in rows for name in BY)


def test_it_records_trains_measures_and_goes_on_where_it_was(tmp_path: Path, rendering: None) -> None:
    """Guards the whole way of the benchmark, whose published rows nobody could make again if it were broken."""
    pytest.importorskip("matplotlib", reason="the benchmark draws with matplotlib (extra dashboard)")
    small = Config(
        data=tmp_path / "data",
        seeds=(0,),
        training=(2, 2),
        more=1,
        play=1,
        held_out=(1, 2),
        views=1,
        learning=SMALL,
        results=tmp_path / "results",
        json=tmp_path / "rows.json",
    )
    assert main(small) == 0
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert list(row) == list(rows_of(RESULTS / "classifier.csv")[0]), "the published table has other columns"
    assert rows_of(tmp_path / "results" / "classifier.csv") == [{name: str(value) for name, value in row.items()}]
    assert (tmp_path / "results" / "classifier.png").stat().st_size > 0
    assert row["training_successes"] > 0 and row["successes"] > 0 and row["others"] > row["successes"]
    held_out = Wanted("held-out", 1, 3, first_seed=3_100_000)
    assert episodes(record(tmp_path / "data", held_out)) == [0, 1, 2, 3], "a stopped recording goes on"
