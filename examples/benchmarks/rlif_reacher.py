"""The cheap task of the study: Gymnasium's Reacher, a two-link arm, and an expert of graded skill.

Needs ``gymnasium[mujoco]``. An action says how fast the joints are to turn, and a controller makes torques of it, as
behind a robot's server. An episode succeeds, and ends with reward 1, when the fingertip rests at the target; the task's
own dense reward is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from serl_core.types import Obs

LINKS = (0.1, 0.11)  # m
NEAR = 0.02  # m between fingertip and target that count as there …
SLOW = 1.0  # rad/s … if no joint is faster
MAX_STEPS = 25
REPEAT = 2  # steps of the simulation for which an action lasts
PERIOD = 0.02 * REPEAT  # s
ACTIONS = 2
ENTRIES = 10  # of the observation, see `_joints` and gymnasium's documentation of Reacher-v5
SPEED = 4.0  # rad/s of an action of 1
GAIN = 0.2  # of the controller, share of the largest torque per rad/s
STIFFNESS = 2.0  # of the expert, action per rad
ELBOW = 2.9  # rad; the joint ends at 3

Array = npt.NDArray[np.float64]


class ReacherEnv(gym.Env[Any, Any]):
    """Reacher-v5 as an environment of this project: observations by name, success as a judge gives it."""

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium's own declaration is a mutable class attribute

    def __init__(self) -> None:
        try:
            self._env = gym.make("Reacher-v5", max_episode_steps=MAX_STEPS * REPEAT)
        except gym.error.DependencyNotInstalled as error:
            raise RuntimeError(f"Reacher needs a package ({error}): pip install 'gymnasium[mujoco]'") from error
        self.observation_space = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (ENTRIES,), np.float32)})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self._steps = 0
        self._velocity = np.zeros(2)  # rad/s

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        state, _ = self._env.reset(seed=seed)
        self._steps, self._velocity = 0, state[6:8]
        return _observation(state), self._info(False)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state, truncated = np.zeros(ENTRIES), False
        for _ in range(REPEAT):
            torque = np.clip(GAIN * (SPEED * action - self._velocity), -1.0, 1.0)
            state, _, _, truncated, _ = self._env.step(torque)
            self._velocity = state[6:8]
        self._steps += 1
        success = at_rest(state)
        return _observation(state), float(success), success, truncated and not success, self._info(success)

    def _info(self, success: bool) -> dict[str, Any]:
        """There is neither a target of a robot nor a guard here."""
        return {"target": np.zeros(7), "bent": False, "time": self._steps * PERIOD, "success": success}

    def close(self) -> None:
        self._env.close()


def _observation(state: Array) -> dict[str, npt.NDArray[np.float32]]:
    return {"state": np.asarray(state, np.float32)}


def at_rest(state: Array) -> bool:
    """Whether the fingertip of an observation (10,) rests at the target."""
    return bool(np.linalg.norm(state[8:10]) <= NEAR and np.abs(state[6:8]).max() <= SLOW)


def _joints(state: Array) -> Array:
    """Joint angles (2,) rad of an observation (10,): cosines, sines, target (2,) m, velocities, offset (2,) m."""
    return np.arctan2(state[2:4], state[0:2])


def way_to(point: Array, now: Array) -> Array:
    """How far the joints (2,) rad are to turn from ``now`` until the fingertip is at ``point`` (2,) m.

    Of both bends of the elbow the one with the shorter way; for a point out of reach, to the nearest one.
    """
    reach = float(np.clip(np.hypot(*point), abs(LINKS[0] - LINKS[1]) + 1e-3, sum(LINKS) - 1e-3))
    direction = float(np.arctan2(point[1], point[0]))
    cosine = (reach**2 - LINKS[0] ** 2 - LINKS[1] ** 2) / (2 * LINKS[0] * LINKS[1])
    elbow = min(float(np.arccos(np.clip(cosine, -1.0, 1.0))), ELBOW)
    ways = []
    for bend in (elbow, -elbow):
        shoulder = direction - np.arctan2(LINKS[1] * np.sin(bend), LINKS[0] + LINKS[1] * np.cos(bend))
        ways.append(np.array([turn(shoulder - now[0]), bend - now[1]]))  # the elbow does not turn through its stop
    return min(ways, key=lambda way: float(np.abs(way).sum()))


def turn(angle: float) -> float:
    """The same angle in [−π, π)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@dataclass(frozen=True)
class ReacherSkill:
    """How well it reaches: the same knobs as `serl_core.teleop.scripted.OperatorConfig`, in metres."""

    skill: float = 1.0  # share of the episodes in which it sees the target where it is; else …
    bias: tuple[float, float] = (0.06, 0.04)  # m … it aims beside it, about so far …
    misjudged: float = 0.02  # m … with this standard deviation
    noise: float = 0.05  # standard deviation of its actions


class ReacherExpert:
    """Satisfies `serl_core.teleop.conditions.Expert`: inverse kinematics, faster the farther away."""

    def __init__(self, skill: ReacherSkill, rng: np.random.Generator) -> None:
        self._skill = skill
        self._rng = rng
        self._error = np.zeros(2)

    def reset(self) -> None:
        """A new judgement of where the target is."""
        wrong = bool(self._rng.random() >= self._skill.skill)
        self._error = self._rng.normal(self._skill.bias, self._skill.misjudged) * wrong

    def act(self, obs: Obs) -> npt.NDArray[np.float32]:
        """Speeds (2,) towards where it believes the target to be."""
        state = obs["state"].astype(np.float64)
        way = way_to(state[4:6] + self._error, _joints(state))
        speed = STIFFNESS * way + self._rng.normal(0.0, self._skill.noise, ACTIONS)
        return np.clip(speed, -1.0, 1.0).astype(np.float32)
