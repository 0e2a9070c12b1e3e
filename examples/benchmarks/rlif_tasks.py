"""The three tasks of the study and their experts, each in this process, without sockets.

Two are the simulated arm's behind its guard, under the lockstep clock, exactly as a server would run it; the third is
Gymnasium's Reacher. An expert errs by misjudging, for a whole episode, where the goal is, and always in the same
direction (`serl_core.teleop.conditions.expert_of`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from examples.benchmarks.rlif_reacher import ACTIONS, ENTRIES, MAX_STEPS, ReacherEnv, ReacherExpert, ReacherSkill
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from serl_core.clock import LockstepClock
from serl_core.envs.robot_env import observation_space
from serl_core.session import Session, make_env
from serl_core.tasks import load_task
from serl_core.teleop.conditions import SKILL, DeviceExpert, Expert, Level, expert_of
from serl_core.teleop.scripted import ScriptedOperator

TaskName = Literal["pick_cube", "peg_insertion", "reacher"]
LEVELS: tuple[Level, ...] = ("poor", "medium", "good")


@dataclass(frozen=True)
class StudyTask:
    """What networks and replay need to know of a task before anything is opened."""

    name: TaskName
    observation: int  # entries of "state"
    action_dim: int
    grippers: int
    discount: float  # of the task reward
    max_steps: int
    demonstrations: int  # episodes before it: 700 to 1 400 steps

    def example(self) -> dict[str, np.ndarray]:
        """Zeros in the shape of one observation."""
        return {"state": np.zeros(self.observation, np.float32)}


@dataclass(frozen=True)
class World:
    """An opened task: the judged environment without anybody helping, and its experts."""

    env: gym.Env[Any, Any]
    expert: Callable[[Level, np.random.Generator], Expert]


def study_task(name: TaskName) -> StudyTask:
    """The facts of a task by its name; opens nothing."""
    if name == "reacher":
        return StudyTask(name, ENTRIES, ACTIONS, 0, 0.95, MAX_STEPS, 100)
    task = load_task(name)
    shape = observation_space(task, "state")["state"].shape
    assert shape is not None  # a Box has one
    return StudyTask(name, shape[0], task.action_dim, task.grippers, task.discount, task.max_steps, 20)


@contextlib.contextmanager
def opened(name: TaskName) -> Iterator[World]:
    """The task, open until the end of the block."""
    if name == "reacher":
        env = ReacherEnv()
        yield World(env, lambda level, rng: ReacherExpert(ReacherSkill(SKILL[level]), rng))
        env.close()
        return
    with in_this_process(name) as session:
        task = load_task(name)
        state, truth = session.robot.state, session.truth
        assert truth is not None  # a simulation has one

        def expert(level: Level, rng: np.random.Generator) -> Expert:
            return DeviceExpert(task, ScriptedOperator(task, state, truth, expert_of(level), rng))

        yield World(make_env(session, task, "state", None, seed=0), expert)


@contextlib.contextmanager
def in_this_process(name: str, cameras: tuple[str, ...] = ()) -> Iterator[Session]:
    """The simulated arm of a task behind its guard, bound by the task's limits, under the lockstep clock.

    Pictures of the ``cameras`` are rendered when they are asked for.
    """
    task = load_task(name)
    robot = GuardedRobot(MujocoDriver(task.arms[0].scene, cameras=cameras))
    robot.connect()
    try:
        robot.tighten(task.arms[0].limits)
        yield Session(robot, LockstepClock(1.0 / task.control_hz, robot.advance), robot.ground_truth)
    finally:
        robot.close()
