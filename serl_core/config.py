"""Typed configuration: frozen dataclasses with every field explained, checked when they are made.

The command line is derived from these classes; a task file in ``examples/tasks`` makes one `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from robot_servers.interface import Compliance, Limits, RobotState, nearest

Observation = Literal["state", "pixels"]
Preset = Literal["default", "plain", "rlpd"]  # of the learner; `serl_core.blueprint.PRESETS` says what each means
# The trunk is frozen and run once per frame, or in every update; or it is trained, from its weights or from scratch.
Vision = Literal["cached", "exact", "trained", "scratch"]
START_AFTER = 100  # online transitions before training starts
Truth = Mapping[str, Any]  # ground truth of a simulated scene: object poses (7,) and facts, "success" among them
AXES = ("x", "y", "z", "rx", "ry", "rz")


class ConfigError(ValueError):
    """A configuration that cannot work; the text says which field, why, and what would."""


@dataclass(frozen=True)
class Goal:
    """Where an expert wants the TCP (pose (7,), base frame) and the gripper (0 closed … 1 open) next."""

    pose: np.ndarray
    gripper: float


@dataclass(frozen=True)
class Expert:
    """How a scripted expert solves a task. Both functions are stateless, so that it can take over anywhere."""

    goal: Callable[[RobotState, Truth], Goal]  # the next way-point
    distance: Callable[[RobotState, Truth], float]  # metres of motion left; 0 when done


@dataclass(frozen=True)
class StartPose:
    """The pose in which episodes begin, and how far each axis may be off (uniform, ±)."""

    pose: tuple[float, ...]  # (7,) TCP pose, base frame
    noise: tuple[float, float, float] = (0.03, 0.03, 0.02)  # m
    turn: float = 0.0  # rad, about the TCP's z axis


@dataclass(frozen=True)
class Task:
    """One complete task: what the arm may do, what it sees, when it has succeeded.

    Raises `ConfigError` on values that cannot work.
    """

    name: str
    scene: str  # which simulated scene stands in for the real table
    max_steps: int  # time limit of an episode, in control steps; a truncation
    start: StartPose
    limits: Limits
    expert: Expert | None = None  # simulated scenes: how a script solves it
    privileged: Callable[[RobotState, Truth], np.ndarray] | None = None  # extra entries of "state" with --obs state
    goals: Callable[[np.random.Generator], np.ndarray] | None = None  # where the TCP has to go: (7,) for each episode
    rule: Callable[[RobotState], bool] | None = None  # whether a measured state is a success, for --judge rule
    goal_distance: float = 0.01  # m from the goal that counts as there
    goal_angle: float = 0.15  # rad, the same for the orientation
    privileged_dim: int = 0  # how many entries ``privileged`` returns: spaces are known before any robot is
    control_hz: float = 10.0
    axes: tuple[str, ...] = AXES  # which axes of the TCP twist the policy moves
    step_translation: float = 0.015  # m per step at action 1
    step_rotation: float = 0.1  # rad per step at action 1
    gripper: bool = True  # the policy opens and closes it; otherwise it stays as the reset left it
    start_gripper: float = 1.0  # opening at the start of an episode
    grasp_penalty: float = -0.02  # for each command that toggles the gripper
    compliance: Compliance = field(default_factory=Compliance)
    reset_compliance: Compliance = field(default_factory=Compliance)
    cameras: tuple[str, ...] = ("front", "wrist")
    joint_reset_every: int = 1
    discount: float = 0.97
    returns: tuple[float, float] = (0.0, 1.0)  # lowest and highest return: 1 at success, which ends the episode

    def __post_init__(self) -> None:
        for axis in self.axes:
            if axis not in AXES:
                raise ConfigError(f'task {self.name}: unknown axis "{axis}"{nearest(axis, AXES)}')
        if not 0 < self.discount < 1:
            raise ConfigError(f"task {self.name}: discount {self.discount} must lie between 0 and 1")
        if self.max_steps < 1 or self.control_hz <= 0:
            raise ConfigError(f"task {self.name}: max_steps and control_hz must be positive")
        if self.privileged is None and self.privileged_dim:
            raise ConfigError(f"task {self.name}: privileged_dim is {self.privileged_dim}, but privileged is None")

    @property
    def action_dim(self) -> int:
        """Size of an action: one entry per axis, and one for the gripper where it is learned."""
        return len(self.axes) + int(self.gripper)

    @property
    def grippers(self) -> int:
        """How many of the last entries of an action are grippers."""
        return int(self.gripper)

    @property
    def arms(self) -> tuple[Task, ...]:
        """What each arm does: this. `serl_core.pairs.PairTask` has two."""
        return (self,)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arms; a single one needs none."""
        return ("",)
