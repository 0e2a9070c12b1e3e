"""Who says how good a step was. The judge alone rewards and terminates; a time limit only truncates.

Judges by scores of pictures are in `serl_core.envs.scored`, which files they come from in `serl_core.judging`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import gymnasium as gym
import numpy as np

from robot_servers.geometry import quat_angle
from robot_servers.interface import Array, RobotState
from serl_core.config import Truth
from serl_core.teleop.console import Event, Said
from serl_core.types import Obs


@dataclass(frozen=True)
class Verdict:
    """What a judge says of the state a step led to. ``terminated``: nothing after it counts any more.

    ``ago``: of a success that was confirmed late, how many steps before this one it began; the episode then ends
    there, and what came after it is void.
    """

    reward: float
    success: bool
    terminated: bool
    ago: int = 0


NOTHING = Verdict(0.0, False, False)
SUCCESS = Verdict(1.0, True, True)
FAILURE = Verdict(0.0, False, True)


class Judge(Protocol):
    """Judges the state that a step led to, from what the environment shows."""

    @property
    def name(self) -> str:
        """Who judges the present episode, in which version; kept with the episode."""
        ...

    def reset(self) -> None:
        """An episode begins."""
        ...

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict: ...


@final
class OracleJudge:
    """Reward 1 and the end of the episode at success, read from a simulation's ground truth."""

    name = "oracle"

    def __init__(self, truth: Callable[[], Truth]) -> None:
        self._truth = truth

    def reset(self) -> None:
        """Nothing to forget."""

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Ask the ground truth; the observation is not looked at."""
        return SUCCESS if self._truth()["success"] else NOTHING


@final
class PoseJudge:
    """Reward 1 and the end of the episode where the measured TCP is at the goal: no ground truth, no camera.

    ``goal`` tells the present one, (7,); ``distance`` m and ``angle`` rad are how near is near enough.
    """

    name = "pose"

    def __init__(self, goal: Callable[[], Array], distance: float, angle: float) -> None:
        self._goal = goal
        self._distance = distance
        self._angle = angle

    def reset(self) -> None:
        """Nothing to forget."""

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Compare the pose of ``info["state"]`` with the goal."""
        pose, goal = info["state"].pose, self._goal()
        near = float(np.linalg.norm(pose[:3] - goal[:3])) <= self._distance
        return SUCCESS if near and quat_angle(pose[3:], goal[3:]) <= self._angle else NOTHING


@final
class RuleJudge:
    """Reward 1 and the end of the episode where a rule on the measured state holds (`serl_core.config.Task.rule`)."""

    name = "rule"

    def __init__(self, rule: Callable[[RobotState], bool]) -> None:
        self._rule = rule

    def reset(self) -> None:
        """Nothing to forget."""

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Ask the rule about ``info["state"]``."""
        return SUCCESS if self._rule(info["state"]) else NOTHING


@final
class PersonJudge:
    """A person's verdict, never waited for, goes before that of another judge; without either nothing is judged.

    ``said`` gives what was said since it was last asked, such as `serl_core.teleop.console.Console.poll`; where
    others listen too, whoever polls hands on what it heard.
    """

    def __init__(self, said: Callable[[], Sequence[Said]], other: Judge | None = None) -> None:
        self._said = said
        self._other = other

    @property
    def name(self) -> str:
        """Both of them."""
        return "person" if self._other is None else f"person, else {self._other.name}"

    def reset(self) -> None:
        """What was said of an episode that is over does not judge the next one."""
        self._said()
        if self._other is not None:
            self._other.reset()

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """The last verdict that was said during this step, else the other judge's."""
        verdict = NOTHING if self._other is None else self._other.judge(obs, info)
        for said in self._said():
            verdict = SPOKEN.get(said.event, verdict)
        return verdict


SPOKEN = {Event.SUCCESS: SUCCESS, Event.MISSED_SUCCESS: SUCCESS, Event.FAILURE: FAILURE}


class Judged(gym.Wrapper[Any, Any, Any, Any]):
    """Sets reward, terminated, ``info["success"]`` and ``info["ago"]`` from the judge, and at a reset
    ``info["judge"]``; without a judge nothing is ever a success.

    A success in the very last step is a termination, not a truncation. An aborted step is not judged:
    its observation is an old one.
    """

    def __init__(self, env: gym.Env[Any, Any], judge: Judge | None) -> None:
        super().__init__(env)
        self._judge = judge

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        if self._judge is None:
            return obs, info
        self._judge.reset()
        return obs, {**info, "judge": self._judge.name}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, _, truncated, info = self.env.step(action)
        verdict = NOTHING
        if self._judge is not None and "abort" not in info:
            verdict = self._judge.judge(obs, info)
        truncated = truncated and not verdict.terminated
        told = {"success": verdict.success, "ago": verdict.ago}
        return obs, verdict.reward, verdict.terminated, truncated, {**info, **told}
