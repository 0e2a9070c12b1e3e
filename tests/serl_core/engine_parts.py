"""A small agent on a replay of small features, for the tests of the learner's compiled call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import jax
import numpy as np

from serl_core.agents.sac import SAC, SACConfig
from serl_core.data.replay import Replay, Where
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine
from serl_core.nets.sight import as_stored
from serl_core.types import EpisodeStart, Step

CONFIG = SACConfig(hidden=(8,), batch=16, utd=2)
EPISODE = 5
CAPACITY = 211  # frames; no other size in these tests is as large


def observation(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"state": rng.normal(size=3).astype(np.float32), "front": rng.integers(0, 9, (1, 2, 3)).astype(np.uint8)}


def encode(obs: Any) -> dict[str, np.ndarray]:
    """Two views of (channels, positions) features."""
    return {"state": obs["state"], "front": np.stack([obs["front"][0], obs["front"][0] + 1]).astype(np.float16)}


def records(seed: int) -> Iterator[EpisodeStart | Step]:
    rng = np.random.default_rng(seed)
    for episode in count():
        yield EpisodeStart("a", episode, observation(rng))
        for number in range(EPISODE):
            ends, action = number == EPISODE - 1, rng.uniform(-1, 1, 2).astype(np.float32)
            yield Step(
                "a", episode, number, action, action, np.zeros(7), False, observation(rng), float(ends), 0.0, ends,
                False, ends, "policy", -1, 0, 0.0,
            )  # fmt: skip


def setup(
    where: Where = "device", sharding: Any = None, utd: int = 2, inserted: int = 60
) -> tuple[Engine, Any, Replay, Iterator[Any]]:
    """An engine, its first state, its replay with so many records ``inserted``, and those that come next."""
    source = records(0)
    example = observation(np.random.default_rng(0))
    replay = Replay(CAPACITY, example, 2, encode, views=2, where=where, sharding=sharding)
    for _, record in zip(range(inserted), source, strict=False):
        replay.insert(record)
    config = replace(CONFIG, utd=utd)
    agent = SAC(config, {"state": example["state"], "front": np.zeros((2, 3), np.float16)}, 2)
    engine = Engine(agent, replay, Sampling(0.9, CONFIG.batch, n_step=3), utd, as_stored(), 0, sharding)
    return engine, jax.device_put(agent.init(jax.random.key(0)), sharding), replay, source
