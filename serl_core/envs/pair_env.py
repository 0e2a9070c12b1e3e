"""Two robots as one Gymnasium environment: commanded before the same tick, seen at one instant, stopped together.

Each robot has its own server, guard and lease; this is where they are paired. The environment gives no reward and
never terminates: a judge does (`serl_core.envs.rewards`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from robot_servers.interface import Applied, NotOwner, Robot, RobotError, RobotState
from serl_core.clock import Clock
from serl_core.config import Observation, Truth
from serl_core.envs.actions import check_action, split_action
from serl_core.envs.arm import PROPRIOCEPTION, Arm
from serl_core.envs.resetting import Resetter, end_together
from serl_core.envs.robot_env import action_space, check_truth, observation_space
from serl_core.pairs import PairTask, States

log = logging.getLogger(__name__)

Local = Callable[[float], float]  # s of a server's clock → s of a clock that both arms share


def same_clock(seconds: float) -> float:
    """For servers that share a clock, as two arms of one simulation do."""
    return seconds


def state_layout(task: PairTask, obs: Observation) -> dict[str, slice]:
    """Where "state" holds what: "left" and "right" (`proprioception`, gripper command), then "objects"."""
    layout, at = {}, 0
    for name, arm in zip(task.names, task.arms, strict=True):
        layout[name] = slice(at, at + PROPRIOCEPTION + arm.grippers)
        at = layout[name].stop
    return {**layout, "objects": slice(at, at + (task.privileged_dim if obs == "state" else 0))}


class PairEnv(gym.Env[Any, Any]):
    """One task on two robots, ``robots`` in the order of its arms, both connected and owned.

    ``local`` maps each server's time to a common clock; the states of both arms must lie within the task's
    ``max_skew`` of each other there. ``truth`` gives each arm's by its name and is read only if ``obs`` is "state".
    ``ask`` and ``stop`` as of `RobotEnv`.

    ``info`` of a step is that of `RobotEnv`, but: "target" (14,), left then right; "bends" name their arm; "states"
    in place of "state"; "gripper" (2,); "time" s of the left server; "skew" s between the two states; "sent" of the
    first command, "accepted" of the last. A robot that refuses or fails, and states too far apart, abort the episode:
    it is truncated and both arms hold. Where one was stopped, the other is stopped too.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium's own declaration is a mutable class attribute

    def __init__(
        self,
        robots: Sequence[Robot],
        task: PairTask,
        clock: Clock,
        obs: Observation,
        truth: Callable[[], Truth] | None = None,
        ask: Callable[[str], None] | None = None,
        local: Sequence[Local] = (same_clock, same_clock),
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        check_truth(task, obs, truth)
        self.observation_space = observation_space(task, obs)
        self.action_space = action_space(task)
        self._task = task
        self._clock = clock
        self._obs: Observation = obs
        self._truth = truth if obs == "state" else None
        self._local = tuple(local)
        self._arms = tuple(Arm(*each) for each in zip(robots, task.arms, task.names, strict=True))
        self._resetter = Resetter(self._arms, clock, ask, stop)
        self._steps = 0
        self._skew = 0.0
        self._observation: dict[str, npt.NDArray[Any]] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Reset scene and arms, as `Resetter.reset` says. Raises RobotError if a robot does not get there."""
        super().reset(seed=seed)
        self._resetter.reset(self.np_random)
        self._steps = 0
        states = self._measure()
        for arm, state in zip(self._arms, states, strict=True):
            arm.begin(state)
        self._observe(states)
        return self._observation, self._info([Applied(state.pose, None) for state in states])

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Command both, let one control period pass, observe. Raises ValueError for what cannot be meant."""
        if any(arm.state is None for arm in self._arms):
            raise RobotError("step before the first reset: call reset()")
        check_action(self._task, action)
        self._steps += 1
        try:
            parts = split_action(self._task, action)
            applied = [arm.command(part) for arm, part in zip(self._arms, parts, strict=True)]
            self._tick()
            self._observe(self._measure())
        except RobotError as error:
            return self._aborted(error)
        return self._observation, 0.0, False, self._steps >= self._task.max_steps, self._info(applied)

    def _tick(self) -> None:
        try:
            self._clock.tick()
        except NotOwner:  # only the first arm's server is asked to let time pass
            self._arms[0].lost = True
            raise

    def _aborted(self, error: RobotError) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """The end of an episode that cannot go on: both robots hold, the last observation stands."""
        reason = str(error)
        end_together(self._arms, f"episode aborted: {reason}")
        log.warning("episode aborted after %d steps: %s", self._steps, reason)
        applied = [Applied(state.pose, None) for state in self._states()]
        return self._observation, 0.0, False, True, {**self._info(applied), "bent": True, "abort": reason}

    # ── observing ──

    def _states(self) -> States:
        return tuple(arm.state for arm in self._arms if arm.state is not None)

    def _measure(self) -> States:
        """Both arms at one instant. Raises `RobotError` where the states lie too far apart, twice in a row."""
        states = self._read()
        if not self._skew <= self._task.max_skew:  # also catches nan
            states = self._read()  # one hiccup of a computer must not cost the episode
        if not self._skew <= self._task.max_skew:
            raise RobotError(
                f"the states of the arms lie {self._skew * 1e3:.1f} ms apart, more than {self._task.max_skew * 1e3:g} "
                "ms (max_skew): is a server or the network slow, or do two simulated arms not share a bench?"
            )
        return states

    def _read(self) -> States:
        """The newest state of each arm, one right after the other, and how far apart they are."""
        states = tuple(arm.measure() for arm in self._arms)
        times = [local(state.time) for local, state in zip(self._local, states, strict=True)]
        self._skew = max(times) - min(times)
        return states

    def _observe(self, states: States) -> None:
        parts = [part for arm, state in zip(self._arms, states, strict=True) for part in arm.seen(state)]
        if self._truth is not None and self._task.privileged is not None:
            parts.append(self._task.privileged(states, self._truth()))
        pictures = self._pictures(states) if self._obs == "pixels" else {}
        self._observation = {"state": np.concatenate(parts).astype(np.float32), **pictures}
        for arm, state in zip(self._arms, states, strict=True):
            arm.state = state

    def _pictures(self, states: States) -> dict[str, npt.NDArray[np.uint8]]:
        found: dict[str, npt.NDArray[np.uint8]] = {}
        for arm, state in zip(self._arms, states, strict=True):
            found |= arm.pictures(state.time)
        return found

    def _info(self, applied: Sequence[Applied]) -> dict[str, Any]:
        states: tuple[RobotState, ...] = self._states()
        bends = [(arm.name, bend) for arm, one in zip(self._arms, applied, strict=True) for bend in one.bends]
        return {
            "target": np.concatenate([one.pose for one in applied]),
            "bent": bool(bends),
            "bends": [[f"{name} {bend.limit}", bend.value, bend.bound] for name, bend in bends],
            "time": states[0].time,
            "states": states,
            "gripper": np.array([arm.gripper for arm in self._arms]),
            "skew": self._skew,
            "sent": min(arm.sent for arm in self._arms),
            "accepted": max(arm.accepted for arm in self._arms),
            "frame_age": max(arm.frame_age for arm in self._arms),
        }
