from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_records import start, step

from robot_servers import wire
from serl_core.data.episodes import EpisodeStore
from serl_core.link import protocol
from serl_core.link.segment import ENTRY
from serl_core.transport import PROTOCOL, ActorLink, LearnerLink, LinkError
from serl_core.types import Step

PEER = str(Path(__file__).with_name("link_peer.py"))


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Learner:
    """Stores what arrives, in a thread."""

    def __init__(self, address: str, root: Path) -> None:
        self.store = EpisodeStore(root).open()
        self.link = LearnerLink(address, self.store.last_of_each()).bind()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for item in self.link.receive(8, 0.02):
                self.store.append(item.record, item.actor, item.seq, item.packed)
                self.link.ack(item.actor, item.seq)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.link.close()
        self.store.close()


@contextmanager
def learner(address: str, root: Path) -> Iterator[LearnerLink]:
    running = Learner(address, root)
    try:
        yield running.link
    finally:
        running.close()


def counts(root: Path) -> dict[str, list[int]]:
    """The numbers stored of each actor session, in the order of storing."""
    found: dict[str, list[int]] = {}
    for stored in EpisodeStore(root).stored():
        found.setdefault(stored.actor, []).append(stored.seq)
    return found


def actor(address: str, root: Path, name: str = "actor") -> ActorLink:
    return ActorLink(address, name, root / "spool", away_after=0.5).connect()


# ── every record exactly once ────────────────────────────────────────────────────────────────────


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


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """Guards against bug 3 under kill −9 of both processes: stored = sent, once and in order."""
    address, schedule = free_address(), random.Random(1)
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(role: str, *more: str) -> None:
        processes[role] = subprocess.Popen([sys.executable, PEER, role, address, str(tmp_path), *more])

    run("learner")
    run("actor", "1000000")
    try:
        for _ in range(8):
            time.sleep(schedule.uniform(0.5, 0.9))
            role = schedule.choice(["actor", "learner"])
            processes[role].kill()
            processes[role].wait()
            run(role, *(["1000000"] if role == "actor" else []))
        time.sleep(0.5)
        processes["actor"].kill()
        processes["actor"].wait()
        run("actor", "1")
        assert processes["actor"].wait(timeout=60) == 0
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    sent: dict[str, int] = {}
    for line in (tmp_path / "sent").read_text().splitlines():
        session, number = line.split()
        sent[session] = int(number)
    stored = counts(tmp_path / "episodes")
    assert sum(sent.values()) > 100
    for session, number in sent.items():
        numbers = stored.pop(session)
        assert numbers == list(range(1, len(numbers) + 1))
        assert number <= len(numbers) <= number + 1  # killed between spooling and saying so
    assert all(numbers == [1] for numbers in stored.values())


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
                    taken.append(store.append(item.record, item.actor, item.seq, item.packed))
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


# ── weights and reports ──────────────────────────────────────────────────────────────────────────


def params(version: int) -> dict[str, dict[str, np.ndarray]]:
    return {"dense": {"kernel": np.full((50, 50), version, np.float32)}}


def test_a_late_actor_jumps_to_the_newest_weights(tmp_path: Path) -> None:
    """Guards against bug 5: a late or slow actor works through old versions, or waits for the next one."""
    address = free_address()
    with LearnerLink(address) as end:
        for version in range(1, 50):
            end.publish(version, params(version), {"step": version})
        with actor(address, tmp_path) as link:
            assert link.weights() is None
            assert link.wait_weights(49, 10.0)
            weights = link.weights()
    assert weights is not None and weights.version == 49 and weights.meta == {"step": 49}
    np.testing.assert_array_equal(weights.params["dense"]["kernel"], params(49)["dense"]["kernel"])


def test_the_version_never_goes_back(tmp_path: Path) -> None:
    """Guards against bug 5: a learner that starts over makes the actor act with older weights."""
    address = free_address()
    with actor(address, tmp_path) as link:
        with LearnerLink(address) as end:
            end.publish(7, params(7))
            assert link.wait_weights(7, 10.0)
            with pytest.raises(LinkError, match="versions must rise"):
                end.publish(7, params(7))
        with LearnerLink(address) as end:
            end.publish(3, params(3))
            assert eventually(lambda: bool(end.status().actors))
            assert not link.wait_weights(8, 0.3)
            assert link.status().weights_version == 7
            end.publish(8, params(8))
            assert link.wait_weights(8, 10.0)


def test_damaged_and_older_weights_are_refused(tmp_path: Path) -> None:
    """Guards against acting with weights that changed on the way; they are asked for again."""
    with fake_learner() as (router, address), actor(address, tmp_path) as link:
        ident = welcome(router)
        frames = wire.encode({"params": params(1), "meta": {}})
        for version, crc in ((1, 0), (2, protocol.checksum(frames)), (1, protocol.checksum(frames))):
            head = protocol.message(protocol.WEIGHTS, version=version, crc=crc)
            router.send_multipart([ident, *head, *frames])
            assert eventually(lambda version=version: next_ping(router).get("got") == version)
        assert link.status().weights_version == 2


