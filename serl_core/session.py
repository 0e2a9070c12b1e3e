"""A robot ready for a task: connected, its metadata checked before anything moves, wrapped as an environment."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
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
from serl_core.envs.pair_env import Local, same_clock
from serl_core.envs.rewards import Judge, OracleJudge, PersonJudge, PoseJudge
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.pairs import AnyTask
from serl_core.teleop.conditions import DeviceExpert, Intervening, Rule
from serl_core.teleop.console import Said
from serl_core.teleop.device import Device
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator

log = logging.getLogger(__name__)

UNITS = "SI; quaternions scalar-last (x, y, z, w); robot base frame; actions in [-1, 1]"
LEASE_WAIT = 40.0  # s; outlives the lease of a client that was killed, on either clock


@dataclass(frozen=True)
class Session:
    """A connected robot, the clock that makes its control periods pass, and the ground truth if it is simulated.

    ``partners``: the robots of a task's further arms; then ``truth`` holds that of each arm by its name, and ``local``
    maps the time of each server to one clock.
    """

    robot: Robot
    clock: Clock
    truth: Callable[[], Truth] | None
    partners: tuple[Robot, ...] = ()
    local: tuple[Local, ...] = ()


@contextlib.contextmanager
def connected(
    task: AnyTask,
    obs: Observation,
    address: str,
    truth_address: str | None = None,
    patience: float = LEASE_WAIT,
    keys: ClientKeys | None = None,
) -> Iterator[Session]:
    """Own the robot at ``address`` for one task, bound by the task's limits, until the end of the block.

    ``truth_address`` is that of its privileged channel; of two arms both are LEFT,RIGHT. Raises RobotError within
    5 s if nobody answers, if the robot does not fit the task, or if another client still owns it after ``patience`` s.
    """
    addresses = _for_each_arm(task, address, "robot")
    truths = None if truth_address is None else _for_each_arm(task, truth_address, "ground truth")
    with contextlib.ExitStack() as stack:
        robots = []
        for arm, where in zip(task.arms, addresses, strict=True):
            robot = RobotClient(where, keys=keys)
            robot.connect()
            stack.callback(robot.close)
            check_metadata(arm, obs, robot.metadata, where)
            robots.append(robot)
        clock = _clock(robots, task)
        for arm, robot, where in zip(task.arms, robots, addresses, strict=True):
            _take(robot, arm, where, patience)
        truth = None if truths is None else _truth(stack, task, truths, keys)
        yield Session(robots[0], clock, truth, tuple(robots[1:]), tuple(map(_local, robots)))


def _for_each_arm(task: AnyTask, text: str, what: str) -> list[str]:
    addresses = text.split(",")
    if len(addresses) != len(task.arms):
        wanted = ",".join(name.upper() or "ADDRESS" for name in task.names)
        raise ConfigError(f"the task {task.name} needs the {what} as {wanted}, not {text}")
    return addresses


def _truth(
    stack: contextlib.ExitStack, task: AnyTask, addresses: Sequence[str], keys: ClientKeys | None
) -> Callable[[], Truth]:
    """The ground truth of the only arm, or that of each by its name and "success"."""
    clients = [TruthClient(address, keys=keys) for address in addresses]
    for client in clients:
        stack.callback(client.close)
    return together(task, [client.ground_truth for client in clients])


def together(task: AnyTask, truths: Sequence[Callable[[], Truth]]) -> Callable[[], Truth]:
    """The ground truths of a task's arms as one: the only one's, or each by its arm's name, and "success"."""
    if len(truths) == 1:
        return truths[0]

    def ask() -> Truth:
        found = {name: truth() for name, truth in zip(task.names, truths, strict=True)}
        return {**found, "success": found[task.names[0]]["success"]}

    return ask


def _local(robot: RobotClient) -> Local:
    """Server time → this process's. Simulated time is the same at every arm of a simulation."""
    if robot.metadata.clock == "lockstep":
        return same_clock
    return lambda seconds: seconds - robot.offset.seconds


def make_env(
    session: Session,
    task: AnyTask,
    obs: Observation,
    operator: OperatorConfig | None,
    seed: int,
    *,
    device: Device | None = None,
    takeover: TakeoverConfig | None = None,
    said: Callable[[], Sequence[Said]] | None = None,
    judge: Judge | None = None,
    judged: bool = True,
    stop: Callable[[], bool] = lambda: False,
    rule: Rule | None = None,
) -> gym.Env[Any, Any]:
    """The task's environment, with the scripted operator or a person at the ``device``, of which one at most is given.

    A person's verdicts among what was ``said`` go before those of ``judge``, or without one of `_judge`; neither is
    asked unless ``judged``. A script's pushes are not eased: it does not startle, and what was measured with it stays
    comparable. ``stop`` ends the waits of a reset. ``rule``: the script is an expert of a study, whose actions replace
    the policy's where the rule says so.
    """
    goal = EpisodeGoal(task.goals) if isinstance(task, Task) and task.goals else None
    truth = goal.truth if goal else session.truth
    if operator is not None:
        device, takeover = scripted_device(session, task, truth, operator, seed), TakeoverConfig(ease=0)
    judge = (judge or _judge(session, task, goal)) if judged else None
    env = build_env(
        task,
        session.robot,
        *session.partners,
        obs=obs,
        clock=session.clock,
        truth=truth,
        judge=judge if said is None else PersonJudge(said, judge),
        device=device if rule is None else None,
        takeover=takeover,
        goal=goal,
        local=session.local,
        stop=stop,
    )
    return env if rule is None or device is None else Intervening(env, DeviceExpert(task, device), rule)


def scripted_device(
    session: Session, task: AnyTask, truth: Callable[[], Truth] | None, operator: OperatorConfig, seed: int
) -> ScriptedOperator:
    """The scripted operator at ``session``. Raises `ConfigError` without a ground truth to see."""
    if truth is None:
        raise ConfigError("the scripted operator sees the simulated scene: give its ground truth, --truth ADDRESS")
    others = [robot.state for robot in session.partners]
    return ScriptedOperator(task, session.robot.state, truth, operator, np.random.default_rng(seed), *others)


def _judge(session: Session, task: AnyTask, goal: EpisodeGoal | None) -> Judge | None:
    """Who judges beside a person: a task that has goals is judged by them, else the oracle does where there is one."""
    if isinstance(task, Task) and goal is not None:
        return PoseJudge(goal.pose, task.goal_distance, task.goal_angle)
    return OracleJudge(session.truth) if session.truth else None


def episode_meta(session: Session, task: AnyTask, obs: Observation) -> dict[str, Any]:
    """What is kept with every episode: enough to know, years later, what was recorded on what."""
    partners = [asdict(robot.metadata) for robot in session.partners]
    meta = {"task": task.name, "obs": obs, "units": UNITS, "robot": asdict(session.robot.metadata)}
    return {**meta, "partners": partners} if partners else meta


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


def _clock(robots: Sequence[Robot], task: AnyTask) -> Clock:
    """The clock that the servers run on, at the task's control rate; simulated arms share theirs."""
    period = 1.0 / task.control_hz
    clocks = {robot.metadata.clock for robot in robots}
    if len(clocks) > 1:
        raise RobotError(f"one arm of the task {task.name} runs in real time, the other in lockstep: start both alike")
    return LockstepClock(period, robots[0].advance) if "lockstep" in clocks else RealtimeClock(period)


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
