"""A trained classifier as the judge of a run that learns from state, and the truth recorded beside its word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from serl_core.envs.rewards import Judge, Verdict
from serl_core.judging.audit import Audited
from serl_core.judging.file import load_classifier
from serl_core.judging.scorer import chosen_judge
from serl_core.nets.once import EncodedOnce
from serl_core.pairs import AnyTask
from serl_core.session import Session
from serl_core.types import EpisodeStart, Obs, Record, Step

Look = Callable[[], Mapping[str, npt.NDArray[np.uint8]]]  # a picture (128, 128, 3) of each camera, as it is now
MAKE = (
    "python -m examples.benchmarks.classifier --data DATA, then: serl classifier train DATA/training DATA/successes "
    "DATA/play --task peg_insertion --file FILE --features DATA/features"
)


@final
class Sighted:
    """Satisfies `Judge`: judges as ``judge`` does, by pictures that nobody else has to wait for."""

    def __init__(self, judge: Judge, look: Look) -> None:
        self._judge = judge
        self._look = look

    @property
    def name(self) -> str:
        """The judge's."""
        return self._judge.name

    def reset(self) -> None:
        """An episode begins."""
        self._judge.reset()

    def judge(self, obs: Obs, info: Mapping[str, Any]) -> Verdict:
        """Look, then judge; ``obs`` is not looked at."""
        return self._judge.judge(self._look(), info)


@dataclass(frozen=True)
class Ended:
    """One episode: the steps of the training when it ended, and whether it was a success by the judge and in truth."""

    total_steps: int
    judged: bool
    true: bool


class Witness:
    """Listens to a rollout; ``true`` tells of the last step of an episode whether that was a success in truth."""

    def __init__(self, true: Callable[[Step], bool]) -> None:
        self.episodes: list[Ended] = []
        self._true = true
        self._steps = 0

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            return
        self._steps += 1
        if record.terminated or record.truncated:
            self.episodes.append(Ended(self._steps, record.success, self._true(record)))

    def figures(self) -> dict[str, Any]:
        """Columns of a row; those of quarters of the training hold four numbers each."""
        quarters = self._quarters()
        return {
            "oracle_successes": sum(one.true for one in self.episodes),
            "false_successes": sum(one.judged and not one.true for one in self.episodes),
            "missed_successes": sum(one.true and not one.judged for one in self.episodes),
            "episodes_by_quarter": " ".join(str(len(part)) for part in quarters),
            "judged_by_quarter": " ".join(str(sum(one.judged for one in part)) for part in quarters),
            "oracle_by_quarter": " ".join(str(sum(one.true for one in part)) for part in quarters),
        }

    def _quarters(self) -> list[Sequence[Ended]]:
        """By the step at which each ended."""
        limits = [self._steps * number / 4 for number in range(5)]
        return [[one for one in self.episodes if low < one.total_steps <= high] for low, high in pairwise(limits)]


def cameras_of(path: Path) -> tuple[str, ...]:
    """Those that a classifier looks through: no other has to be rendered. Raises `ConfigError`."""
    return load_classifier(path).cameras


def judged_by(path: Path, task: AnyTask, session: Session) -> Audited:
    """The classifier in ``path`` at a simulated arm that has its cameras. Raises `ConfigError` if it does not fit."""
    assert session.truth is not None  # a simulation has one
    judge = chosen_judge(str(path), task, "pixels", EncodedOnce())
    assert judge is not None  # one is named

    def look() -> dict[str, npt.NDArray[np.uint8]]:
        return {name: frame.image for name, frame in session.robot.frames().items()}

    return Audited(Sighted(judge, look), session.truth)
