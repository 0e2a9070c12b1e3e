"""How fast the simulated arm is: ``python -m examples.benchmarks.simulation [--json FILE]``.

Medians, on whatever else the machine is doing: the lockstep clock against real time without rendering, the
actor's whole step (policy, takeover, command, physics, observation through the real server), and one frame.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import tyro

from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from serl_core.blueprint import Blueprint
from serl_core.session import connected, make_env
from serl_core.simulated import simulated_server
from serl_core.teleop.scripted import OperatorConfig

RESULTS = Path(__file__).parent / "results"
PERIOD = 0.1  # s, of a 10 Hz policy


@dataclass(frozen=True)
class Config:
    """How fast the simulated arm is."""

    tasks: tuple[str, ...] = ("pick_cube", "peg_insertion")
    steps: int = 300  # measured steps
    json: Path | None = None  # also write the figures here


def timed(call: Callable[[], object], times: int) -> float:
    """Median duration of a call, ms, after ten calls that do not count."""
    durations = []
    for index in range(times + 10):
        begun = time.perf_counter()
        call()
        if index >= 10:
            durations.append(1000 * (time.perf_counter() - begun))
    return median(durations)


def lockstep(scene: str, steps: int) -> float:
    """Simulated seconds per second, guard included, without rendering."""
    robot = GuardedRobot(MujocoDriver(scene))
    robot.connect()
    try:
        return PERIOD / (timed(lambda: robot.advance(PERIOD), steps) / 1000)
    finally:
        robot.close()


def frame(scene: str, steps: int) -> float:
    """One 128×128 picture, ms: front and wrist camera together, halved."""
    robot = GuardedRobot(MujocoDriver(scene, cameras=("front", "wrist")))
    robot.connect()

    def step() -> float:
        robot.advance(0.01)  # a new time, so that no picture comes from the cache
        begun = time.perf_counter()
        robot.frames()
        return time.perf_counter() - begun

    try:
        return 1000 * median(step() for _ in range(steps)) / 2
    finally:
        robot.close()


def actor_step(task_name: str, steps: int) -> float:
    """One step of an actor from state, ms, through the real server and with the scripted operator watching."""
    blueprint = Blueprint.for_task(task_name, "state")
    task, agent = blueprint.load_task(), blueprint.agent()
    act = blueprint.act()
    params, key = agent.policy(agent.init(jax.random.key(0))), jax.random.key(1)
    with tempfile.TemporaryDirectory() as logs, simulated_server(task, "state", Path(logs)) as address:  # noqa: SIM117
        with connected(task, "state", *address) as session:
            env = make_env(session, task, "state", OperatorConfig(mode="intervene"), seed=0)
            durations: list[float] = []
            obs, _ = env.reset(seed=0)
            while len(durations) < steps + 10:
                begun = time.perf_counter()
                obs, _, terminated, truncated, _ = env.step(act(params, obs, key, True))
                durations.append(1000 * (time.perf_counter() - begun))
                if terminated or truncated:
                    obs, _ = env.reset()
    return median(durations[10:])


def measure(config: Config) -> list[dict[str, Any]]:
    """One row per task."""
    return [
        {
            "task": task,
            "lockstep_x_realtime": round(lockstep(task, config.steps), 1),
            "actor_step_ms": round(actor_step(task, config.steps), 2),
            "frame_ms": round(frame(task, min(config.steps, 100)), 2),
        }
        for task in config.tasks
    ]


def main(config: Config) -> int:
    """Measure, print, and write the CSV."""
    rows = measure(config)
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "simulation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if config.json:
        config.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.simulation", description=__doc__)))
