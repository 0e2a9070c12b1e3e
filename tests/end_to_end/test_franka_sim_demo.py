"""``serl demo --robot franka-sim`` in short: the real libfranka, an emulated arm, and everything above in real time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serl_core.data.episodes import EpisodeStore
from serl_core.franka_sim.launch import environment
from serl_core.processes import ChildFailed
from serl_core.types import EpisodeStart, Step

ENV_STEPS, DEMOS, EVAL_EPISODES = 110, 2, 1  # training begins after 100 steps
PATIENCE = 300  # s; a minute where nothing else runs


def test_the_demo_drives_an_emulated_franka_in_real_time(tmp_path: Path) -> None:
    """Guards the way from ``--robot franka-sim`` to a summary: driver, guard, resets, operator, learner, evaluation."""
    pytest.importorskip("franky", reason="the package franky-control is not installed")
    try:
        environment()
    except ChildFailed as error:
        pytest.skip(f"the emulated arm needs the package franka-sim from PyPI: {error}")
    folder = tmp_path / "run"
    options = ["--robot", "franka-sim", "--task", "reach", "--obs", "state", "--run-dir", folder, "--demos", DEMOS]
    options += ["--env-steps", ENV_STEPS, "--eval-episodes", EVAL_EPISODES, "--utd", 1]
    command = [sys.executable, "-m", "serl_core.cli", "demo", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    logs = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in folder.glob("logs/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["robot"] == "franka-sim" and summary["env_steps"] == ENV_STEPS
    assert summary["eval"]["episodes"] == EVAL_EPISODES
    records = list(EpisodeStore(folder / "episodes").records())
    starts = [record for record in records if isinstance(record, EpisodeStart)]
    assert starts and all(start.meta["robot"]["robot"] == "franka" for start in starts)
    assert sum(isinstance(record, Step) for record in records) == ENV_STEPS
