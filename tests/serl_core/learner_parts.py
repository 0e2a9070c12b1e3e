"""A learner without a network: records handed over in this process, tiny networks, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from zlib_ng.zlib_ng import crc32

from robot_servers import wire
from serl_core.data.episodes import EpisodeStore
from serl_core.learner import Config, Learner, blueprint_for
from serl_core.link.learner import Delivery
from serl_core.types import EpisodeStart, Message, Record, Source, Step, record_to_tree

TASK = "peg_insertion"
ACTION = 3


class Handed:
    """Stands in for a `LearnerLink`: gives records one at a time, the first has number ``seq``."""

    def __init__(self, seq: int) -> None:
        self.waiting: list[Message] = []
        self.published: list[int] = []
        self._seq = seq - 1

    def receive(self, max_records: int, timeout: float) -> list[Delivery]:
        if not self.waiting:
            return []
        record, self._seq = self.waiting.pop(0), self._seq + 1
        packed = wire.pack(record_to_tree(record))
        return [Delivery(record.actor, self._seq, record, memoryview(packed), crc32(packed))]

    def ack(self, actor: str, seq: int) -> None:
        pass

    def report(self, report: Mapping[str, Any]) -> None:
        pass

    def publish(self, version: int, params: Mapping[str, Any], meta: Mapping[str, Any] | None = None) -> None:
        self.published.append(version)


def observation(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    return {"state": rng.normal(size=size).astype(np.float32)}


def episode(number: int, hands: str, size: int, actor: str = "a-1", source: Source = "online") -> list[Record]:
    """An episode with a letter per step: p policy, o operator. It ends with a success."""
    rng = np.random.default_rng([number, len(hands), source == "demo"])
    found: list[Record] = [EpisodeStart(actor, number, observation(rng, size), source)]
    takeover = 100 * number
    for index, letter in enumerate(hands):
        action, ends = rng.uniform(-1, 1, ACTION).astype(np.float32), index == len(hands) - 1
        takeover += letter == "o" and index > 0 and hands[index - 1] == "p"
        found.append(
            Step(
                actor, number, index, action, action, np.zeros(7), False, observation(rng, size), float(ends), 0.0,
                ends, False, ends, "operator" if letter == "o" else "policy", takeover if letter == "o" else -1, 0, 0.0,
            )
        )  # fmt: skip
    return found


@contextmanager
def learner(run_dir: Path, **settings: Any):
    """A learner in ``run_dir`` with networks of eight units, and its link."""
    options = {"task": TASK, "utd": 1, "lockstep": True, "start_after": 5, "capacity": 500, **settings}
    config = Config(run_dir=run_dir, **options)
    blueprint = blueprint_for(config)
    small = replace(blueprint.agent_config, hidden=(8,), batch=8)
    with EpisodeStore(run_dir / "episodes") as store:
        link = Handed(max(store.last_of_each().values(), default=0) + 1)
        yield Learner(config, link, store, replace(blueprint, agent_config=small)), link  # type: ignore[arg-type]


def size_of() -> int:
    """Entries of one observation of the task."""
    return blueprint_for(Config(run_dir=Path(), task=TASK)).raw_example()["state"].shape[0]


def demonstrations(folder: Path, size: int, episodes: int = 2) -> None:
    with EpisodeStore(folder) as store:
        for number in range(episodes):
            for record in episode(number, "ooooo", size, "demo", "demo"):
                store.append(record)


def feed(learnt: tuple[Learner, Handed], records: Iterable[Message]) -> None:
    """Hand records over, and learn everything that they pay for."""
    one, link = learnt
    link.waiting.extend(records)
    one.learn(lambda: not link.waiting and not one.limiter.grants())


def leaves(state: Any) -> list[np.ndarray]:
    return [np.array(x) for x in jax.tree.leaves(state)]
