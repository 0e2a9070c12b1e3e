"""What networks, disks and clocks do to the link."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from link_ends import Learner, actor, counts, eventually, learner
from link_proxy import Proxy
from link_records import start, step

from examples.benchmarks.ports import free_address
from serl_core.data.episodes import EpisodeStore, StoreError
from serl_core.data.mcap import MAGIC
from serl_core.transport import ActorLink, LearnerLink, LinkError


def send(link: ActorLink, count: int, side: int = 16) -> None:
    for number in range(count):
        link.send(step(link.session, 0, number, side))


def test_cut_connections_cost_nothing(tmp_path: Path) -> None:
    """Guards against bug 3: a sender that ends at the first network error, or repeats what had arrived."""
    with learner(free_address(), tmp_path / "store") as end, Proxy(end.address) as proxy:
        with actor(proxy.address, tmp_path) as link:
            for _ in range(8):
                send(link, 50)
                before = end.status().received
                assert eventually(lambda before=before: end.status().received > before or link.learner_lag() == 0)
                proxy.cut()
            assert link.wait_drained(60.0)
            session = link.session
        assert proxy.connections > 1
    assert counts(tmp_path / "store") == {session: list(range(1, 401))}


@pytest.mark.parametrize(("delay", "stalls"), [(0.1, 0.0), (0.0, 0.05)], ids=["100 ms delay", "5 % loss"])
def test_a_slow_network_only_costs_time(tmp_path: Path, delay: float, stalls: float) -> None:
    """Guards against acknowledgements that come too late for the window, and against resends that pile up."""
    with learner(free_address(), tmp_path / "store") as end, Proxy(end.address, delay, stalls) as proxy:
        with actor(proxy.address, tmp_path) as link:
            send(link, 300)
            assert link.wait_drained(60.0)
            session = link.session
        assert end.status().duplicates == 0
    assert counts(tmp_path / "store") == {session: list(range(1, 301))}


def test_a_half_open_connection_is_left(tmp_path: Path) -> None:
    """Guards against an actor that waits for ever on a connection whose other end is gone without a word."""
    with learner(free_address(), tmp_path / "store") as end, Proxy(end.address) as proxy:
        with actor(proxy.address, tmp_path) as link:
            send(link, 20)
            assert link.wait_drained(60.0)
            proxy.freeze()
            send(link, 20)
            assert eventually(lambda: link.status().text.startswith("learner away for"), 60.0)
            assert link.wait_drained(60.0)
            assert link.status().text == "connected"
            session = link.session
        assert proxy.connections > 1
    assert counts(tmp_path / "store") == {session: list(range(1, 41))}


def test_ten_minutes_without_a_learner(tmp_path: Path) -> None:
    """Guards against a backlog that is lost, or blocks the arm: the 6 000 records of ten minutes at 10 Hz.

    The absence itself is real but shortened: as many reconnections, 40 times as fast.
    """
    address = free_address()
    with ActorLink(address, "actor", tmp_path / "spool", away_after=0.05) as link:
        with learner(address, tmp_path / "store"):
            send(link, 10)
            assert link.wait_drained(60.0)
        begun, slowest = time.monotonic(), 0.0
        for number in range(6000):
            before = time.monotonic()
            link.send(step(link.session, 0, number))
            slowest = max(slowest, time.monotonic() - before)
        assert not link.wait_drained(max(0.0, begun + 3.0 - time.monotonic()))
        assert link.status().unacked == 6000 and slowest < 5.0
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(120.0)
        session = link.session
    assert counts(tmp_path / "store") == {session: list(range(1, 6011))}


def test_a_slow_actor_does_not_hold_the_other_back(tmp_path: Path) -> None:
    """Guards against one bad network that stops every robot of a lab."""
    with learner(free_address(), tmp_path / "store") as end, Proxy(end.address, rate=4e6) as proxy:
        slow, fast = actor(proxy.address, tmp_path / "1", "slow"), actor(end.address, tmp_path / "2", "fast")
        with slow, fast:
            send(slow, 500, side=64)
            send(fast, 500)
            assert fast.wait_drained(60.0)
            assert slow.learner_lag() > 0
            assert slow.wait_drained(120.0)
            expected = list(range(1, 501))
            sessions = (slow.session, fast.session)
    assert counts(tmp_path / "store") == dict.fromkeys(sessions, expected)


def test_a_full_disk_at_the_actor_is_said_and_spoils_nothing(tmp_path: Path, small_disk: Path) -> None:
    """Guards against a record that counts as sent and is half on disk; freed space is used again."""
    address = free_address()
    with ActorLink(address, "actor", small_disk / "spool") as link:
        with pytest.raises(LinkError, match=r"No space left on device.*free space on this disk"):
            send(link, 10_000, side=64)
        kept = link.learner_lag()
        assert kept > 10
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(60.0)
            send(link, 5)
            assert link.wait_drained(60.0)
        session = link.session
    assert counts(tmp_path / "store") == {session: list(range(1, kept + 6))}


def test_a_full_disk_at_the_learner_is_said_and_the_actors_keep_their_records(tmp_path: Path, small_disk: Path) -> None:
    """Guards against an acknowledgement of what is not on disk, and against a store that cannot be read any more."""
    address = free_address()
    with actor(address, tmp_path) as link:
        send(link, 400, side=64)
        with EpisodeStore(small_disk / "store") as store, LearnerLink(address) as end:
            with pytest.raises(StoreError, match=r"No space left on device.*free space on this disk"):
                take_until_it_fails(store, end)
            kept = store.last(link.session)
        assert kept > 10
        assert [item.seq for item in EpisodeStore(small_disk / "store").stored()] == list(range(1, kept + 1))
        assert eventually(lambda: link.learner_lag() == 400 - kept)
        (small_disk / "store").rename(small_disk / "moved")
        (tmp_path / "store").mkdir()
        for path in (small_disk / "moved").glob("*.mcap"):
            (tmp_path / "store" / path.name).write_bytes(path.read_bytes())
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(60.0)
        session = link.session
    assert counts(tmp_path / "store") == {session: list(range(1, 401))}


def take_until_it_fails(store: EpisodeStore, end: LearnerLink) -> None:
    while True:
        arrived = end.receive(8, 1.0)
        try:
            store.extend(arrived)
        finally:
            for item in arrived:
                if item.seq <= store.last(item.actor):
                    end.ack(item.actor, item.seq)


def test_a_clock_that_jumps_reorders_nothing(tmp_path: Path) -> None:
    """Guards against order, deduplication or rotation by wall-clock time."""
    times = iter([1000.0, 2000.0, 500.0, 0.0, 4e9, 10.0, 20.0, 30.0])
    with EpisodeStore(tmp_path, segment_bytes=100, wall=lambda: next(times)) as store:
        store.append(start("a", 0))
        for number in range(2):
            store.append(step("a", 0, number))
    assert [item.seq for item in EpisodeStore(tmp_path).stored()] == [1, 2, 3]
    assert all(path.read_bytes().startswith(MAGIC) for path in tmp_path.glob("*.mcap"))
    with EpisodeStore(tmp_path, wall=lambda: 1.0) as store:
        assert store.last("a") == 3


def test_a_learner_that_restarts_behind_a_dead_network_goes_on(tmp_path: Path) -> None:
    """Guards against a restart and a network failure at once: the two hellos must not cross."""
    address = free_address()
    first = Learner(address, tmp_path / "store")
    with Proxy(address) as proxy, actor(proxy.address, tmp_path) as link:
        send(link, 30)
        assert link.wait_drained(60.0)
        proxy.freeze()
        first.close()
        send(link, 30)
        with learner(address, tmp_path / "store"):
            assert link.wait_drained(60.0)
            session = link.session
    assert counts(tmp_path / "store") == {session: list(range(1, 61))}
