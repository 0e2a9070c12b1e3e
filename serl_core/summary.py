"""Figures of a run: success and intervention rates while it goes, and what is reported at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serl_core.config import ConfigError
from serl_core.types import EpisodeStart, Judgement, Record, Step


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Lower and upper bound of a success rate (Wilson score interval, 95 % for the default z)."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(frozen=True)
class EpisodeFigures:
    """One finished episode."""

    episode: int
    steps: int
    success: bool
    operator_steps: int
    takeovers: int
    total_steps: int  # of the session, this episode included
    discarded: bool = False  # by a person: it counts as nothing


class Tally:
    """Listens to a rollout, by `judge` to a person too, and counts episodes, successes and the operator's part."""

    def __init__(self) -> None:
        self.steps = 0
        self.operator_steps = 0
        self.episodes: list[EpisodeFigures] = []
        self.takeovers: set[tuple[str, int]] = set()
        self._episode_steps: list[Step] = []
        self._running = -1
        self._early: Judgement | None = None  # on the running episode

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._episode_steps, self._running, self._early = [], record.episode, None
            return
        self.steps += 1
        self.operator_steps += record.who == "operator"
        self._episode_steps.append(record)
        if record.takeover >= 0:
            self.takeovers.add((record.actor, record.takeover))
        if record.terminated or record.truncated:
            self.episodes.append(self._figures(record))
            early, self._early, self._running = self._early, None, -1
            if early is not None:
                self.judge(early)

    def judge(self, judgement: Judgement) -> None:
        """A verdict on an episode, also on the running one: it counts in place of what was recorded."""
        if judgement.episode == self._running:
            self._early = judgement
        elif judgement.verdict != "pending":
            said = {"success": judgement.verdict == "success", "discarded": judgement.verdict == "discarded"}
            self.episodes = [replace(e, **said) if e.episode == judgement.episode else e for e in self.episodes]

    def _figures(self, last: Step) -> EpisodeFigures:
        steps = self._episode_steps
        return EpisodeFigures(
            episode=last.episode,
            steps=len(steps),
            success=last.success,
            operator_steps=sum(step.who == "operator" for step in steps),
            takeovers=len({step.takeover for step in steps if step.takeover >= 0}),
            total_steps=self.steps,
        )

    @property
    def counted(self) -> list[EpisodeFigures]:
        """All but the discarded ones."""
        return [episode for episode in self.episodes if not episode.discarded]

    @property
    def successes(self) -> int:
        """Successful episodes so far."""
        return sum(episode.success for episode in self.episodes)

    def evaluation(self) -> dict[str, Any]:
        """The ``eval`` part of a summary: successes with Wilson bounds, and the mean steps of a success."""
        low, high = wilson(self.successes, len(self.counted))
        steps = [episode.steps for episode in self.episodes if episode.success]
        return {
            "episodes": len(self.counted),
            "successes": self.successes,
            "success_rate": self.successes / max(1, len(self.counted)),
            "wilson_low": low,
            "wilson_high": high,
            "mean_success_steps": sum(steps) / len(steps) if steps else None,
        }


def check_writable(path: Path) -> None:
    """For ``--json``, before its outcome could be lost; folders that `write_json` makes count. Raises `ConfigError`."""
    folder = next(above for above in path.absolute().parents if above.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"--json {path} cannot be written: name a file in a folder that can be")


def write_json(path: Path, tree: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(tree, indent=2) + "\n")
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The inverse of `write_json`."""
    return json.loads(path.read_text())
