"""A robot as a Gymnasium environment: one step is one control period.

The environment gives no reward and never terminates: a judge does (`serl_core.envs.rewards`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from robot_servers.geometry import pose_mul, rotvec_to_quat
from robot_servers.interface import (
    Applied,
    Array,
    Command,
    CommandRefused,
    JointReset,
    MoveTo,
    NotOwner,
    PlaceObjects,
    ResetStep,
    Robot,
    RobotError,
    RobotState,
    SetCompliance,
    SetGripper,
    Status,
)
from serl_core.clock import Clock
from serl_core.config import ConfigError, Observation, Task, Truth
from serl_core.envs.frames import action_to_delta, in_tcp_frame, next_target, relative_pose

log = logging.getLogger(__name__)

IMAGE = (128, 128, 3)  # height, width, RGB
PROPRIOCEPTION = 22  # entries of `proprioception` without the gripper command
RESET_TIMEOUT = 60.0  # s of control periods; a person who is asked something has as long as they need
MAX_FRAME_AGE = 0.5  # s; an older picture means that the camera has stopped
ROUNDING = 1e-6  # by which an action may exceed [−1, 1]


def observation_space(task: Task, obs: Observation) -> spaces.Dict:
    """What `RobotEnv` observes; needs no robot.

    "state" (n,) float32 is `proprioception`, then the last gripper command where it is learned (1 open,
    0 closed), then the task's privileged entries if ``obs`` is "state". With "pixels" there is one
    (128, 128, 3) uint8 RGB picture per camera of the task beside it.
    """
    size = PROPRIOCEPTION + int(task.gripper) + (task.privileged_dim if obs == "state" else 0)
    boxes: dict[str, spaces.Space[Any]] = {"state": spaces.Box(-np.inf, np.inf, (size,), np.float32)}
    if obs == "pixels":
        boxes |= {name: spaces.Box(0, 255, IMAGE, np.uint8) for name in task.cameras}
    return spaces.Dict(boxes)


def action_space(task: Task) -> spaces.Box:
    """(A,) float32 in [−1, 1]: one entry per controlled axis of the TCP twist, then the gripper if it is learned."""
    return spaces.Box(-1.0, 1.0, (task.action_dim,), np.float32)


def proprioception(origin: Array, state: RobotState) -> Array:
    """The arm's part of an observation (22,).

    ======= ===================================================== =================
    entries meaning                                               unit
    ======= ===================================================== =================
    0–2     TCP position in the episode's first TCP frame         m
    3–8     TCP rotation in that frame, two columns of the matrix –
    9–14    TCP velocity in the current TCP frame                 m/s, rad/s
    15–20   external force and torque, TCP frame                  N, Nm
    21      opening of the gripper                                0 closed … 1 open
    ======= ===================================================== =================
    """
    return np.concatenate(
        [
            relative_pose(origin, state.pose),
            in_tcp_frame(state.pose, state.vel),
            state.force,
            state.torque,
            [state.gripper],
        ]
    )


class RobotEnv(gym.Env[Any, Any]):
    """One task on one robot, which must be connected. ``truth`` is read only if ``obs`` is "state".

    ``ask`` is told once of every question that a reset puts to a person; without it the question is
    logged. Somebody then calls `Robot.confirm`.

    ``info`` of a step: "target" (7,) the TCP target the guard sent; "bent": whether one of the task's
    limits changed it; "bends": those limits, each with the value asked for and the bound; "time" s of the
    observation; "state": the `RobotState`; "gripper": the last command, 1 open, 0 closed; and "abort", the
    reason, if the robot refused or failed. An aborted step holds the robot, unless it is somebody else's
    by now, and truncates the episode; its observation is the one before it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium's own declaration is a mutable class attribute

    def __init__(
        self,
        robot: Robot,
        task: Task,
        clock: Clock,
        obs: Observation,
        truth: Callable[[], Truth] | None = None,
        ask: Callable[[str], None] | None = None,
    ) -> None:
        if obs == "state" and truth is None and task.privileged is not None:
            raise ConfigError(
                f"task {task.name}: observations of kind state hold the objects' true poses: "
                "give the simulation's ground truth, or use pixels"
            )
        self.observation_space = observation_space(task, obs)
        self.action_space = action_space(task)
        self._robot = robot
        self._task = task
        self._clock = clock
        self._obs: Observation = obs
        self._truth = truth if obs == "state" else None
        self._ask = ask or _log_question
        self._steps = 0
        self._start = np.array(task.start.pose)  # held by the axes that are not controlled
        self._gripper = task.start_gripper
        self._state: RobotState | None = None  # the newest measurement; None before the first reset
        self._origin = self._start
        self._observation: dict[str, npt.NDArray[Any]] = {}

    # ── gymnasium ──

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Reset scene and arm. Raises RobotError if the robot does not get there, or is somebody else's.

        After STOP, a user stop or a fault, also one on the way, it waits, as long as it takes, for the person who
        ends that, or for the arm where it recovers by itself; then it begins again.
        """
        super().reset(seed=seed)
        status = self._reset_arm()
        while _why_a_person(status):
            status = self._reset_arm()
        if status.mode not in ("idle", "moving"):
            raise RobotError(f"the reset ended in mode {status.mode}: {status.reason or 'no reason given'}")
        self._clock.tick()  # the arm comes to rest
        self._steps = 0
        self._gripper = self._task.start_gripper
        state = self._robot.state()
        self._origin = state.pose
        self._observe(state)
        return self._observation, self._info(Applied(state.pose, None))

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Command, let one control period pass, observe. Raises ValueError for an action that cannot be meant."""
        if self._state is None:
            raise RobotError("step before the first reset: call reset()")
        self._check(action)
        self._steps += 1
        try:
            applied = self._command(self._state, action)
            self._clock.tick()
            self._observe(self._robot.state())
        except RobotError as error:
            return self._aborted(error)
        return self._observation, 0.0, False, self._steps >= self._task.max_steps, self._info(applied)

    # ── acting ──

    def _check(self, action: npt.NDArray[np.float32]) -> None:
        if np.shape(action) != (self._task.action_dim,):
            raise ValueError(f"action has shape {np.shape(action)}, expected ({self._task.action_dim},)")
        names = (*self._task.axes, "gripper")
        for index, value in enumerate(np.asarray(action, np.float64).tolist()):
            if not abs(value) <= 1.0 + ROUNDING:  # also catches nan
                raise ValueError(f"action[{index}] ({names[index]}) is {value}, expected a number in [−1, 1]")

    def _command(self, state: RobotState, action: npt.NDArray[np.float32]) -> Applied:
        """Send the target that ``action`` asks for; returns what the guard made of it."""
        if self._task.gripper and abs(action[-1]) > 0.5:
            self._gripper = float(action[-1] > 0)
        delta = action_to_delta(self._task, action)
        asked = next_target(state.pose, self._start, delta, self._task.axes)
        gripper = self._gripper if self._task.gripper else None
        return self._robot.command(Command(asked, gripper, state.time))

    def _aborted(self, error: RobotError) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """The end of an episode that cannot go on: the robot holds, the last observation stands."""
        assert self._state is not None
        reason = str(error)
        if not isinstance(error, NotOwner):  # to hold is open to everyone: it would stop the new owner
            self._hold(f"episode aborted: {reason}")
        log.warning("episode aborted after %d steps: %s", self._steps, reason)
        info = {**self._info(Applied(self._state.pose, None)), "bent": True, "abort": reason}
        return self._observation, 0.0, False, True, info

    def _hold(self, reason: str) -> None:
        with contextlib.suppress(RobotError):  # a robot that cannot even be told to hold does so by its watchdog
            self._robot.hold(reason)

    # ── observing ──

    def _observe(self, state: RobotState) -> None:
        parts = [proprioception(self._origin, state)]
        if self._task.gripper:
            parts.append(np.array([self._gripper]))
        if self._truth is not None and self._task.privileged is not None:
            parts.append(self._task.privileged(state, self._truth()))
        pictures = self._pictures(state.time) if self._obs == "pixels" else {}
        self._observation = {"state": np.concatenate(parts).astype(np.float32), **pictures}
        self._state = state

    def _pictures(self, now: float) -> dict[str, npt.NDArray[np.uint8]]:
        """One picture per camera of the task. Raises RobotError if one is missing, old or of another size."""
        frames = self._robot.frames()
        for name in self._task.cameras:
            if name not in frames:
                raise RobotError(f"no picture from camera {name}; the robot has: {', '.join(frames) or 'none'}")
            if frames[name].image.shape != IMAGE:
                raise RobotError(f"camera {name}: pictures are {frames[name].image.shape}, expected {IMAGE}")
            if now - frames[name].time > MAX_FRAME_AGE:
                raise RobotError(f"camera {name}: the newest picture is {now - frames[name].time:.1f} s old")
        return {name: frames[name].image for name in self._task.cameras}

    def _info(self, applied: Applied) -> dict[str, Any]:
        assert self._state is not None
        return {
            "target": applied.pose,
            "bent": bool(applied.bends),
            "bends": [[bend.limit, bend.value, bend.bound] for bend in applied.bends],
            "time": self._state.time,
            "state": self._state,
            "gripper": self._gripper,
        }

    # ── resetting ──

    def _plan(self) -> tuple[ResetStep, ...]:
        """A reset as a list of steps that the server runs; draws scene and start pose from the seeded generator."""
        task = self._task
        scene = int(self.np_random.integers(2**31))
        self._start = self._draw_start()
        grip = (SetGripper(task.start_gripper),) if task.gripper else ()
        return (
            SetCompliance(task.reset_compliance),
            PlaceObjects(scene),  # before any motion: a simulation starts over, and nothing earlier matters
            *grip,  # lets go before the arm moves away
            *self._retreat(),
            JointReset(task.joint_reset_every),
            MoveTo(tuple(self._start.tolist())),
            SetCompliance(task.compliance),
        )

    def _retreat(self) -> tuple[ResetStep, ...]:
        """Straight up to the height of the start, out of whatever the TCP is in; a simulation starts over anyway."""
        pose, limits = self._robot.state().pose, self._task.limits
        if self._robot.metadata.scene or pose[2] >= self._start[2]:
            return ()
        pose = np.array([pose[0], pose[1], self._start[2], *pose[3:]])
        pose[:3] = np.clip(pose[:3], limits.box_low, limits.box_high)
        return (MoveTo(tuple(pose.tolist())),)

    def _draw_start(self) -> Array:
        start = self._task.start
        offset = self.np_random.uniform(-1.0, 1.0, 4) * np.array([*start.noise, start.turn])
        pose = np.array(start.pose)
        pose[:3] += offset[:3]
        turn = np.concatenate([np.zeros(3), rotvec_to_quat(np.array([0.0, 0.0, offset[3]]))])
        return pose_mul(pose, turn)

    def _reset_arm(self) -> Status:
        """One try: how it ended."""
        self._await_person()
        self._robot.tighten(self._task.limits)  # whoever made the robot: no episode without its task's limits
        try:
            self._robot.reset(self._plan())
        except CommandRefused:
            status = self._robot.status()
            if not _why_a_person(status):
                raise
            return status
        self._clock.start()
        return self._await_reset()

    def _await_person(self) -> None:
        """Wait while only a person may let the arm go on; say so once."""
        told = ""
        while (reason := _why_a_person(self._robot.status())) != "":
            if reason != told:
                self._ask(f"{reason}; when it is safe: serl recover")
            told = reason
            self._clock.tick()

    def _await_reset(self) -> Status:
        """The status when the reset has ended. If the wait itself ends, Ctrl-C included, the arm holds."""
        try:
            return self._wait_while_resetting()
        except NotOwner:
            raise
        except BaseException as error:
            self._hold(f"nobody waits for the reset any more: {error or type(error).__name__}")
            raise

    def _wait_while_resetting(self) -> Status:
        asked, waited = "", 0.0
        while (status := self._robot.status()).mode == "resetting":
            if status.waiting_for and status.waiting_for != asked:
                self._ask(status.waiting_for)
            asked = status.waiting_for
            waited += 0.0 if asked else self._clock.period
            if waited > RESET_TIMEOUT:
                raise RobotError(f"the reset is not done after {RESET_TIMEOUT:.0f} s: look what blocks the arm")
            self._clock.tick()
        return status


def _why_a_person(status: Status) -> str:
    """What only a person may end before the next episode, or an empty text."""
    if status.mode in ("stopped", "user-stopped", "fault"):
        return f"the robot is in mode {status.mode}: {status.reason}"
    return "" if status.mode == "resetting" else status.waiting_for


def _log_question(question: str) -> None:
    log.warning("the reset waits for a person: %s", question)
