"""Rendered episodes of ``peg_insertion`` for the classifier's benchmark: successes, and failures that nearly are some.

Every frame has the scene's own truth beside it. Failures press beside the hole, stop half-way into it, hover over
it or wander about; what succeeds all the same counts as a success. Play goes in and out of success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotState
from serl_core.clock import LockstepClock
from serl_core.config import Expert, Goal, Task, Truth
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.build import build_env
from serl_core.envs.rewards import Verdict
from serl_core.metrics import Metrics, read
from serl_core.progress import progress
from serl_core.rollout import Decision, Identity, rollout
from serl_core.tasks import load_task
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator
from serl_core.types import EpisodeStart, Obs, Record, Step

HOLD = 5  # frames of success in a row that end an episode: as many as a debounce may ask for
MISSES = ("beside", "half-way", "above", "astray")
PLAY = "play"
LINGER = 4  # steps at each depth of play


@dataclass(frozen=True)
class Wanted:
    """How many episodes of each kind, and the first seed: no seed occurs in two sets."""

    name: str
    successes: int
    failures: int
    first_seed: int
    play: int = 0  # episodes in and out of success
    steps: int = 30  # of a failure or of play


class Miss:
    """Where an expert goes that means to fail: one way of failing per episode, drawn by `draw`."""

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self.draw("", np.random.default_rng(0))

    def draw(self, kind: str, rng: np.random.Generator) -> None:
        """An episode begins: "" means to succeed."""
        self.kind = kind
        angle, aside = rng.uniform(0, 2 * np.pi), rng.uniform(0.003, 0.014)
        self._aside = np.array([np.cos(angle), np.sin(angle), 0.0]) * (aside if kind == "beside" else 0.0)
        self._depth = rng.uniform(0.002, 0.016)  # m into the hole; success is at 0.020
        self._above = np.append(rng.normal(0, 0.003, 2), rng.uniform(0.001, 0.015))
        self._astray = rng.uniform((0.45, -0.06, 0.08), (0.55, 0.06, 0.18))
        self._depths = rng.uniform(0.012, 0.028, 100)  # m, of play; success is at 0.020
        self._asked = 0

    def goal(self, state: RobotState, truth: Truth) -> Goal:
        """The next way-point of its way to fail."""
        tip, hole = truth["peg"][:3], truth["hole"][:3] + self._aside
        meant = self._expert.goal(state, {**truth, "hole": hole})
        pose = meant.pose.copy()
        lowest = state.pose[:3] + hole - tip
        self._asked += 1
        if self.kind == PLAY:
            pose[2] = max(pose[2], lowest[2] - self._depths[self._asked // LINGER % len(self._depths)])
        elif self.kind == "half-way":
            pose[2] = max(pose[2], lowest[2] - self._depth)
        elif self.kind == "above":
            pose[:3] = lowest + self._above
        elif self.kind == "astray":
            pose[:3] = self._astray
        return replace(meant, pose=pose)


class HeldOracle:
    """The scene's truth of every frame; the episode ends once it has been a success for `HOLD` frames.

    One of ``miss`` that means to fail, or plays, ends after ``steps``.
    """

    name = "oracle, held"

    def __init__(self, truth: Callable[[], Truth], miss: Miss, steps: int) -> None:
        self._truth, self._miss, self._steps = truth, miss, steps
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._held = self._done = 0

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """The truth; the observation is not looked at."""
        success = bool(self._truth()["success"])
        self._held = self._held + 1 if success else 0
        self._done += 1
        over = self._miss.kind != "" and self._done >= self._steps
        held = self._miss.kind != PLAY and self._held >= HOLD
        return Verdict(float(success), success, held or over)


class Kept:
    """Stores every episode whole, and notes in ``metrics`` what it came to, so that a stopped recording goes on."""

    def __init__(self, store: EpisodeStore, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics
        self._records: list[Record] = []

    def __call__(self, record: Record) -> None:
        self._records = [record] if isinstance(record, EpisodeStart) else [*self._records, record]
        if isinstance(record, Step) and (record.terminated or record.truncated):
            for kept in self._records:
                self._store.append(kept)
            self._metrics.write(record.episode, record.time, steps=record.step + 1, success=record.success)


def scene(wanted: Wanted) -> tuple[Task, Miss, GuardedRobot]:
    """The task with an expert that can fail, and its simulated arm, not connected."""
    task = load_task("peg_insertion")
    assert isinstance(task, Task) and task.expert is not None  # it is one of the project's own
    miss = Miss(task.expert)
    task = replace(task, expert=Expert(miss.goal, task.expert.distance), max_steps=80)
    return task, miss, GuardedRobot(MujocoDriver(task.scene, cameras=task.cameras))


def kinds(wanted: Wanted) -> list[str]:
    """What each episode means to do, failures and successes mixed."""
    some = [""] * wanted.successes + [MISSES[n % len(MISSES)] for n in range(wanted.failures)] + [PLAY] * wanted.play
    return [some[n] for n in np.random.default_rng(wanted.first_seed).permutation(len(some))]


def record(root: Path, wanted: Wanted) -> Path:
    """Record what is missing of a set of episodes into ``root``/NAME; returns that folder."""
    folder = root / wanted.name
    plan, done = kinds(wanted), len(read(folder / "metrics.jsonl"))
    if done >= len(plan):
        return folder
    task, miss, robot = scene(wanted)
    robot.connect()
    try:
        with EpisodeStore(folder) as store, progress(f"recording {wanted.name} (episodes)", len(plan)) as bar:
            _drive(task, miss, robot, plan, done, wanted, Kept(store, Metrics(folder / "metrics.jsonl")), bar.update)
    finally:
        robot.close()
    return folder


def _drive(
    task: Task,
    miss: Miss,
    robot: GuardedRobot,
    plan: list[str],
    done: int,
    wanted: Wanted,
    kept: Kept,
    tell: Callable[[int], None],
) -> None:
    robot.tighten(task.limits)

    def seeds() -> Iterator[int]:
        for number in range(done, len(plan)):
            tell(number)
            miss.draw(plan[number], np.random.default_rng([wanted.first_seed, number]))
            yield wanted.first_seed + number

    hand = OperatorConfig(mode="always")
    operator = ScriptedOperator(task, robot.state, robot.ground_truth, hand, np.random.default_rng(wanted.first_seed))
    clock = LockstepClock(1.0 / task.control_hz, robot.advance)
    env = build_env(
        task,
        robot,
        obs="pixels",
        clock=clock,
        judge=HeldOracle(robot.ground_truth, miss, wanted.steps),
        device=operator,
    )
    still = Decision(np.zeros(task.action_dim, np.float32))
    rollout(env, lambda obs: still, [kept], identity=Identity(wanted.name, first_episode=done), seeds=seeds())
