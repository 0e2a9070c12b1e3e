"""A script in a person's place: watches a simulated scene, pushes a device, corrects the policy like a person.

It emits device readings, never actions, so that everything between a SpaceMouse and the robot is
exercised. What it does depends only on what it sees: its rules and thresholds stay the same for a
whole run, so that help tapers off when the policy needs less of it and for no other reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robot_servers.geometry import delta_between
from robot_servers.interface import Array, RobotState
from serl_core.config import ConfigError, Goal, Task, Truth
from serl_core.envs.frames import axis_indices, axis_scales
from serl_core.pairs import AnyTask, PairExpert, States
from serl_core.teleop.device import BUTTONS, TWIST, Reading


@dataclass(frozen=True)
class OperatorConfig:
    """What kind of person it is. Fixed for a whole run. Steps are control steps, metres are of `Expert.distance`."""

    mode: Literal["always", "intervene", "never"] = "intervene"  # "always" demonstrates
    skill: float = 1.0  # 0–1: share of its judgements that are right
    noise: float = 0.05  # standard deviation of the hand's tremor on each axis, of the full range
    reaction: int = 2  # steps from what it sees to what its hand does
    speed: float = 0.7  # greatest |twist| of translation, and of rotation; people do not push to the end stop
    gain: float = 0.6  # share of the remaining way it asks for at once; less overshoots less
    misjudged: float = 1.0  # full steps by which a wrong judgement misses the goal, standard deviation per axis …
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)  # … about this, base frame: it always errs the same way
    judgement: int = 10  # steps for which a judgement, right or wrong, lasts
    stall_steps: int = 15  # takes over after so many steps without progress …
    stall_progress: float = 0.01  # … of at least this, m
    drift: float = 0.04  # takes over when the policy is this much farther away than it has been, m
    pace: float = 0.35  # share of its own full push by which it expects to get on in each step
    finish: int = 16  # steps that it allows itself beyond that; takes over when no more than those are left
    drive_steps: int = 8  # drives for at least so many steps …
    drive_progress: float = 0.04  # … and until the distance has shrunk by this, m

    def __post_init__(self) -> None:
        if not 0.0 <= self.skill <= 1.0 or not 0.0 < self.speed <= 1.0:
            raise ConfigError(f"operator: skill {self.skill} must lie in [0, 1] and speed {self.speed} in (0, 1]")
        if self.reaction < 0 or self.judgement < 1:
            raise ConfigError("operator: reaction must not be negative and a judgement lasts at least one step")


class Supervisor:
    """Decides when to help, from the distance to the goal alone. Pure logic; one `watch` per step.

    It steps in when the policy stalls, drifts away or runs out of time, and lets go once it has made
    things good; out of time, it drives on to the end. ``reason`` says why it drives: "stall",
    "drift", "time", or "" when it does not.
    """

    def __init__(self, config: OperatorConfig, max_steps: int, step: float) -> None:
        self._config = config
        self._max_steps = max_steps
        self._pace = config.pace * config.speed * step  # m per step
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self.reason = ""
        self._step = -1
        self._best = np.inf  # smallest distance since the episode, or the policy's turn, began
        self._mark = np.inf  # distance at the last noticeable progress …
        self._marked = 0  # … and its step
        self._since = 0  # step at which it took over
        self._from = np.inf  # distance at which it took over

    def watch(self, distance: float) -> bool:
        """Whether it drives in this step; ``distance`` is what is left, m."""
        self._step += 1
        if self.reason:
            self._consider_release(distance)
        else:
            self._consider_takeover(distance)
        return bool(self.reason)

    def _consider_takeover(self, distance: float) -> None:
        self._best = min(self._best, distance)
        if distance <= self._mark - self._config.stall_progress:
            self._mark, self._marked = distance, self._step
        self.reason = self._trouble(distance)
        self._since, self._from = self._step, distance

    def _trouble(self, distance: float) -> str:
        if self._max_steps - self._step < self._config.finish + distance / self._pace:
            return "time"
        if distance > self._best + self._config.drift:
            return "drift"
        return "stall" if self._step - self._marked >= self._config.stall_steps else ""

    def _consider_release(self, distance: float) -> None:
        driven = self._step - self._since
        good = driven >= self._config.drive_steps and distance <= self._from - self._config.drive_progress
        if self.reason != "time" and good:
            self.reason = ""
            self._best = self._mark = distance
            self._marked = self._step


class Hand:
    """One of its hands, on the device of one arm: how it pushes towards a goal."""

    def __init__(self, task: Task, config: OperatorConfig, rng: np.random.Generator) -> None:
        self._task = task
        self._config = config
        self._rng = rng
        self._used = np.zeros(TWIST, bool)
        self._used[axis_indices(task.axes)] = True
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._error = np.zeros(3)
        self._tremor = np.zeros(TWIST)

    def misjudge(self, wrong: bool) -> None:
        """A new judgement of where the goal is; right or ``wrong``."""
        config = self._config
        self._error = self._rng.normal(config.bias, config.misjudged, 3) * self._task.step_translation * wrong

    def push(self, state: RobotState, goal: Goal) -> tuple[Array, tuple[bool, bool]]:
        """Twist (6,) towards the goal, as far as the hand goes; the gripper's button until it is where it should be."""
        aim = goal.pose.copy()
        aim[:3] += self._error
        twist = self._config.gain * delta_between(state.pose, aim) / axis_scales(self._task) * self._used
        twist = np.concatenate([_limited(part, self._config.speed) for part in (twist[:3], twist[3:])])
        fresh = self._rng.normal(0.0, self._config.noise, TWIST) * self._used
        self._tremor = 0.6 * self._tremor + 0.8 * fresh  # keeps the variance of ``fresh``
        return np.clip(twist + self._tremor, -1.0, 1.0), self._buttons(state, goal)

    def _buttons(self, state: RobotState, goal: Goal) -> tuple[bool, bool]:
        if not self._task.gripper or self._error.any():
            return False, False
        return goal.gripper < 0.5, goal.gripper >= 0.5 and state.gripper < 0.9


