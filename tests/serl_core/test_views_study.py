"""The ablation of cached views as it runs, with hardly any steps: no number here says anything."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.benchmarks import interventions, rlif_training, views
from examples.benchmarks.rlif_rows import Rows
from examples.benchmarks.rlif_training import Trainee
from examples.benchmarks.views import FIELDS, Config, main
from serl_core.data.sampling import Sampling
from serl_core.summary import read_json


@pytest.fixture(autouse=True)
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where nothing can render; in CI that is a failure. The rule is that of the tests from end to end."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "end_to_end"))
    from pictures import pictures_or_skip

    pictures_or_skip(os.environ)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning begins at once and is evaluated after every six steps: it is to be run, not waited for."""
    monkeypatch.setattr(rlif_training, "START_AFTER", 4)
    monkeypatch.setattr(interventions, "GRID", 6)
    monkeypatch.setattr(interventions, "GRID_EPISODES", 1)


def never(*arguments: Any) -> Any:
    """Stands in for what must not be done again."""
    raise AssertionError("measured again")


def tiny(folder: Path, **changes: Any) -> Config:
    settings: dict[str, Any] = {
        "tasks": ("pick_cube",), "env_steps": (12,), "seeds": (0,), "demonstrations": 1, "utd": 1, "batch": 8,
        "episodes": 1, "results": folder, "json": folder / "views.json", **changes,
    }  # fmt: skip
    return Config(**settings)


@pytest.mark.parametrize(("kept", "judged"), [(1, {"pick_cube 1": None}), (81, {})])
def test_a_row_from_demonstrations_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, judged: dict[str, None]
) -> None:
    """Guards the command: rows with all their columns, a report that judges nothing yet, nothing measured twice."""
    made: list[int] = []
    make = views.trainee_of

    def trainee_of(*given: Any) -> Trainee:
        trainee = make(*given)
        made.append(trainee.replay.sampling(Sampling(0.9)).views)
        return trainee

    monkeypatch.setattr(views, "trainee_of", trainee_of)
    config = tiny(tmp_path, views=(kept,))
    assert main(config) == 0
    assert made == [kept]  # what is learnt from is what the row is called by
    (row,) = Rows(tmp_path / "views.csv", FIELDS, 3).read()
    assert tuple(row) == FIELDS and all(row[name] for name in FIELDS if name != "mean_success_steps")
    assert (row["task"], row["views"], row["seed"], row["env_steps"]) == ("pick_cube", str(kept), "0", "12")
    assert (row["episodes"], row["updates"], row["achieved_utd"]) == ("1", "8", "1.0")  # one per step since the 4th
    curve = [int(successes) for successes in row["curve"].split()]
    assert len(curve) == 2 and float(row["area"]) == sum(curve) / 2
    assert read_json(tmp_path / "views.json")["as_good"] == judged
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(views, "row", never)
    assert main(config) == 0
    with pytest.raises(AssertionError, match="measured again"):
        main(replace(config, env_steps=(18,)))  # another budget is another area


def test_a_task_without_its_steps_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards hours: said after the first task's rows, it would be said too late."""
    monkeypatch.setattr(views, "row", never)
    with pytest.raises(ValueError, match="shorter"):
        main(tiny(tmp_path, tasks=("pick_cube", "peg_insertion")))
