"""One arm on its task, without time: it is told what to do, measured and reset; who owns the clock lets time pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from robot_servers.geometry import pose_mul, rotvec_to_quat
from robot_servers.interface import (
    Applied,
    Array,
    Command,
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
from serl_core.config import Task
from serl_core.envs.actions import labelled
from serl_core.envs.frames import action_to_delta, in_tcp_frame, next_target, relative_pose

IMAGE = (128, 128, 3)  # height, width, RGB
PROPRIOCEPTION = 22  # entries of `proprioception` without the gripper command
MAX_FRAME_AGE = 0.5  # s; an older picture means that the camera has stopped


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


class Arm:
    """``robot``, which must be connected, on its ``task``; ``name`` tells it from others, and is in every error.

    ``state`` is the newest measurement, valid after `begin`; ``gripper`` the last command, 1 open, 0 closed. ``lost``:
    it is somebody else's by now, so that it must not even be told to hold. ``sent`` and ``accepted``: when the last
    command was, s of ``now``; ``frame_age`` s by which the oldest of the newest pictures is older than its state.
    """

    def __init__(self, robot: Robot, task: Task, name: str = "", now: Callable[[], float] = time.monotonic) -> None:
        self.robot = robot
        self.task = task
        self.name = name
        self.lost = False
        self.gripper = task.start_gripper
        self.state: RobotState | None = None
        self.sent = self.accepted = 0.0
        self.frame_age = 0.0
        self._now = now
        self._start = np.array(task.start.pose)  # held by the axes that are not controlled
        self._origin = self._start
        self._own_hold: str | None = None  # why this program holds it; None: what holds it is from before

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors say which arm they are of, and whether it is still ours."""
        try:
            yield
        except RobotError as error:
            self.lost = isinstance(error, NotOwner)
            if not self.name:
                raise
            raise RobotError(f"{self.name} arm: {error}") from error

    # ── acting and observing ──

    def command(self, action: npt.NDArray[np.floating]) -> Applied:
        """Send the target that ``action`` (A,) asks for; returns what the guard made of it. Raises `RobotError`."""
        assert self.state is not None, "begin() comes first"
        if self.task.gripper and abs(action[-1]) > 0.5:
            self.gripper = float(action[-1] > 0)
        delta = action_to_delta(self.task, action)
        asked = next_target(self.state.pose, self._start, delta, self.task.axes)
        gripper = self.gripper if self.task.gripper else None
        self.sent = self._now()
        with self._named():
            applied = self.robot.command(Command(asked, gripper, self.state.time))
        self.accepted = self._now()
        return applied

    def measure(self) -> RobotState:
        """The robot's newest state, not yet this arm's. Raises `RobotError`."""
        with self._named():
            return self.robot.state()

    def begin(self, state: RobotState) -> None:
        """An episode begins with this measurement, as its origin."""
        self.gripper = self.task.start_gripper
        self.state, self._origin = state, state.pose

    def seen(self, state: RobotState) -> list[Array]:
        """The arm's entries of "state" for this measurement: `proprioception`, and the gripper command if learned."""
        gripper = [np.array([self.gripper])] if self.task.gripper else []
        return [proprioception(self._origin, state), *gripper]

    def pictures(self, now: float) -> dict[str, npt.NDArray[np.uint8]]:
        """One picture per camera of the task. Raises `RobotError` if one is missing, old or of another size."""
        with self._named():
            frames = self.robot.frames()
            for name in self.task.cameras:
                if name not in frames:
                    raise RobotError(f"no picture from camera {name}; the robot has: {', '.join(frames) or 'none'}")
                if frames[name].image.shape != IMAGE:
                    raise RobotError(f"camera {name}: pictures are {frames[name].image.shape}, expected {IMAGE}")
                if now - frames[name].time > MAX_FRAME_AGE:
                    raise RobotError(f"camera {name}: the newest picture is {now - frames[name].time:.1f} s old")
        self.frame_age = max((now - frames[name].time for name in self.task.cameras), default=0.0)
        return {labelled(self.name, name, "_"): frames[name].image for name in self.task.cameras}

    def hold(self, reason: str) -> None:
        """Stay here, unless it is somebody else's: to hold is open to everyone, and would stop the new owner.

        A hold that somebody else asked for stays theirs.
        """
        if self.lost:
            return
        with contextlib.suppress(RobotError):  # one that cannot even be told to hold does so by its watchdog
            if not self.held_by_others(self.robot.status()):
                self._own_hold = reason
                self.robot.hold(reason)

    def held_by_others(self, status: Status) -> str:
        """Why somebody else has held the arm since this program has it, or empty.

        What held it before is no matter: somebody has just started this program beside the arm.
        """
        if self._own_hold is None:
            self._own_hold = status.held
        return "" if self._own_hold.startswith(status.held) else status.held  # a server keeps no more than it wants

    # ── resetting ──

    def plan(self, rng: np.random.Generator, scene: int) -> tuple[ResetStep, ...]:
        """A reset as a list of steps that the server runs; draws the start pose. ``scene``: seed of the objects."""
        task = self.task
        self._start = self._draw_start(rng)
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
        pose, limits = self.robot.state().pose, self.task.limits
        if self.robot.metadata.scene or pose[2] >= self._start[2]:
            return ()
        pose = np.array([pose[0], pose[1], self._start[2], *pose[3:]])
        pose[:3] = np.clip(pose[:3], limits.box_low, limits.box_high)
        return (MoveTo(tuple(pose.tolist())),)

    def _draw_start(self, rng: np.random.Generator) -> Array:
        start = self.task.start
        offset = rng.uniform(-1.0, 1.0, 4) * np.array([*start.noise, start.turn])
        pose = np.array(start.pose)
        pose[:3] += offset[:3]
        turn = np.concatenate([np.zeros(3), rotvec_to_quat(np.array([0.0, 0.0, offset[3]]))])
        return pose_mul(pose, turn)
