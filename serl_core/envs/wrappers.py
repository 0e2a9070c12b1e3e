"""Wrappers that add to ``info`` what the learner needs beside the robot's own facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np


class GraspPenalty(gym.Wrapper[Any, Any, Any, Any]):
    """Puts ``info["grasp_penalty"]`` ≤ 0: the price of a command that closed an open gripper, or opened a closed one.

    It stays apart from the task's reward: only the gripper's own critic pays it. Of several arms each has its own
    price, and one critic of all grippers pays their sum: ``penalty`` is a number, or one for each arm.
    """

    def __init__(self, env: gym.Env[Any, Any], penalty: float | Sequence[float]) -> None:
        super().__init__(env)
        self._penalty = penalty
        self._gripper: Any = 0.0  # the last command, or that of each arm

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._gripper = info["gripper"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        toggled = np.not_equal(info["gripper"], self._gripper)
        penalty = float(np.sum(np.where(toggled, self._penalty, 0.0)))
        self._gripper = info["gripper"]
        return obs, reward, terminated, truncated, {**info, "grasp_penalty": penalty}
