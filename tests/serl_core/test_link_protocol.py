from __future__ import annotations

import time
from pathlib import Path

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from link_ends import actor, counts, eventually, fake_learner, learner, raw, welcome
from link_records import start

from examples.benchmarks.ports import free_address
from robot_servers import wire
from serl_core.link import protocol
from serl_core.link.porter import Porter
from serl_core.link.segment import ENTRY
from serl_core.transport import PROTOCOL, ActorLink, LearnerLink, LinkError
from serl_core.types import record_to_tree


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
    [*protocol.message(protocol.DATA, session="s"), b""],
    protocol.message(protocol.DATA, session=1),
    protocol.message(protocol.HELLO, **{**HELLO, "sessions": {str(number): [1, 0] for number in range(2000)}}),
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


FLOODS: dict[str, list[wire.Buffer]] = {
    "hello": protocol.message(protocol.HELLO, **HELLO),
    "ping": protocol.message(protocol.PING, version=-1, got=None),
    "garbage": [b"nonsense", b"x"],
    "empty data": [*protocol.message(protocol.DATA, session="s"), b""],
    "data of a session that was not announced": [*protocol.message(protocol.DATA, session="t"), b"x"],
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_a_flood_is_answered_in_part_and_told_once(
    tmp_path: Path, flood: list[wire.Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against one peer that takes the learner from the others, or fills its disk with complaints."""
    address = free_address()
    with learner(address, tmp_path / "store") as end, raw(zmq.DEALER, address) as (dealer, _):
        dealer.setsockopt(zmq.SNDTIMEO, 10_000)
        dealer.send_multipart(FLOODS["hello"])
        begun = time.monotonic()
        for _ in range(3000):
            dealer.send_multipart(flood)
        with actor(address, tmp_path) as link:
            link.send(start(link.session, 0))
            assert link.wait_drained(30.0)
        assert eventually(lambda: "sends more than 200 messages" in caplog.text, 30.0)
        allowed = 200 * (2 + time.monotonic() - begun)
        assert end.status().rejected <= allowed
    told = [record.getMessage() for record in caplog.records]
    assert sum("sends more than 200 messages" in text for text in told) <= 2  # of an unknown peer, and by its name
    assert len(told) <= allowed + 10


def test_sessions_that_were_only_announced_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a memory that anybody can fill with names; a session that has begun stays."""
    monkeypatch.setattr(Porter, "PATIENCE", 0.5)
    address = free_address()
    with LearnerLink(address) as end, raw(zmq.DEALER, address) as (dealer, _):
        for number in range(5):
            dealer.send_multipart(protocol.message(protocol.HELLO, **{**HELLO, "sessions": {f"s{number}": [1, 0]}}))
        payload = wire.pack(record_to_tree(start("s4", 0)))
        entry = ENTRY.pack(len(payload), protocol.checksum([payload]), 1, 0) + payload
        dealer.send_multipart([*protocol.message(protocol.DATA, session="s4"), entry])
        assert [item.actor for item in end.receive(1, 10.0)] == ["s4"]
        assert eventually(lambda: list(end._shared.sessions) == ["s4"])
        end.ack("s4", 1)


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
