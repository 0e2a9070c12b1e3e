"""Judges that believe a score only when it stays: confirmation by k of n frames, and chains of several stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from serl_core.config import ConfigError
from serl_core.envs.rewards import FAILURE, NOTHING, Verdict
from serl_core.types import Obs


@dataclass(frozen=True)
class Belief:
    """When a score is believed: once ``k`` of the last ``n`` frames reach ``threshold``, a probability."""

    threshold: float
    k: int = 2
    n: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n or not 0.0 < self.threshold < 1.0:
            raise ConfigError(
                f"belief: {self.k} of {self.n} frames at {self.threshold:g}: 1 ≤ k ≤ n, 0 < threshold < 1"
            )


class Scorer(Protocol):
    """Says how probable each class is, from the pictures of an observation; which version may change at a reset."""

    @property
    def name(self) -> str:
        """With the version."""
        ...

    @property
    def beliefs(self) -> Mapping[str, Belief]:
        """When to believe it, by class: a threshold says nothing about another class than its own."""
        ...

    def reset(self) -> None:
        """An episode begins: from now on the newest version scores."""
        ...

    def score(self, obs: Obs) -> Mapping[str, float]:
        """A probability for each class."""
        ...


@final
class Confirmation:
    """Counts hits within the last ``n`` frames. Pure logic; one `update` per step."""

    def __init__(self, belief: Belief) -> None:
        self._k = belief.k
        self._recent: deque[bool] = deque(maxlen=belief.n)

    def update(self, hit: bool) -> int | None:
        """Where ``k`` frames of the last ``n`` are hits: how many frames ago the first of them was; else None."""
        self._recent.append(hit)
        if sum(self._recent) < self._k:
            return None
        return len(self._recent) - 1 - self._recent.index(True)


@dataclass(frozen=True)
class Stage:
    """One thing to reach: a class of a scorer. Any class of ``ruin``, once confirmed, ends the episode in failure."""

    scorer: Scorer
    wanted: str
    ruin: tuple[str, ...] = ()


@final
class ScoreJudge:
    """One stage after the other; success at the last one, which gives reward 1 and ends the episode.

    ``reward`` is that of each stage before, at the step that confirms it (0: only the last one counts). The success
    is that of the first frame of its confirmed run: `Verdict.ago`. Two stages are never confirmed in one step.
    """

    def __init__(self, stages: Sequence[Stage], reward: float = 0.0) -> None:
        if not stages:
            raise ConfigError("a judge by scores needs at least one stage")
        self._stages = tuple(stages)
        self._reward = reward
        self.scores: Mapping[str, float] = {}  # of the last step
        self._enter(0)

    @property
    def name(self) -> str:
        """Of all stages, in the order in which they are to be reached."""
        return " then ".join(f"{stage.wanted} by {stage.scorer.name}" for stage in self._stages)

    def reset(self) -> None:
        """An episode begins, at the first stage."""
        for stage in self._stages:
            stage.scorer.reset()
        self.scores = {}
        self._enter(0)

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Score the pictures of ``obs`` for the present stage."""
        stage = self._stages[self._at]
        self.scores = stage.scorer.score(obs)
        confirmed = {name: count.update(self._hit(stage, name)) for name, count in self._counts.items()}
        ago = confirmed[stage.wanted]
        if any(confirmed[name] is not None for name in stage.ruin):
            return FAILURE
        if ago is None:
            return NOTHING
        if self._at + 1 == len(self._stages):
            return Verdict(1.0, True, True, ago)
        self._enter(self._at + 1)
        return Verdict(self._reward, False, False)

    def _hit(self, stage: Stage, name: str) -> bool:
        return self.scores[name] >= stage.scorer.beliefs[name].threshold

    def _enter(self, at: int) -> None:
        self._at = at
        stage = self._stages[at]
        beliefs = stage.scorer.beliefs
        self._counts = {name: Confirmation(beliefs[name]) for name in (stage.wanted, *stage.ruin)}
