"""An arm without physics: its pose follows the target with a first-order lag. For tests of everything above it.

It counts its cycles in ``state.q[0]`` and writes the same count into every camera image, so that a
consumer can assert that nothing was lost, repeated or reordered.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from robot_servers.geometry import quat_conj as inverse
from robot_servers.geometry import quat_mul, quat_normalise, quat_to_rotvec, rotvec_to_quat
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Health,
    Image,
    JointLimits,
    Limits,
    RobotError,
    RobotState,
    Tool,
)

HOME = (0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0)
LIMITS = Limits((0.25, -0.4, 0.02), (0.75, 0.4, 0.6), HOME[3:], tilt=1.2, step=0.1, turn=0.6)
GRIPPER_SPEED = 4.0  # openings per s
# q[0] counts cycles, so that no joint limit may bind
JOINTS = JointLimits((-1e12,) * 7, (1e12,) * 7, speed=(1e12,) * 7, acceleration=(1e12,) * 7)


def count_image(number: int, height: int, width: int) -> Image:
    """An image (height, width, 3) whose first eight bytes are ``number``; the rest depends on it too."""
    image = np.full((height, width, 3), number % 256, np.uint8)
    image.reshape(-1)[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
    return image


def image_count(image: Image) -> int:
    """The number that `count_image` wrote."""
    return int.from_bytes(image.reshape(-1)[:8].tobytes(), "little")


class FakeDriver:
    """Satisfies `Driver`. ``lag`` s is the time constant of the pose; ``now`` is the realtime clock.

    Faults on demand: set ``failure`` to an exception and the next cycle raises it; clear ``running``
    and the next cycle hangs until it is set again; set ``blocked`` and the arm stays where it is; set
    ``trouble`` and `health` reports it until `recover`; set ``force`` (3,) N and the state carries it.
    """

    name = "fake"
    tool = Tool()
    limits_enforced: Enforcer = "server"

    def __init__(
        self,
        scene: str = "",
        clock: ClockMode = "lockstep",
        cameras: tuple[str, ...] = (),
        cycle_hz: float = 100.0,
        lag: float = 0.03,
        limits: Limits = LIMITS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scene = scene
        self.clock: ClockMode = clock
        self.cycle_hz = cycle_hz
        self.home_q = (0.0,) * 7
        self.home_pose = HOME
        self.cameras: Mapping[str, tuple[int, int]] = dict.fromkeys(cameras, (128, 128))
        self.limits = limits
        self.failure: Exception | None = None
        self.running = threading.Event()
        self.running.set()
        self.blocked = False
        self.stops = 0  # calls of `stop`
        self.off = False  # since `stop`: nothing is tracked until `recover`
        self.guided = False
        self.trouble = Health()
        self.force = np.zeros(3)
        self.joint_limits = JOINTS
        self.compliance = Compliance()
        self._now = now
        self._gain = 1.0 - math.exp(-1.0 / (cycle_hz * lag))
        self._object = np.array(HOME)
        self._state: RobotState | None = None
        self._target = np.array(HOME)
        self._gripper = 1.0

    def connect(self) -> None:
        zero3, zero6, zero7 = np.zeros(3), np.zeros(6), np.zeros(7)
        self._state = RobotState(
            self._time(0), np.array(HOME), zero6, zero3, zero3, zero7, zero7, np.eye(6, 7), self._gripper
        )

    def close(self) -> None:
        self._state = None

    def state(self) -> RobotState:
        if self._state is None:
            raise RobotError("the fake arm is not connected: call connect()")
        return self._state

    def frames(self) -> dict[str, Frame]:
        state, count = self.state(), self.count
        return {name: Frame(count_image(count, *size), state.time, count) for name, size in self.cameras.items()}

    @property
    def count(self) -> int:
        """Cycles since connect."""
        return int(self.state().q[0])

    def health(self) -> Health:
        return self.trouble

    def track(self, pose: Array, gripper: float | None) -> None:
        self._target = pose
        self._gripper = self._gripper if gripper is None else gripper

    def stop(self) -> None:
        self.stops += 1
        self.off = True

    def recover(self) -> None:
        self.trouble, self.off = Health(), False
        self._target = self.state().pose

    def cycle(self) -> None:
        self.running.wait()
        if self.failure is not None:
            raise self.failure
        old = self.state()
        gain = 0.0 if self.blocked or self.off or self.guided or self.trouble.fault else self._gain
        turn = quat_to_rotvec(quat_mul(self._target[3:], inverse(old.pose[3:]))) * gain
        move = (self._target[:3] - old.pose[:3]) * gain
        orientation = quat_normalise(quat_mul(rotvec_to_quat(turn), old.pose[3:]))
        q = old.q.copy()
        q[0] += 1.0
        reach = GRIPPER_SPEED / self.cycle_hz
        self._state = replace(
            old,
            time=self._time(int(q[0])),
            pose=np.concatenate([old.pose[:3] + move, orientation]),
            vel=np.concatenate([move, turn]) * self.cycle_hz,
            q=q,
            force=self.force,
            gripper=old.gripper + min(reach, max(-reach, self._gripper - old.gripper)),
        )

    def set_compliance(self, compliance: Compliance) -> None:
        self.compliance = compliance

    def guide(self, on: bool) -> None:
        self.guided = on
        self._target = self.state().pose

    def preflight(self) -> tuple[Check, ...]:
        return (Check("fake arm", True, "there is no arm"),)

    def joint_reset(self) -> bool:
        if self.off:
            return False
        self._target = np.array(HOME)
        return float(np.linalg.norm(self.state().pose[:3] - self._target[:3])) < 1e-3

    def place_objects(self, seed: int) -> None:
        self._object = np.array(HOME)
        self._object[:2] += np.random.default_rng(seed).uniform(-0.1, 0.1, 2)

    def ground_truth(self) -> Mapping[str, Any]:
        """``object`` (7,) m where `place_objects` put it, ``count`` of cycles, ``success`` false."""
        return {"object": self._object.copy(), "count": self.count, "success": False}

    def _time(self, count: int) -> float:
        return count / self.cycle_hz if self.clock == "lockstep" else self._now()
