"""The soak of the benchmarks in short: server, actor and learner are killed with −9 while records flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.benchmarks.soak import Config, count, soak
from examples.benchmarks.soak_phases import Mark, Phase, phases, summary
from serl_core.data.episodes import EpisodeStore


def test_each_phase_of_a_resumption_is_told() -> None:
    """Guards against a slow resumption that nobody can explain, and against marks of another life or side."""
    noted = [
        Mark("learner", 10.5, 3.0, "started"),
        Mark("learner", 12.0, 0.5, "started"),
        Mark("actor", 12.5, 0.7, "started"),
        Mark("learner", 13.0, 0.6, "the store is open"),
        Mark("learner", 19.0, 0.5, "started"),
    ]
    parts = phases(noted, "learner", killed=11.0, begun=None, stored=15.0)
    assert parts == {
        "learner: started": Phase(1.0, 0.5),
        "learner: the store is open": Phase(1.0, pytest.approx(0.1)),
        "learner: a record is stored": Phase(2.0, None),
    }
    parts = phases(noted, "server", killed=11.0, begun=14.0, stored=15.0)
    assert parts == {"server: an episode begins": Phase(3.0, None), "server: a record is stored": Phase(1.0, None)}
    found = summary([{"a: x": Phase(1.0, 0.5)}, {"a: x": Phase(3.0, None)}])
    assert found == {"a: x": {"median_s": 2.0, "max_s": 3.0, "cpu_median_s": 0.5}}


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Guards against bug 3 under kill −9 of any process, and against a count that would not notice."""
    figures = soak(Config(kills=6, seed=3, pause=(0.05, 0.5)), tmp_path, say=print)
    assert figures.clean(), figures
    assert "learner: a record is stored" in figures.phases
    assert figures.produced > 100 and figures.stored >= figures.produced and figures.kills == 6
    with EpisodeStore(tmp_path / "episodes") as store:
        record = next(store.records())
        store.append(record, actor=record.actor, seq=store.last(record.actor) + 1)
    with (tmp_path / "sent").open("a") as journal:
        journal.write(f"{record.actor} {store.last(record.actor) + 2}\n")
    spoiled = count(tmp_path, [])
    assert not spoiled.clean() and spoiled.damaged == 1 and spoiled.lost >= 1
