"""A robot ready for a task: connected, its metadata checked before anything moves, wrapped as an environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from robot_servers.client import RobotClient, TruthClient
from robot_servers.interface import Limits, Metadata, Robot, RobotError
from serl_core.clock import Clock, LockstepClock, RealtimeClock
from serl_core.config import ConfigError, Observation, Task, Truth
from serl_core.envs.build import build_env
from serl_core.envs.rewards import OracleJudge
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator


@dataclass(frozen=True)
class Session:
    """A connected robot, the clock that makes its control periods pass, and the ground truth if it is simulated."""

    robot: Robot
    clock: Clock
    truth: Callable[[], Truth] | None


@contextlib.contextmanager
def connected(task: Task, obs: Observation, address: str, truth_address: str | None = None) -> Iterator[Session]:
    """Connect to the server at ``address`` (and to its privileged channel, if given) for one task.

    Raises RobotError within 5 s if nobody answers, or if the server's metadata does not fit the task.
    """
    robot = RobotClient(address)
    robot.connect()
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        check_metadata(task, obs, robot.metadata, address)
        truth = None
        if truth_address is not None:
            client = TruthClient(truth_address)
            stack.callback(client.close)
            truth = client.ground_truth
        yield Session(robot, _clock(robot, task), truth)


def make_env(
    session: Session, task: Task, obs: Observation, operator: OperatorConfig | None, seed: int
) -> gym.Env[Any, Any]:
    """The task's environment: the oracle judges where there is one, and the scripted operator holds the device."""
    device = None
    if operator is not None:
        if session.truth is None:
            raise ConfigError("the scripted operator sees the simulated scene: give its ground truth, --truth ADDRESS")
        rng = np.random.default_rng(seed)
        device = ScriptedOperator(task, session.robot.state, session.truth, operator, rng)
    judge = OracleJudge(session.truth) if session.truth else None
    return build_env(task, session.robot, obs=obs, clock=session.clock, truth=session.truth, judge=judge, device=device)


def _clock(robot: Robot, task: Task) -> Clock:
    """The clock that the server runs on, at the task's control rate."""
    period = 1.0 / task.control_hz
    return LockstepClock(period, robot.advance) if robot.metadata.clock == "lockstep" else RealtimeClock(period)


def check_metadata(task: Task, obs: Observation, metadata: Metadata, address: str) -> None:
    """Raise RobotError if the robot at ``address`` cannot do the task, saying what to change."""
    where = f"the server at {address}"
    if metadata.scene and metadata.scene != task.scene:
        raise RobotError(
            f'{where} simulates the scene "{metadata.scene}", the task {task.name} needs "{task.scene}": '
            f"start it with --scene {task.scene}"
        )
    missing = [name for name in task.cameras if name not in metadata.cameras]
    if obs == "pixels" and missing:
        raise RobotError(
            f"{where} has no camera {', '.join(missing)} (it has: {', '.join(metadata.cameras) or 'none'}), "
            f"which the task {task.name} sees with: start it with --cameras {' '.join(task.cameras)}"
        )
    if not _contains(metadata.limits, task.limits):
        raise RobotError(
            f"the workspace box of the task {task.name} reaches beyond the limits of {where}: "
            "shrink the task's box; a server's limits are never loosened by its users"
        )


def _contains(outer: Limits, inner: Limits) -> bool:
    """Whether every position that ``inner`` allows is allowed by ``outer``."""
    low = np.all(np.asarray(inner.box_low) >= np.asarray(outer.box_low) - 1e-9)
    high = np.all(np.asarray(inner.box_high) <= np.asarray(outer.box_high) + 1e-9)
    return bool(low and high)
