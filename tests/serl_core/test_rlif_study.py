"""The RLIF study as it runs, on its cheapest task with hardly any steps: no number here says anything."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.benchmarks import rlif, rlif_reference, rlif_training
from examples.benchmarks.rlif import Config, main
from examples.benchmarks.rlif_reference import yardstick
from examples.benchmarks.rlif_study import Job, Terms, measure
from examples.benchmarks.rlif_tasks import TaskName, opened, study_task
from serl_core.checkpoint import Checkpoints
from serl_core.summary import read_json

pytest.importorskip("imageio", reason="Reacher needs the package imageio: pip install 'gymnasium[mujoco]'")

TINY = Terms(steps=60, random_steps=60, demonstrations=2, episodes=2, utd=1, batch=16, hidden=(8, 8), pretrain=4)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning begins at once: it is to be run, not waited for."""
    monkeypatch.setattr(rlif_training, "START_AFTER", 20)


def never(*arguments: Any) -> Any:
    """Stands in for what must not be done again."""
    raise AssertionError("measured or trained again")


def test_the_study_from_experts_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the command: rows with all their columns, a report of them, and nothing measured a second time."""
    config = Config(
        tasks=("reacher",), methods=("rlif", "hg-dagger"), baselines=(), experts=("poor",),
        rules=("random-30",), seeds=(0,), terms=TINY, results=tmp_path, json=tmp_path / "rlif.json",
    )  # fmt: skip
    assert main(config) == 0
    with (tmp_path / "rlif.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["rlif", "hg-dagger"] and tuple(rows[0]) == rlif.FIELDS
    for row in rows:
        assert (row["task"], row["expert"], row["rule"], row["seed"]) == ("reacher", "poor", "random-30", "0")
        assert int(row["env_steps"]) == 60 and 0 < int(row["intervention_steps"]) < 60
        assert float(row["score"]) == int(row["successes"]) / 2 and row["reference"] == ""
    assert [int(row["updates"]) for row in rows] == [40, 44]  # one per step since the 20th; clones' before
    assert len({row["demo_steps"] for row in rows}) == 1  # the same demonstrations
    assert read_json(tmp_path / "rlif.json")["tasks"] == {"reacher": {"met": None}}
    with (tmp_path / "rlif-experts.csv").open(newline="") as file:
        assert [(row["expert"], row["episodes"]) for row in csv.DictReader(file)] == [("poor", "2")]
    monkeypatch.setattr(rlif, "measure", never)
    monkeypatch.setattr(rlif, "expert_row", never)
    assert main(config) == 0


def test_a_reference_agent_is_trained_once_stored_hashed_and_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the yardstick: every row names the file whose values led to its takeovers."""
    monkeypatch.setitem(rlif_reference.STEPS, "reacher", 40)  # type: ignore[arg-type]
    monkeypatch.setitem(rlif_reference.DEMONSTRATIONS, "reacher", 2)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="succeeds in"):
        yardstick("reacher", tmp_path, episodes=2)  # it did not converge, of course
    monkeypatch.setattr(rlif_reference, "CONVERGED", 0.0)
    monkeypatch.setattr(rlif_reference, "trained", never)
    found = yardstick("reacher", tmp_path)
    path = Checkpoints(tmp_path / "reacher").latest()
    assert path is not None
    assert found.digest == hashlib.sha256((path / "tree.bin").read_bytes()).hexdigest()[:12]
    ours, its_own = found.agent.values({"state": np.zeros(10, np.float32)}, np.ones(2, np.float32))
    assert np.isfinite([ours, its_own]).all() and ours != its_own
    row = measure(Job("reacher", "bc", "medium", "value-gap", 0), TINY, found)
    assert row["reference"] == found.digest and row["env_steps"] == 0 and row["updates"] == 20


@pytest.mark.parametrize("task", ["reacher", "peg_insertion", "pick_cube"])
def test_the_reference_agents_come_with_the_study(task: TaskName) -> None:
    """Guards rows that nobody can repeat: whoever decided on their takeovers is here, whole, and says something."""
    agent = yardstick(task, rlif_reference.REFERENCES).agent
    with opened(task) as world:
        obs, _ = world.env.reset(seed=0)
    ours, its_own = agent.values(obs, np.ones(study_task(task).action_dim, np.float32))
    assert ours < its_own and 0.3 < its_own < 1.1  # a discounted success; a full push everywhere leads elsewhere


def test_the_value_gap_asks_for_its_reference_agent() -> None:
    """Guards rows under another condition than the one they are called by."""
    with pytest.raises(ValueError, match="need a reference agent"):
        measure(Job("reacher", "rlif", "poor", "value-gap", 0), TINY, None)