def test_a_report_wakes_the_waiting_actor(tmp_path: Path) -> None:
    """Guards against a lockstep brake that sleeps through the learner's progress."""
    address = free_address()
    with LearnerLink(address) as end, actor(address, tmp_path) as link:
        assert not link.wait_until(lambda report: report.get("granted", 0) >= 1, 0.05)
        for granted in range(1, 200):
            end.report({"granted": granted})
            assert link.wait_until(lambda report, granted=granted: report.get("granted", 0) >= granted, 5.0)
        assert link.status().report == {"granted": 199}


def test_a_late_actor_hears_the_last_report(tmp_path: Path) -> None:
    """Guards against an actor that waits for a report which was sent before it came."""
    address = free_address()
    with LearnerLink(address) as end:
        end.report({"granted": 5})
        with actor(address, tmp_path) as link:
            assert link.wait_until(lambda report: report.get("granted") == 5, 5.0)


def test_the_state_of_the_link_is_visible(tmp_path: Path) -> None:
    """Guards against a robot that goes on for hours while nobody notices that the learner is gone."""
    address = free_address()
    with actor(address, tmp_path) as link:
        with LearnerLink(address):
            assert eventually(lambda: link.status().text == "connected")
        assert eventually(lambda: not link.status().connected)
        assert link.status().text.startswith("learner away for ")
        link.send(start(link.session, 0))
        assert link.status().unacked == 1


# ── versions, strangers and malformed messages ───────────────────────────────────────────────────


@contextmanager
def raw(kind: int, address: str | None = None) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    context = zmq.Context()
    plain = context.socket(kind)
    plain.setsockopt(zmq.RCVTIMEO, 5000)
    if address is None:
        plain.bind("tcp://127.0.0.1:*")
    else:
        plain.connect(address)
    try:
        yield plain, plain.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        plain.close(linger=0)
        context.term()


def fake_learner():
    return raw(zmq.ROUTER)


def welcome(router: zmq.Socket[bytes]) -> bytes:
    ident, kind, _ = router.recv_multipart()
    assert kind == protocol.HELLO
    router.send_multipart([ident, *protocol.message(protocol.WELCOME, protocol=PROTOCOL, stored={})])
    return ident


def next_ping(router: zmq.Socket[bytes]) -> dict[str, object]:
    _, kind, body = router.recv_multipart()
    return wire.decode([body]) if kind == protocol.PING else {}


def test_another_protocol_version_is_refused_with_both_named() -> None:
    """Guards against two releases that misunderstand each other instead of saying so."""
    address = free_address()
    with LearnerLink(address) as end, raw(zmq.DEALER, address) as (dealer, _):
        dealer.send_multipart(protocol.message(protocol.HELLO, protocol=99, anything="else"))
        kind, body = dealer.recv_multipart()
        assert kind == protocol.REFUSED
        assert f"protocol 99, the learner {PROTOCOL}" in wire.decode([body])["text"]
        assert eventually(lambda: end.status().rejected == 1)


def test_a_refused_actor_says_why(tmp_path: Path) -> None:
    """Guards against an actor that goes on although its learner will never take its data."""
    with fake_learner() as (router, address), actor(address, tmp_path) as link:
        ident = router.recv_multipart()[0]
        router.send_multipart([ident, *protocol.message(protocol.REFUSED, text="versions 1 and 2")])
        with pytest.raises(LinkError, match="versions 1 and 2"):
            link.wait_until(lambda report: False, 5.0)
        with pytest.raises(LinkError, match="versions 1 and 2"):
            link.send(start("a", 0))


HELLO = dict(protocol=PROTOCOL, actor="raw", sessions={"s": [1, 0]}, version=-1)
MALFORMED: list[list[wire.Buffer]] = [
    [b""],
    [b"hello"],
    [b"hello", b"\xc1"],
    [b"nonsense", b"\x80"],
    [b"x" * 100_000, b"\x80"],
    protocol.message(protocol.HELLO, protocol="1"),
    protocol.message(protocol.HELLO, **{**HELLO, "sessions": {"s": [5, 1]}}),
    protocol.message(protocol.HELLO, **{**HELLO, "sessions": {"s": "all"}}),
    [*protocol.message(protocol.DATA, session="s"), ENTRY.pack(3, 0, 1, 0) + b"not"],  # what the CRC says
    [*protocol.message(protocol.DATA, session="s"), ENTRY.pack(99, 0, 1, 0) + b"short"],
    [*protocol.message(protocol.DATA, session="s"), b"no entry"],
    protocol.message(protocol.DATA, session="s"),
    protocol.message(protocol.DATA, session=1),
]


