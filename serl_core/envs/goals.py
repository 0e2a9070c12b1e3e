"""Tasks whose goal is a pose of the TCP: drawn for each episode, and known to everybody without ground truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from robot_servers.interface import Array
from serl_core.config import Truth


class EpisodeGoal:
    """The goal of the present episode. ``draw`` makes one, (7,) m and quaternion xyzw, from a generator."""

    def __init__(self, draw: Callable[[np.random.Generator], Array]) -> None:
        self._draw = draw
        self._rng = np.random.default_rng()
        self._pose = draw(self._rng)

    def next(self, seed: int | None) -> None:
        """A new episode: the same seed gives the same goal; without one the row of goals goes on."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._pose = self._draw(self._rng)

    def pose(self) -> Array:
        """(7,), base frame."""
        return self._pose

    def truth(self) -> Truth:
        """What observations, experts and operators look at in place of a simulation's ground truth."""
        return {"goal": self._pose}


class WithGoal(gym.Wrapper[Any, Any, Any, Any]):
    """Draws the goal before the episode's first observation, which shows it."""

    def __init__(self, env: gym.Env[Any, Any], goal: EpisodeGoal) -> None:
        super().__init__(env)
        self._goal = goal

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._goal.next(seed)
        return self.env.reset(seed=seed, options=options)
