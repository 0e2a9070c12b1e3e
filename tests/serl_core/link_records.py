"""Records that count: each one says its own number, so that loss, repetition and disorder show."""

from __future__ import annotations

import numpy as np

from examples.benchmarks import records
from serl_core.types import EpisodeStart, Record, Source, Step

LENGTH = 5  # steps of an episode
ACTION = np.full(2, 0.5, np.float32)


def obs(number: int, side: int = 4) -> dict[str, np.ndarray]:
    return {
        "state": np.full(3, number, np.float32),
        "front": np.full((side, side, 3), number % 256, np.uint8),
    }


def start(actor: str, episode: int, source: Source = "online") -> EpisodeStart:
    return EpisodeStart(actor, episode, obs(0), source, {"task": "count"})


def step(actor: str, episode: int, number: int, side: int = 4) -> Step:
    last = (number + 1) % LENGTH == 0
    return records.step(actor, number, obs(number, side), episode, last, version=number, action=ACTION)


def numbers(found: list[Record]) -> list[int]:
    return [record.step for record in found if isinstance(record, Step)]
