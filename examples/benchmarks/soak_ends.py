"""The two ends of a soak: ``python -m examples.benchmarks.soak_ends ROLE ADDRESS FOLDER RATE``, each to be killed.

The actor notes the number of a record in FOLDER/sent once its spooling has returned; the learner notes in
FOLDER/arrived when it stored the first record of each of its lives and of each actor session.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro

from examples.benchmarks.transport_ends import client_keys, pictures, server_keys, step
from serl_core.checkpoint import Checkpoints
from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.transport import ActorLink, LearnerLink
from serl_core.types import EpisodeStart, Record

SIDE = 64
EPISODE = 50  # steps
CHECKPOINT_EVERY = 200  # updates
PARAMS = {"dense": np.zeros((500, 500), np.float32)}


def number_of(record: Record) -> int:
    """The number that the actor gave it."""
    return record.meta["number"] if isinstance(record, EpisodeStart) else record.policy_version


def records(actor: str) -> Iterator[Record]:
    """Episodes without end, each record with its number."""
    observations, number, episode = pictures(SIDE), 0, 0
    while True:
        number += 1
        yield EpisodeStart(actor, episode, observations[0], meta={"number": number})
        for index in range(EPISODE):
            number += 1
            obs = observations[number % len(observations)]
            yield step(actor, index, obs, episode, index == EPISODE - 1, version=number)
        episode += 1


def actor(address: str, folder: Path, rate: float, count: int) -> None:
    """Spool at ``rate`` records per second, ``count`` of them (0: for ever); then wait until they are stored."""
    with (
        ActorLink(address, "actor", folder / "spool", away_after=0.5, keys=client_keys(folder)) as link,
        (folder / "sent").open("ab", buffering=0) as journal,
    ):
        due, newest = time.monotonic(), -1
        for sent, record in enumerate(records(link.session)):
            if sent == count > 0:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1.0 / rate, time.monotonic() - 1.0)
            journal.write(f"{link.session} {link.send(record)}\n".encode())
            weights = link.weights()
            newest, older = (weights.version if weights else -1), newest
            if newest < older:
                sys.exit(f"weights {newest} after weights {older}")
        if not link.wait_drained(120.0):
            sys.exit(f"{link.learner_lag()} records were not stored within 120 s")


def learner(address: str, folder: Path, rate: float, count: int) -> None:
    """Store, replay, sample, publish and checkpoint until killed; go on from the newest checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints")
    latest = checkpoints.latest()
    updates = checkpoints.load(latest)["updates"] if latest else 0
    example = {name: np.zeros_like(value) for name, value in pictures(SIDE)[0].items()}
    replay, rng = Replay(2000, example, action_dim=7, discount=0.97), np.random.default_rng(0)
    met: set[str] = set()
    with (
        EpisodeStore(folder / "episodes") as store,
        LearnerLink(address, store.last_of_each(), keys=server_keys(folder)) as link,
        (folder / "arrived").open("ab", buffering=0) as journal,
    ):
        while True:
            for item in link.receive(64, 0.05):
                store.append(item.record, item.actor, item.seq, item.packed, item.crc)
                link.ack(item.actor, item.seq)
                if item.actor not in met:
                    met.add(item.actor)
                    journal.write(f"{time.monotonic()} {item.actor}\n".encode())
                learn_from(replay, item.record)
            if replay.size("online"):
                replay.sample(rng, 32, 1)
                updates += 1
                if updates % CHECKPOINT_EVERY == 0:
                    checkpoints.save(updates, {"updates": updates})
                    link.publish(time.time_ns(), PARAMS)


def learn_from(replay: Replay, record: Record) -> None:
    """Into replay, unless it belongs to an episode that began before this life of the learner."""
    try:
        replay.insert(record)
    except ValueError as error:
        if "no start of this episode" not in str(error):
            raise


def main(role: str, address: str, folder: Path, rate: float, count: int = 0) -> None:
    """Play one role."""
    {"actor": actor, "learner": learner}[role](address, folder, rate, count)


if __name__ == "__main__":
    tyro.cli(main)