class ScriptedOperator:
    """Satisfies `Device`. ``state`` and ``truth`` are its eyes; ``rng`` its errors and its tremor.

    ``states``: those of a task's further arms, each of which has one of its hands. Raises `ConfigError` for a task
    without an expert.
    """

    def __init__(
        self,
        task: AnyTask,
        state: Callable[[], RobotState],
        truth: Callable[[], Truth],
        config: OperatorConfig,
        rng: np.random.Generator,
        *states: Callable[[], RobotState],
    ) -> None:
        self._expert = _expert_of(task)
        self._states = (state, *states)
        self._truth = truth
        self._config = config
        self._rng = rng
        self._supervisor = Supervisor(config, task.max_steps, min(arm.step_translation for arm in task.arms))
        self._hands = [Hand(arm, config, rng) for arm in task.arms]
        self._rest = Reading(np.zeros(TWIST * len(task.arms)), (False,) * (BUTTONS * len(task.arms)))
        self.reset()

    @property
    def reason(self) -> str:
        """Why it means to drive: "stall", "drift", "time", "demonstration", or "" when it does not."""
        return "demonstration" if self._config.mode == "always" else self._supervisor.reason

    def reset(self) -> None:
        """An episode begins. A person who demonstrates begins when ready, without a reaction time."""
        self._supervisor.reset()
        self._step = 0
        for hand in self._hands:
            hand.reset()
        self._coming: deque[Reading] = deque()

    def read(self) -> Reading:
        """What its hands do now: what it meant to do ``reaction`` steps ago. Called once per step."""
        if self._config.mode == "never":
            return self._rest
        meant = self._mean(tuple(state() for state in self._states), self._truth())
        if not self._coming:
            first = meant if self._config.mode == "always" else self._rest
            self._coming.extend([first] * self._config.reaction)
        self._coming.append(meant)
        self._step += 1
        return self._coming.popleft()

    def _mean(self, states: States, truth: Truth) -> Reading:
        if self._step % self._config.judgement == 0:
            wrong = bool(self._rng.random() >= self._config.skill)
            for hand in self._hands:
                hand.misjudge(wrong)
        drives = self._config.mode == "always" or self._supervisor.watch(self._expert.distance(states, truth))
        return self._push(states, self._expert.goals(states, truth)) if drives else self._rest

    def _push(self, states: States, goals: tuple[Goal, ...]) -> Reading:
        pushes = [hand.push(state, goal) for hand, state, goal in zip(self._hands, states, goals, strict=True)]
        buttons = tuple(button for _, pressed in pushes for button in pressed)
        return Reading(np.concatenate([twist for twist, _ in pushes]), buttons)


def _expert_of(task: AnyTask) -> PairExpert:
    """The task's expert, as one of several arms. Raises `ConfigError` for a task without."""
    expert = task.expert
    if expert is None:
        raise ConfigError(f"task {task.name}: has no expert that the scripted operator could be")
    if isinstance(expert, PairExpert):
        return expert
    return PairExpert(
        lambda states, truth: (expert.goal(states[0], truth),),
        lambda states, truth: expert.distance(states[0], truth),
    )


def _limited(vector: Array, bound: float) -> Array:
    norm = float(np.linalg.norm(vector))
    return vector * (bound / norm) if norm > bound else vector
