"""A robot ready for a task: connected, its metadata checked before anything moves, wrapped as an environment."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from robot_servers.client import RobotClient, TruthClient
from robot_servers.interface import CommandRefused, Limits, Metadata, NotOwner, Robot, RobotError
from robot_servers.keys import ClientKeys
from serl_core.clock import Clock, LockstepClock, RealtimeClock
from serl_core.config import ConfigError, Observation, Task, Truth
from serl_core.envs.build import build_env
from serl_core.envs.goals import EpisodeGoal
from serl_core.envs.rewards import Judge, OracleJudge, PoseJudge
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator

log = logging.getLogger(__name__)

UNITS = "SI; quaternions scalar-last (x, y, z, w); robot base frame; actions in [-1, 1]"
LEASE_WAIT = 40.0  # s; outlives the lease of a client that was killed, on either clock


@dataclass(frozen=True)
class Session:
    """A connected robot, the clock that makes its control periods pass, and the ground truth if it is simulated."""

    robot: Robot
    clock: Clock
    truth: Callable[[], Truth] | None


@contextlib.contextmanager
def connected(
    task: Task,
    obs: Observation,
    address: str,
    truth_address: str | None = None,
    patience: float = LEASE_WAIT,
    keys: ClientKeys | None = None,
) -> Iterator[Session]:
    """Own the robot at ``address`` for one task, bound by the task's limits, until the end of the block.

    ``truth_address`` is that of its privileged channel. Raises RobotError within 5 s if nobody answers, if
    the robot does not fit the task, or if another client still owns it after ``patience`` s.
    """
    robot = RobotClient(address, keys=keys)
    robot.connect()
    with contextlib.ExitStack() as stack:
        stack.callback(robot.close)
        check_metadata(task, obs, robot.metadata, address)
        _take(robot, task, address, patience)
        truth = None
        if truth_address is not None:
            client = TruthClient(truth_address, keys=keys)
            stack.callback(client.close)
            truth = client.ground_truth
        yield Session(robot, _clock(robot, task), truth)


def make_env(
    session: Session, task: Task, obs: Observation, operator: OperatorConfig | None, seed: int
) -> gym.Env[Any, Any]:
    """The task's environment, with the scripted operator at the device.

    A task that has goals is judged by them and needs no ground truth; else the oracle judges where there is one.
    """
    goal = EpisodeGoal(task.goals) if task.goals else None
    truth = goal.truth if goal else session.truth
    device = None
    if operator is not None:
        if truth is None:
            raise ConfigError("the scripted operator sees the simulated scene: give its ground truth, --truth ADDRESS")
        device = ScriptedOperator(task, session.robot.state, truth, operator, np.random.default_rng(seed))
    judge = PoseJudge(goal.pose, task.goal_distance, task.goal_angle) if goal else _oracle(session)
    return build_env(
        task, session.robot, obs=obs, clock=session.clock, truth=truth, judge=judge, device=device, goal=goal
    )


def _oracle(session: Session) -> Judge | None:
    return OracleJudge(session.truth) if session.truth else None


def episode_meta(session: Session, task: Task, obs: Observation) -> dict[str, Any]:
    """What is kept with every episode: enough to know, years later, what was recorded on what."""
    return {"task": task.name, "obs": obs, "units": UNITS, "robot": asdict(session.robot.metadata)}


def _take(robot: Robot, task: Task, address: str, patience: float) -> None:
    """Take the lease with the task's limits, which bind at the robot from now on."""
    try:
        _wait_for_lease(robot, task.limits, patience)
    except NotOwner:
        raise
    except CommandRefused as error:
        raise RobotError(
            f"the limits of the task {task.name} reach beyond those of the server at {address}: {error}; "
            "change the task's: a server's limits are never loosened by its users"
        ) from error


def _wait_for_lease(robot: Robot, limits: Limits, patience: float) -> None:
    """Own the robot with these limits. Raises NotOwner if another client still does after ``patience`` s."""
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return robot.tighten(limits)
        except NotOwner as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.warning("waiting up to %.0f s: %s", patience, error)
            told = True
        time.sleep(0.5)


def _clock(robot: Robot, task: Task) -> Clock:
    """The clock that the server runs on, at the task's control rate."""
    period = 1.0 / task.control_hz
    return LockstepClock(period, robot.advance) if robot.metadata.clock == "lockstep" else RealtimeClock(period)


def _check_rates(task: Task, metadata: Metadata, where: str) -> None:
    cycles = metadata.cycle_hz / task.control_hz
    if round(cycles) < 1 or not math.isclose(cycles, round(cycles)):
        raise RobotError(
            f"{where} runs {metadata.cycle_hz:g} cycles a second, of which the control_hz {task.control_hz:g} of the "
            f"task {task.name} must be a whole fraction: change the task's"
        )
    if 1.0 / task.control_hz >= task.limits.watchdog:
        raise RobotError(
            f"the task {task.name} commands every {1.0 / task.control_hz:g} s (control_hz {task.control_hz:g}), but "
            f"the watchdog of its limits holds the arm after {task.limits.watchdog:g} s: change one of them"
        )


def check_metadata(task: Task, obs: Observation, metadata: Metadata, address: str) -> None:
    """Raise RobotError if the robot at ``address`` cannot do the task, saying what to change."""
    where = f"the server at {address}"
    if metadata.scene and metadata.scene != task.scene:
        raise RobotError(
            f'{where} simulates the scene "{metadata.scene}", the task {task.name} needs "{task.scene}": '
            f"start it with --scene {task.scene}"
        )
    _check_rates(task, metadata, where)
    missing = [name for name in task.cameras if name not in metadata.cameras]
    if obs == "pixels" and missing:
        raise RobotError(
            f"{where} has no camera {', '.join(missing)} (it has: {', '.join(metadata.cameras) or 'none'}), "
            f"which the task {task.name} sees with: start it with --cameras {' '.join(task.cameras)}"
        )
