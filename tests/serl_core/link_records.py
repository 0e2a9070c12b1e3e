"""Records that count: each one says its own number, so that loss, repetition and disorder show."""

from __future__ import annotations

import numpy as np

from serl_core.types import EpisodeStart, Record, Source, Step

LENGTH = 5  # steps of an episode


def obs(number: int, side: int = 4) -> dict[str, np.ndarray]:
    return {
        "state": np.full(3, number, np.float32),
        "front": np.full((side, side, 3), number % 256, np.uint8),
    }


def start(actor: str, episode: int, source: Source = "online") -> EpisodeStart:
    return EpisodeStart(actor, episode, obs(0), source, {"task": "count"})


def step(actor: str, episode: int, number: int, side: int = 4) -> Step:
    last = (number + 1) % LENGTH == 0
    return Step(
        actor=actor,
        episode=episode,
        step=number,
        action=np.full(2, 0.5, np.float32),
        proposal=np.zeros(2, np.float32),
        target=np.zeros(7),
        bent=False,
        next_obs=obs(number, side),
        reward=0.0,
        grasp_penalty=0.0,
        terminated=False,
        truncated=last,
        success=False,
        who="policy",
        takeover=-1,
        policy_version=number,
        time=0.1 * number,
    )


def numbers(records: list[Record]) -> list[int]:
    return [record.step for record in records if isinstance(record, Step)]
