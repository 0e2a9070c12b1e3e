"""The real processes, end to end: server, recorder, learner, actor and evaluation talk over sockets only."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serl_core import metrics
from serl_core.data.episodes import EpisodeStore
from serl_core.types import EpisodeStart, Step

ENV_STEPS = 800
EVAL_EPISODES = 20


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = ["demo", "--task", "pick_cube", "--obs", "state", "--run-dir", folder, "--env-steps", ENV_STEPS]
    command += ["--eval-episodes", EVAL_EPISODES, "--demos", 20]
    done = subprocess.run(
        [sys.executable, "-m", "serl_core.cli", *map(str, command)], capture_output=True, text=True, timeout=900
    )
    logs = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in folder.glob("logs/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    return folder


@pytest.fixture(scope="module")
def summary(run_dir) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def records(run_dir: Path) -> tuple[list[EpisodeStart], list[Step]]:
    everything = list(EpisodeStore(run_dir / "episodes").records())
    return [r for r in everything if isinstance(r, EpisodeStart)], [r for r in everything if isinstance(r, Step)]


def test_the_summary_says_what_was_measured(summary):
    """Guards what scripts read: every promised field is there and plausible."""
    assert (summary["task"], summary["obs"], summary["seed"], summary["demos"]) == ("pick_cube", "state", 0, 20)
    assert summary["env_steps"] >= ENV_STEPS and summary["wall_s"] > 0
    assert summary["intervention_steps"] > 0 and summary["interventions"] > 0
    assert summary["weight_age_steps_median"] >= 0
    assert set(summary["eval"]) >= {"episodes", "successes", "success_rate", "wilson_low", "mean_success_steps"}
    assert summary["eval"]["episodes"] == EVAL_EPISODES


def test_updates_keep_the_promised_ratio(summary):
    """Guards the limiter across processes: four critic updates per transition stored after training started."""
    assert summary["grad_steps"] > 0
    assert summary["achieved_utd"] == pytest.approx(4.0, rel=0.05)


def test_every_step_is_stored_once_and_in_order(run_dir, summary):
    """Guards the way from the actor's loop to the learner's disk."""
    starts, steps = records(run_dir)
    assert len(steps) == summary["env_steps"]
    for start in starts:
        numbers = [step.step for step in steps if step.episode == start.episode]
        assert numbers == list(range(len(numbers)))


def test_weights_reach_the_actor_and_never_go_back(run_dir):
    """Guards the way back: the policy that acts gets newer, and only newer."""
    versions = [step.policy_version for step in records(run_dir)[1]]
    assert versions == sorted(versions)
    assert versions[-1] > versions[0]


def test_stored_actions_are_those_handed_to_the_environment(run_dir):
    """Guards the record of who acted: alone, the executed action is the policy's own; helped, the operator's."""
    steps = records(run_dir)[1]
    alone = [step for step in steps if step.who == "policy"]
    helped = [step for step in steps if step.who == "operator"]
    assert alone and helped
    assert all(np.array_equal(step.action, step.proposal) for step in alone)
    assert any(not np.array_equal(step.action, step.proposal) for step in helped)
    assert all(step.takeover >= 0 for step in helped) and all(step.takeover < 0 for step in alone)


def test_metrics_of_both_processes_are_there(run_dir):
    """Guards the live display and every later plot."""
    actor, learner = (metrics.read(run_dir / "metrics" / f"{name}.jsonl") for name in ("actor", "learner"))
    assert actor and learner
    assert all(row["finite"] for row in learner if "finite" in row)


def test_training_improves_on_the_untrained_policy(summary):
    """Guards learning itself: an untrained policy lifts no cube in 20 episodes; a trained one must lift 3."""
    assert summary["eval"]["successes"] >= 3
