"""Who says how good a step was. The judge alone rewards and terminates; a time limit only truncates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from robot_servers.geometry import quat_angle
from robot_servers.interface import Array
from serl_core.config import Truth
from serl_core.types import Obs


@dataclass(frozen=True)
class Verdict:
    """What a judge says of the state a step led to. ``terminated``: nothing after it counts any more."""

    reward: float
    success: bool
    terminated: bool


class Judge(Protocol):
    """Judges the state that a step led to, from what the environment shows."""

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict: ...


class OracleJudge:
    """Reward 1 and the end of the episode at success, read from a simulation's ground truth."""

    def __init__(self, truth: Callable[[], Truth]) -> None:
        self._truth = truth

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Ask the ground truth; the observation is not looked at."""
        success = bool(self._truth()["success"])
        return Verdict(float(success), success, success)


class PoseJudge:
    """Reward 1 and the end of the episode where the measured TCP is at the goal: no ground truth, no camera.

    ``goal`` tells the present one, (7,); ``distance`` m and ``angle`` rad are how near is near enough.
    """

    def __init__(self, goal: Callable[[], Array], distance: float, angle: float) -> None:
        self._goal = goal
        self._distance = distance
        self._angle = angle

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Compare the pose of ``info["state"]`` with the goal."""
        pose, goal = info["state"].pose, self._goal()
        near = float(np.linalg.norm(pose[:3] - goal[:3])) <= self._distance
        success = near and quat_angle(pose[3:], goal[3:]) <= self._angle
        return Verdict(float(success), success, success)


class Judged(gym.Wrapper[Any, Any, Any, Any]):
    """Sets reward, terminated and ``info["success"]`` from the judge; without one nothing is ever a success.

    A success in the very last step is a termination, not a truncation. An aborted step is not judged:
    its observation is an old one.
    """

    def __init__(self, env: gym.Env[Any, Any], judge: Judge | None) -> None:
        super().__init__(env)
        self._judge = judge

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, _, truncated, info = self.env.step(action)
        verdict = Verdict(0.0, False, False)
        if self._judge is not None and "abort" not in info:
            verdict = self._judge.judge(obs, info)
        truncated = truncated and not verdict.terminated
        return obs, verdict.reward, verdict.terminated, truncated, {**info, "success": verdict.success}
