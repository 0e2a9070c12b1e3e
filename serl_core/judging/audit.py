"""A judge beside the ground truth: only the gap between the two shows a policy that learns to please the judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, final

from serl_core.config import Truth
from serl_core.envs.rewards import Judge, Verdict
from serl_core.metrics import Metrics
from serl_core.types import EpisodeStart, Obs, Record


@final
class Audited:
    """Judges as ``judge`` does, and notes whether ``truth`` had a success in the episode, at any of its steps."""

    def __init__(self, judge: Judge, truth: Callable[[], Truth]) -> None:
        self.true_success = False
        self._judge = judge
        self._truth = truth

    @property
    def name(self) -> str:
        """The judge's: the truth has no say."""
        return self._judge.name

    def reset(self) -> None:
        """An episode begins."""
        self.true_success = False
        self._judge.reset()

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """The judge's verdict."""
        self.true_success |= bool(self._truth()["success"])
        return self._judge.judge(obs, info)


@final
class Audit:
    """Listens to a rollout: one line of metrics per episode, with both successes and the judge's errors so far."""

    def __init__(self, judge: Audited, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self._judge = judge
        self._metrics = metrics
        self._wall = wall
        self._false = self._missed = 0

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart) or not (record.terminated or record.truncated):
            return
        true = self._judge.true_success
        self._false += record.success and not true
        self._missed += true and not record.success
        told = {"success": record.success, "true_success": true, "judge": self._judge.name}
        sums = {"false_successes": self._false, "missed_successes": self._missed}
        self._metrics.write(record.episode, self._wall(), **told, **sums)


def audited(judge: Judge | None, truth: Callable[[], Truth] | None) -> Judge | None:
    """The judge, noting the truth where there is one."""
    return judge if judge is None or truth is None else Audited(judge, truth)


def audits(judge: Judge | None, metrics: Metrics) -> list[Audit]:
    """The listener of an audited judge; none for another."""
    return [Audit(judge, metrics)] if isinstance(judge, Audited) else []
