"""A task for two arms: two halves that are tasks of one arm each, and what only both together know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from robot_servers.interface import RobotState
from serl_core.config import ConfigError, Goal, Task, Truth

States = tuple[RobotState, ...]  # of the arms, in the order of `PairTask.arms`, at one instant


@dataclass(frozen=True)
class PairExpert:
    """How a scripted expert solves a task with several arms. Stateless, as `serl_core.config.Expert`.

    ``truth`` holds the ground truth of each arm, in its own base frame, by the arm's name.
    """

    goals: Callable[[States, Truth], tuple[Goal, ...]]  # the next way-point of each arm, in its own base frame
    distance: Callable[[States, Truth], float]  # metres of motion left; 0 when done


@dataclass(frozen=True)
class PairTask:
    """One task of two arms. Raises `ConfigError` where the halves do not fit together.

    ``left`` and ``right`` say what each arm may do and sees: start, limits, axes, gripper, compliance, cameras.
    Their own experts, goals, privileged entries and time limits are not looked at. An action holds the motion
    entries of the left arm, then of the right, then their grippers; see `serl_core.envs.actions`.
    """

    name: str
    scene: str  # which simulated scene stands in for the real table; of the halves: that, and which arm
    max_steps: int  # time limit of an episode, in control steps; a truncation
    left: Task
    right: Task
    expert: PairExpert | None = None  # simulated scenes: how a script solves it
    privileged: Callable[[States, Truth], np.ndarray] | None = None  # extra entries of "state" with --obs state
    privileged_dim: int = 0  # how many entries ``privileged`` returns
    max_skew: float = 0.02  # s that the two states of one observation may lie apart; more ends the episode
    discount: float = 0.97
    returns: tuple[float, float] = (0.0, 1.0)  # lowest and highest return: 1 at success, which ends the episode

    def __post_init__(self) -> None:
        if self.left.control_hz != self.right.control_hz:
            raise ConfigError(f"task {self.name}: both arms need the same control_hz")
        if not 0 < self.discount < 1 or self.max_steps < 1:
            raise ConfigError(f"task {self.name}: discount must lie between 0 and 1, and max_steps be positive")
        if self.privileged is None and self.privileged_dim:
            raise ConfigError(f"task {self.name}: privileged_dim is {self.privileged_dim}, but privileged is None")
        if not 0 < self.max_skew < 1.0 / self.control_hz:
            raise ConfigError(f"task {self.name}: max_skew must lie between 0 and the control period")

    @property
    def arms(self) -> tuple[Task, ...]:
        """The halves."""
        return self.left, self.right

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arms."""
        return "left", "right"

    @property
    def control_hz(self) -> float:
        """Of both arms."""
        return self.left.control_hz

    @property
    def action_dim(self) -> int:
        """Size of an action: the entries of both arms."""
        return self.left.action_dim + self.right.action_dim

    @property
    def grippers(self) -> int:
        """How many of the last entries of an action are grippers."""
        return self.left.grippers + self.right.grippers

    @property
    def cameras(self) -> tuple[str, ...]:
        """What either arm's server has to offer."""
        return tuple(dict.fromkeys((*self.left.cameras, *self.right.cameras)))

    @property
    def goals(self) -> None:
        """Two arms have no goal pose that is drawn for each episode: the ground truth judges."""
        return None


AnyTask: TypeAlias = Task | PairTask
