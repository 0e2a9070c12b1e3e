"""Warnings while a person demonstrates: the arm stands still, the device is at its end stop, it takes far too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

import numpy as np
import numpy.typing as npt

from serl_core.attendance import WITHOUT_DEVICE
from serl_core.config import ConfigError
from serl_core.envs.frames import axis_indices
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.pairs import AnyTask
from serl_core.teleop.spec import parse_spec
from serl_core.types import EpisodeStart, Record, Step

STILL = 0.02  # |action| of a motion that is none
END_STOP = 0.99  # share of an axis's greatest |action| from which it is at its end stop
LED = 10  # steps of a hand before its share at the end stop means something
KNOWN = 3  # demonstrations before their median means something


@dataclass(frozen=True)
class WatchConfig:
    """When a demonstration deserves a warning. Raises `ConfigError` on values that would warn always."""

    idle: float = 3.0  # s without any motion
    saturated: float = 0.3  # share of the operator's steps with an axis at its end stop
    long: float = 2.0  # times the median length of what was kept before

    def __post_init__(self) -> None:
        if self.idle <= 0 or not 0 < self.saturated <= 1 or self.long <= 1:
            raise ConfigError("watch: idle must be positive, saturated lie in (0, 1] and long be above 1")


@final
class Watch:
    """Told of every record; ``warnings`` is what is wrong with the running episode so far.

    ``episodes`` counts those in which there was a warning, under "idle", "long" and "saturated".

    ``end_stops`` (motions,): |action| of a hand at the end stop of its device, of the first entries of an action; the
    others are grippers. ``lengths`` tells the steps of what was
    kept. Nothing is stopped by a warning, and nothing discarded: the person decides.
    """

    def __init__(
        self,
        config: WatchConfig,
        end_stops: npt.NDArray[np.float64],
        control_hz: float,
        lengths: Callable[[], Sequence[int]],
    ) -> None:
        self._config = config
        self._end_stops = end_stops
        self._hz = control_hz
        self._lengths = lengths
        self.episodes: Counter[str] = Counter(idle=0, long=0, saturated=0)
        self._begin()

    @property
    def warnings(self) -> list[str]:
        """One short text for each, the most urgent first."""
        return list(self._found().values())

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._begin()
        elif not record.aborted:
            self._look(record)
            self._count()

    def _found(self) -> dict[str, str]:
        texts = {"idle": self._idle(), "long": self._long(), "saturated": self._saturated()}
        return {name: text for name, text in texts.items() if text}

    def _count(self) -> None:
        new = self._found().keys() - self._counted
        self._counted |= new
        self.episodes.update(new)

    def _begin(self) -> None:
        self._counted: set[str] = set()
        self._steps = self._still = self._led = self._at_end = 0
        self._gripper = np.zeros(0)

    def _look(self, step: Step) -> None:
        self._steps += 1
        motions = len(self._end_stops)
        motion, gripper = np.abs(step.action[:motions]), step.action[motions:]
        moved = bool((motion > STILL).any()) or (self._steps > 1 and not np.array_equal(gripper, self._gripper))
        self._still = 0 if moved else self._still + 1
        self._gripper = gripper.copy()
        if step.who == "operator":
            self._led += 1
            self._at_end += bool((motion >= END_STOP * self._end_stops).any())

    def _idle(self) -> str:
        seconds = self._still / self._hz
        return f"no motion for {seconds:.0f} s" if seconds >= self._config.idle else ""

    def _long(self) -> str:
        lengths = self._lengths()
        if len(lengths) < KNOWN or self._steps <= self._config.long * median(lengths):
            return ""
        return f"{self._steps / median(lengths):.1f} times as long as usual: discard it?"

    def _saturated(self) -> str:
        if self._led < LED or self._at_end <= self._config.saturated * self._led:
            return ""
        return f"at the end stop in {self._at_end / self._led:.0%} of the steps: push less, or raise the task's steps"


def end_stops(operator: str, task: AnyTask, takeover: TakeoverConfig) -> npt.NDArray[np.float64]:
    """|action| (motions,) at the end stop of an operator's device; inf where there is none, as for a key.

    Device and takeover may both multiply what the hand does.
    """
    axes = [axis for arm in task.arms for axis in axis_indices(arm.axes)]
    if operator in WITHOUT_DEVICE:
        return np.ones(len(axes))
    spec = parse_spec(operator, len(task.arms))
    if spec.kind == "keyboard":
        return np.full(len(axes), np.inf)
    ends = np.minimum(1.0, spec.shape.gain * np.abs(takeover.gains)[axes])
    return np.where(ends > 0.0, ends, np.inf)
