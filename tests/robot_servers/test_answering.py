"""What bounds one client, what versions both sides speak, and what a server tells about itself."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest
import zmq
from served import serving

from robot_servers import wire
from robot_servers.answering import MAX_FRAMES, MAX_REQUEST, Throttle
from robot_servers.channel import Channel
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.hello import BEFORE_VERSIONS, SPOKEN, choose_version, read_hello, say_hello
from robot_servers.interface import PROTOCOL_VERSION, CommandRefused, RobotError
from robot_servers.lease import Client
from robot_servers.statistics import CLIENTS, NEWEST, CallLog, quantile


def asked(address: str, *messages: list[Any]) -> list[Any]:
    """The answers to raw messages of one peer, in the order in which they come."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        for message in messages:
            socket.send_multipart(message)
        answers = []
        for _ in messages:
            assert socket.poll(5000), "the server did not answer"
            answers.append(wire.decode(socket.recv_multipart()))
        return answers


def request(name: str, *args: Any) -> list[Any]:
    return wire.encode({"id": 1, "call": name, "args": list(args)})


# ── versions ─────────────────────────────────────────────────────────────────────────────────────


def test_the_highest_common_version_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two sides that both speak a newer version and use an old one, or one that only one speaks."""
    monkeypatch.setattr("robot_servers.hello.SPOKEN", (3, 4, 5))
    assert choose_version([2, 3, 4, 9]) == 4
    for offered in ([], [1, 2], [6], list(range(100, 10_000))):
        with pytest.raises(RobotError, match=r"speaks protocol 3, 4, 5, the client"):
            choose_version(offered)


def test_old_clients_get_a_clear_refusal() -> None:
    """Guards against a client of protocol 2 that goes on, or that is refused in riddles."""
    with serving(FakeDriver()) as server:
        (answer,) = asked(server.address, request("hello"))  # as protocol 2 said it
    assert answer["error"]["kind"] == "RobotError"
    assert (
        f"speaks protocol {PROTOCOL_VERSION}, the client speaks protocol {BEFORE_VERSIONS}" in answer["error"]["text"]
    )


def test_an_old_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a riddle where the robot's machine was not updated."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise CommandRefused("hello takes 0 arguments, got 1")

    channel = Channel("tcp://127.0.0.1:9", 1.0)
    monkeypatch.setattr(channel, "call", refuse)
    with pytest.raises(RobotError, match=rf"speaks protocol {PROTOCOL_VERSION} \(it says: hello takes 0"):
        say_hello(channel, 1.0)


def test_sockets_are_reached_as_the_server_was() -> None:
    """Guards against a client sent to 0.0.0.0, or past the tunnel by which it came."""
    with serving(FakeDriver()) as server:
        (answer,) = asked(server.address, request("hello", list(SPOKEN)))
    hello = answer["ok"] | {"sockets": {"stop": "tcp://0.0.0.0:7", "frames": "memory-1"}}
    assert read_hello(hello, "tcp://robot:5555").sockets == {"stop": "tcp://robot:7", "frames": "memory-1"}
    assert read_hello(hello, "tcp://[::1]:5555").sockets["stop"] == "tcp://[::1]:7"


# ── caps ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("frames", [[b""] * (MAX_FRAMES + 2), [bytes(MAX_REQUEST // 2)] * 3])
def test_messages_are_capped_as_a_whole(frames: list[bytes]) -> None:
    """Guards the server's memory: each frame is below its cap, and all of them together are not."""
    with serving(FakeDriver()) as server:
        (answer,) = asked(server.address, frames)
    assert "are allowed" in answer["error"]["text"]


def test_who_calls_too_often_is_refused_and_the_others_are_not() -> None:
    """Guards against one client in an endless loop that takes the server from everybody."""
    with serving(FakeDriver(), rate=20.0) as server, RobotClient(server.address) as patient:
        answers = asked(server.address, *[request("time")] * 60)
        refused = [answer for answer in answers if "too many calls" in answer.get("error", {}).get("text", "")]
        assert len(refused) >= 30
        assert patient.statistics().throttled == len(refused)


def test_the_rate_is_an_average_with_a_burst() -> None:
    """Guards against a cap that refuses a client which only began quickly, or that forgives one for ever."""
    now = [0.0]
    throttle = Throttle(10.0, lambda: now[0])
    assert [throttle.allows(b"a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert throttle.allows(b"b")
    now[0] = 0.5
    assert [throttle.allows(b"a") for _ in range(6)] == [True] * 5 + [False]
    for index in range(5000):
        throttle.allows(index.to_bytes(4, "big"))
    assert throttle.allows(b"a")


# ── what it tells ────────────────────────────────────────────────────────────────────────────────


def test_the_owner_is_in_the_status() -> None:
    """Guards against an arm that is busy with nobody knowing by whom."""
    with serving(FakeDriver()) as server, RobotClient(server.address) as owner, RobotClient(server.address) as other:
        assert other.status().owner == ""
        owner.advance(0.01)
        assert other.status().owner == f"{platform.node()}:{os.getpid()}"


def test_statistics_count_what_happened() -> None:
    """Guards against figures that look right and count something else."""
    with serving(FakeDriver()) as server, RobotClient(server.address) as client:
        for _ in range(10):
            client.state()
        with pytest.raises(RobotError):
            client.advance(-1.0)
        asked(server.address, [b"garbage"])
        statistics = client.statistics()
        states, advances = statistics.calls["state"], statistics.calls["advance"]
        assert (states.count, states.errors) == (10, 0) and 0.0 < states.p50 <= states.p99 < 5.0
        assert (advances.count, advances.errors) == (2, 2)  # the first one finds that nobody owns the robot
        assert statistics.rejected == 1 and statistics.clients.keys() == {f"{platform.node()}:{os.getpid()}"}


def test_statistics_are_bounded() -> None:
    """Guards the server's memory against clients with ever new names."""
    log = CallLog(lambda: 0.0)
    for index in range(3 * NEWEST):
        log.heard(Client(str(index), "x" * 1000 + str(index)).name)
        log.heard(str(index))
        log.record("state", float(index), False)
    statistics = log.statistics()
    assert len(statistics.clients) == CLIENTS and max(map(len, statistics.clients)) <= 80
    assert statistics.calls["state"].count == 3 * NEWEST and statistics.calls["state"].p50 >= 2 * NEWEST


def test_quantiles() -> None:
    """Guards against an off-by-one that hides the slowest calls."""
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([float(value) for value in range(100)], 0.99) == 99.0
    assert quantile([2.0, 1.0, 3.0], 0.5) == 2.0
