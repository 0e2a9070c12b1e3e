"""The conditions of a study of interventions: when a simulated expert takes over, decided by a rule, not by a person.

The conditions are those of RLIF (Luo, Dong et al. 2023, arXiv 2311.12996, section 5): by the value gap against a
reference agent, or at random. They need no device: the expert's action replaces the policy's, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from serl_core.config import ConfigError
from serl_core.envs.takeover import device_action
from serl_core.pairs import AnyTask
from serl_core.teleop.device import Device
from serl_core.teleop.scripted import OperatorConfig
from serl_core.types import Obs

Action = npt.NDArray[np.float32]
Level = Literal["poor", "medium", "good"]

SKILL: Mapping[Level, float] = {"poor": 0.2, "medium": 0.6, "good": 1.0}  # share of episodes it judges rightly
FOR_AN_EPISODE = 1_000  # steps that a judgement lasts
BIAS = (0.5, 0.3, 0.0)  # where it looks for the goal when it is wrong, in full steps: 2 cm beside a cube, 7 mm a hole
MISJUDGED = 0.2  # standard deviation of that, full steps


def expert_of(level: Level) -> OperatorConfig:
    """An expert of this skill at a robot's device, who always says what it would do.

    It errs for a whole episode and always in the same direction: who clones it would average a zero-mean error away.
    """
    return OperatorConfig("always", SKILL[level], bias=BIAS, misjudged=MISJUDGED, judgement=FOR_AN_EPISODE, reaction=1)


class Expert(Protocol):
    """Says in every step, whoever drives, what it would do. Constructors open nothing."""

    def reset(self) -> None:
        """An episode begins."""
        ...

    def act(self, obs: Obs) -> Action:
        """Its action (A,) in [−1, 1] for this step. Called once per step."""
        ...


class Rule(Protocol):
    """Says in every step whether the expert drives, knowing what the policy is about to do."""

    def reset(self) -> None:
        """An episode begins."""
        ...

    def drives(self, obs: Obs, proposal: Action) -> bool:
        """Whether the expert's action replaces ``proposal`` (A,) in this step. Called once per step."""
        ...


class DeviceExpert:
    """Satisfies `Expert`: the hands on a device, such as `ScriptedOperator` in the mode "always"."""

    def __init__(self, task: AnyTask, device: Device) -> None:
        self._task = task
        self._device = device

    def reset(self) -> None:
        self._device.reset()

    def act(self, obs: Obs) -> Action:
        """What the device says; the observation is not looked at."""
        return device_action(self._task, self._device.read())


class Always:
    """Satisfies `Rule`: the expert demonstrates."""

    def reset(self) -> None:
        pass

    def drives(self, obs: Obs, proposal: Action) -> bool:
        """Yes."""
        return True


class Never:
    """Satisfies `Rule`: the policy is alone."""

    def reset(self) -> None:
        pass

    def drives(self, obs: Obs, proposal: Action) -> bool:
        """No."""
        return False


class AtRandom:
    """Satisfies `Rule`: a coin in every step, whatever the policy does. Raises `ConfigError` for an impossible rate."""

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"takeovers at random: the rate {rate} must lie in [0, 1], it is the share of all steps")
        self._rate = rate
        self._rng = rng

    def reset(self) -> None:
        pass

    def drives(self, obs: Obs, proposal: Action) -> bool:
        """With probability ``rate``."""
        return bool(self._rng.random() < self._rate)


class ValueGap:
    """Satisfies `Rule`: takes over where the policy's action is worth less than ``share`` of the reference's.

    ``values`` (obs, proposal) gives both as a reference agent sees them: (Q(s, π), Q(s, a_ref)); of a negative value,
    which an error of the critics may give, the missing share is taken of its size. What they say is obeyed with
    probability ``obeyed``, else its contrary is done. The expert then drives for ``hold`` steps, and the policy at
    least one before the next decision.
    Raises `ConfigError` for a share, a probability or a hold that cannot be.
    """

    def __init__(
        self,
        values: Callable[[Obs, Action], tuple[float, float]],
        rng: np.random.Generator,
        share: float = 0.97,
        obeyed: float = 0.95,
        hold: int = 4,
    ) -> None:
        if not 0.0 < share <= 1.0 or not 0.0 <= obeyed <= 1.0 or hold < 1:
            raise ConfigError(
                f"value gap: share {share} must lie in (0, 1], obeyed {obeyed} in [0, 1], hold {hold} be at least 1"
            )
        self._values = values
        self._rng = rng
        self._share, self._obeyed, self._hold = share, obeyed, hold
        self.reset()

    def reset(self) -> None:
        self._left = 0  # steps of the running takeover, and the policy's one after it

    def drives(self, obs: Obs, proposal: Action) -> bool:
        """The running takeover first; without one, what the values and the coin say."""
        if self._left:
            self._left -= 1
            return self._left > 0
        ours, reference = self._values(obs, proposal)
        obeys = self._rng.random() < self._obeyed
        if (ours < reference - (1.0 - self._share) * abs(reference)) == obeys:
            self._left = self._hold
            return True
        return False


class Intervening(gym.Wrapper[Any, Any, Any, Any]):
    """Hands the expert's action to the environment wherever the rule says so.

    ``info`` gets what `serl_core.envs.takeover.Takeover` gives: "executed", "proposal", "who", "takeover".
    """

    def __init__(self, env: gym.Env[Any, Any], expert: Expert, rule: Rule) -> None:
        super().__init__(env)
        self._expert = expert
        self._rule = rule
        self._obs: Obs = {}
        self._takeover = -1
        self._begun = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._expert.reset()
        self._rule.reset()
        self._takeover = -1
        return self._obs, info

    def step(self, action: Action) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        proposal = np.array(action, np.float32)
        wanted = self._expert.act(self._obs)
        self._count(self._rule.drives(self._obs, proposal))
        driven = self._takeover >= 0
        executed = np.array(wanted if driven else proposal, np.float32)
        self._obs, reward, terminated, truncated, info = self.env.step(executed)
        kept = {
            "executed": executed.copy(),
            "proposal": proposal,
            "who": "operator" if driven else "policy",
            "takeover": self._takeover,
        }
        return self._obs, reward, terminated, truncated, {**info, **kept}

    def _count(self, drives: bool) -> None:
        """Takeovers are numbered through, and never reused."""
        if drives and self._takeover < 0:
            self._takeover = self._begun
            self._begun += 1
        elif not drives:
            self._takeover = -1
