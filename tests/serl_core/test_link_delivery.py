from __future__ import annotations

import time
from pathlib import Path

import pytest
from link_ends import Learner, actor, counts, eventually, learner
from link_records import step

from examples.benchmarks.ports import free_address
from serl_core.data.episodes import EpisodeStore
from serl_core.link import protocol
from serl_core.link.budget import Budget
from serl_core.transport import LearnerLink
from serl_core.types import Step


@pytest.mark.parametrize("learner_first", [True, False])
def test_either_side_may_start_first(tmp_path: Path, learner_first: bool) -> None:
    """Guards against records that vanish because nobody listened yet."""
    address = free_address()
    early = Learner(address, tmp_path / "store") if learner_first else None
    with actor(address, tmp_path) as link:
        for number in range(100):
            assert link.send(step(link.session, 0, number)) == number + 1
        running = early or Learner(address, tmp_path / "store")
        assert link.wait_drained(10.0)
        running.close()
    records = [item for item in EpisodeStore(tmp_path / "store").records() if isinstance(item, Step)]
    assert [record.step for record in records] == list(range(100))


def test_a_learner_that_restarts_misses_and_repeats_nothing(tmp_path: Path) -> None:
    """Guards against bug 3: the learner stops and starts again and again while the actor sends."""
    address = free_address()
    with actor(address, tmp_path) as link:
        for life in range(5):
            running = Learner(address, tmp_path / "store")
            for number in range(200):
                link.send(step(link.session, life, number))
            assert eventually(lambda end=running.link: end.status().received > 50)
            running.close()
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(10.0)
    assert counts(tmp_path / "store") == {link.session: list(range(1, 1001))}


def test_what_a_dead_actor_left_arrives_before_the_next_one(tmp_path: Path) -> None:
    """Guards against bug 3: an actor restarts, and the link takes its new records for old ones."""
    address = free_address()
    sessions = []
    for _ in range(3):
        with actor(address, tmp_path) as link:
            sessions.append(link.session)
            for number in range(20):
                link.send(step(link.session, 0, number))
    with actor(address, tmp_path) as link, learner(address, tmp_path / "store"):
        assert link.wait_drained(10.0)
    assert list(counts(tmp_path / "store").items()) == [(name, list(range(1, 21))) for name in sessions]


def test_two_actors_share_a_learner(tmp_path: Path) -> None:
    """Guards against actors that take each other's numbers."""
    address = free_address()
    with (
        learner(address, tmp_path / "store"),
        actor(address, tmp_path / "1") as one,
        actor(address, tmp_path / "2") as two,
    ):
        for number in range(100):
            one.send(step(one.session, 0, number))
            two.send(step(two.session, 0, number))
        assert one.wait_drained(10.0) and two.wait_drained(10.0)
    expected = list(range(1, 101))
    assert counts(tmp_path / "store") == {one.session: expected, two.session: expected}


def test_a_lost_acknowledgement_does_not_double_a_record(tmp_path: Path) -> None:
    """Guards against duplicates when the learner dies between storing and acknowledging."""
    address = free_address()
    with actor(address, tmp_path) as link:
        for number in range(10):
            link.send(step(link.session, 0, number))
        with EpisodeStore(tmp_path / "store") as store, LearnerLink(address) as end:
            taken: list[int] = []
            while len(taken) < 10:
                for item in end.receive(100, 5.0):
                    taken.append(store.append(item.record, item.actor, item.seq, item.packed, item.crc))
        assert link.learner_lag() == 10
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(10.0)
    assert counts(tmp_path / "store") == {link.session: list(range(1, 11))}


def test_a_full_inbox_holds_the_actors_back(tmp_path: Path) -> None:
    """Guards against a learner whose memory grows while it is busy, and against dropping instead."""
    address = free_address()
    with actor(address, tmp_path) as link, LearnerLink(address, inbox_records=10) as end:
        for number in range(300):
            link.send(step(link.session, 0, number))
        assert eventually(lambda: end.status().waiting >= 10)
        time.sleep(0.2)
        assert end.status().waiting < 10 + protocol.RUN_RECORDS
        numbers: list[int] = []
        while len(numbers) < 300:
            for item in end.receive(7, 5.0):
                numbers.append(item.seq)
                end.ack(item.actor, item.seq)
        assert numbers == list(range(1, 301))
        assert link.wait_drained(10.0)


def test_a_spool_older_than_the_store_goes_on(tmp_path: Path) -> None:
    """Guards against an actor that waits for ever for a record which nobody has any more; the loss is counted."""
    address = free_address()
    with actor(address, tmp_path) as link:
        with learner(address, tmp_path / "store"):
            for number in range(5):
                link.send(step(link.session, 0, number))
            assert link.wait_drained(10.0)
        with learner(address, tmp_path / "fresh") as end:
            link.send(step(link.session, 0, 5))
            assert link.wait_drained(10.0)
            assert end.status().lost == 5
    assert counts(tmp_path / "fresh") == {link.session: [6]}


def test_an_actor_gone_wild_is_slowed_down_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against one actor that takes the learner from the others, and against dropping what exceeds its share."""
    address = free_address()
    with LearnerLink(address, records_per_s=100) as end, actor(address, tmp_path) as link:
        begun = time.monotonic()
        for number in range(250):
            link.send(step(link.session, 0, number))
        numbers: list[int] = []
        while len(numbers) < 250:
            for item in end.receive(64, 5.0):
                numbers.append(item.seq)
                end.ack(item.actor, item.seq)
        assert numbers == list(range(1, 251))
        assert time.monotonic() - begun > 1.0  # the first hundred at once, the others at a hundred a second
        assert link.wait_drained(10.0)
    told = [record.getMessage() for record in caplog.records if "put off" in record.getMessage()]
    assert told == [
        "actor actor sends more than 100 records or 1074 MB a second: the rest is put off, none of it is lost"
    ]


def test_a_budget_is_one_of_records_and_of_bytes() -> None:
    """Guards against a cap that large records, or small ones, slip past, and against one that never gives again."""
    budget = Budget(records=10, size=1000)
    assert budget.wait("a", 10, 10, now=0.0) == 0.0
    assert budget.wait("a", 1, 10, now=0.0) == pytest.approx(0.1)
    assert budget.wait("b", 1, 500, now=0.0) == 0.0
    assert budget.wait("b", 1, 600, now=0.0) == pytest.approx(0.1)
    assert budget.wait("b", 1, 600, now=0.11) == 0.0
    assert budget.wait("a", 1, 5000, now=0.5) == pytest.approx(0.5)
    assert budget.wait("a", 1, 5000, now=1.0) == 0.0, "a single message above all budgets has to pass one day"