def test_malformed_messages_are_rejected_and_counted(tmp_path: Path) -> None:
    """Guards against bug 17: one bad message ends the service, or passes unseen."""
    address = free_address()
    with learner(address, tmp_path / "store") as end, raw(zmq.DEALER, address) as (dealer, _):
        dealer.send_multipart(protocol.message(protocol.HELLO, **HELLO))
        for number, frames in enumerate(MALFORMED):
            dealer.send_multipart(frames)
            assert eventually(lambda number=number: end.status().rejected == number + 1)
        with actor(address, tmp_path) as link:
            link.send(start(link.session, 0))
            assert link.wait_drained(10.0)


def test_a_record_that_cannot_be_read_does_not_block_the_next(tmp_path: Path) -> None:
    """Guards against bug 17: one undecodable record is sent again for ever."""
    address = free_address()
    link = actor(address, tmp_path)
    with learner(address, tmp_path / "store") as end, link:
        link._spool.append(wire.pack({"kind": "Mystery"}))
        link._spool.append(b"garbage")
        link.send(start(link.session, 0))
        link._spool.append(b"garbage at the end")
        assert link.wait_drained(10.0)
        assert end.status().rejected == 3
    assert counts(tmp_path / "store") == {link.session: [3]}


def test_a_stranger_is_asked_to_introduce_itself() -> None:
    """Guards against data of an actor that this learner has not met: it must not be taken, nor lost."""
    address = free_address()
    with LearnerLink(address) as end, raw(zmq.DEALER, address) as (dealer, _):
        dealer.send_multipart([*protocol.message(protocol.DATA, session="s"), b"x"])
        assert dealer.recv_multipart()[0] == protocol.WHO
        assert end.receive(1, 0.05) == []


def test_a_gap_is_asked_for() -> None:
    """Guards against a record that overtakes an older one."""
    address = free_address()
    with LearnerLink(address) as end, raw(zmq.DEALER, address) as (dealer, _):
        dealer.send_multipart(protocol.message(protocol.HELLO, **HELLO))
        payload = wire.pack({"x": 1})
        entry = ENTRY.pack(len(payload), protocol.checksum([payload]), 3, 0) + payload
        dealer.send_multipart([*protocol.message(protocol.DATA, session="s"), entry])
        kinds = {}
        while protocol.RESEND not in kinds:
            kind, body = dealer.recv_multipart()
            kinds[kind] = wire.decode([body])
        assert kinds[protocol.RESEND] == {"session": "s", "seq": 1}
        assert end.receive(1, 0.05) == []


frames_of_bytes = st.lists(st.binary(max_size=60), min_size=1, max_size=4)
kinds = st.sampled_from([protocol.HELLO, protocol.DATA, protocol.PING, protocol.WEIGHTS, protocol.ACK, protocol.REPORT])


@given(messages=st.lists(st.tuples(kinds, frames_of_bytes), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_from_the_network_ends_nothing(tmp_path: Path, messages: list[tuple[bytes, list[bytes]]]) -> None:
    """Guards against bug 17 at both ends: any bytes after any kind; both threads go on serving."""
    address = free_address()
    with LearnerLink(address) as end, raw(zmq.DEALER, address) as (dealer, _):
        for kind, frames in messages:
            dealer.send_multipart([kind, *frames])
        dealer.send_multipart(protocol.message(protocol.HELLO, **HELLO))
        while dealer.recv_multipart()[0] != protocol.WELCOME:
            continue
        assert end.receive(1, 0.0) == []
    with fake_learner() as (router, address), actor(address, tmp_path) as link:
        ident = welcome(router)
        for kind, frames in messages:
            router.send_multipart([ident, kind, *frames])
        router.send_multipart([ident, *protocol.message(protocol.REPORT, report={"fine": True}, stored={})])
        assert link.wait_until(lambda report: report.get("fine") is True, 10.0)


def test_an_open_network_needs_consent(tmp_path: Path) -> None:
    """Guards against an unencrypted link that other machines reach by accident."""
    with pytest.raises(LinkError, match="without keys"):
        LearnerLink("tcp://0.0.0.0:5557")
    with pytest.raises(LinkError, match="without keys"):
        ActorLink("tcp://10.0.0.2:5557", "actor", tmp_path)
    LearnerLink("tcp://0.0.0.0:5557", insecure=True)


def test_a_taken_address_is_a_clear_error() -> None:
    """Guards against a second learner that waits in silence."""
    address = free_address()
    with LearnerLink(address), pytest.raises(LinkError, match="is another learner running"):
        LearnerLink(address).bind()
