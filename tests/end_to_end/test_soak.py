"""The soak of the benchmarks in short: server, actor and learner are killed with −9 while records flow."""

from __future__ import annotations

from pathlib import Path

from examples.benchmarks.soak import Config, count, soak
from serl_core.data.episodes import EpisodeStore


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Guards against bug 3 under kill −9 of any process, and against a count that would not notice."""
    figures = soak(Config(kills=6, seed=3, pause=(0.05, 0.5)), tmp_path, say=print)
    assert figures.clean(), figures
    assert figures.produced > 100 and figures.stored >= figures.produced and figures.kills == 6
    with EpisodeStore(tmp_path / "episodes") as store:
        record = next(store.records())
        store.append(record, actor=record.actor, seq=store.last(record.actor) + 1)
    with (tmp_path / "sent").open("a") as journal:
        journal.write(f"{record.actor} {store.last(record.actor) + 2}\n")
    spoiled = count(tmp_path, [])
    assert not spoiled.clean() and spoiled.damaged == 1 and spoiled.lost >= 1
