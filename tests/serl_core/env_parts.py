"""A small task on an arm without physics, shared by the tests of environment and operator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotState
from serl_core.clock import LockstepClock
from serl_core.config import Expert, Goal, StartPose, Task, Truth
from serl_core.envs.frames import point_in_tcp_frame
from serl_core.teleop.device import Reading

DOWN = HOME[3:]
REACHED = 0.01  # m


def goal(state: RobotState, truth: Truth) -> Goal:
    return Goal(np.concatenate([truth["object"][:3], DOWN]), 1.0)


def distance(state: RobotState, truth: Truth) -> float:
    return float(np.linalg.norm(state.pose[:3] - truth["object"][:3]))


REACH = Task(
    name="reach",
    scene="",
    max_steps=60,
    start=StartPose((0.5, 0.0, 0.4, *DOWN), noise=(0.02, 0.02, 0.02)),
    limits=replace(LIMITS),
    expert=Expert(goal, distance),
    privileged=lambda state, truth: point_in_tcp_frame(state.pose, truth["object"][:3]),
    privileged_dim=3,
    axes=("x", "y", "z"),
    cameras=("front",),
)


class Arm:
    """A fake arm behind its guard, with the truth of the reaching task."""

    def __init__(self, cameras: tuple[str, ...] = (), lag: float = 0.03) -> None:
        self.driver = FakeDriver(cameras=cameras, lag=lag)
        self.robot = GuardedRobot(self.driver)
        self.robot.connect()

    def clock(self, task: Task = REACH) -> LockstepClock:
        return LockstepClock(1.0 / task.control_hz, self.robot.advance)

    def truth(self) -> Truth:
        truth = dict(self.robot.ground_truth())
        truth["success"] = distance(self.robot.state(), truth) < REACHED
        return truth


@dataclass
class Hand:
    """A device that plays back readings; then it rests."""

    readings: list[Reading] = field(default_factory=list)
    resets: int = 0

    def reset(self) -> None:
        self.resets += 1

    def read(self) -> Reading:
        return self.readings.pop(0) if self.readings else Reading(np.zeros(6))


def push(*twist: float, **changes) -> Reading:
    """A reading with these first entries of the twist."""
    return replace(Reading(np.pad(np.array(twist), (0, 6 - len(twist)))), **changes)
