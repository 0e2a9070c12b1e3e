"""The client: bounded waits and clear errors, whatever is at the other end."""

from __future__ import annotations

import contextlib
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from examples.benchmarks.ports import free_address
from robot_servers import wire
from robot_servers.channel import raise_error
from robot_servers.client import RobotClient, TruthClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.hello import read_hello
from robot_servers.interface import PROTOCOL_VERSION, CommandRefused, Robot, RobotError

Answer = Callable[[dict[str, Any]], list[Any] | None]


@contextlib.contextmanager
def fake_server(answer: Answer) -> Iterator[str]:
    """A peer that answers each request with the frames that ``answer`` makes of it, or not at all."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                if socket.poll(20):
                    peer, *frames = socket.recv_multipart()
                    frames = answer(wire.decode(frames))
                    if frames is not None:
                        socket.send_multipart([peer, *frames])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{port}"
        finally:
            stop.set()
            thread.join()


def hello_of(request: dict[str, Any]) -> list[Any]:
    robot = GuardedRobot(FakeDriver())
    robot.connect()
    hello = {"protocol": PROTOCOL_VERSION, "metadata": wire.to_tree(robot.metadata)}
    return wire.encode({"id": request["id"], "ok": hello})


@pytest.mark.timeout(30)
def test_absent_server_is_an_error_within_five_seconds() -> None:
    """Guards against a client that waits for ever for a server nobody started."""
    with pytest.raises(RobotError, match=r"no robot server answers at tcp://127.0.0.1:\d+ .* start one with"):
        RobotClient(free_address()).connect()


def test_something_else_at_the_address_is_an_error() -> None:
    """Guards against a hang on a port where another program listens."""
    with sockets.create_server(("127.0.0.1", 0)) as other, pytest.raises(RobotError, match="no robot server answers"):
        RobotClient(f"tcp://127.0.0.1:{other.getsockname()[1]}").connect()


@pytest.mark.parametrize("address", ["127.0.0.1:5555", "robot", "tcp://127.0.0.1", "http://127.0.0.1:1"])
def test_wrong_addresses_say_what_is_expected(address: str) -> None:
    """Guards against an obscure socket error for a missing tcp://."""
    with pytest.raises(RobotError, match="expected tcp://HOST:PORT"):
        RobotClient(address).connect()


def test_other_protocol_versions_are_named() -> None:
    """Guards against two versions that misunderstand each other."""

    def hello(request: dict[str, Any]) -> list[Any]:
        return wire.encode({"id": request["id"], "ok": {"protocol": 99, "metadata": {"new": 1}}})

    both = f"speaks protocol 99, this client speaks {PROTOCOL_VERSION}"
    with fake_server(hello) as address, pytest.raises(RobotError, match=both):
        RobotClient(address).connect()


@pytest.mark.parametrize("hello", [None, 3, {}, {"protocol": "1"}, {"protocol": PROTOCOL_VERSION, "metadata": {}}])
def test_wrong_metadata_is_an_error(hello: Any) -> None:
    """Guards against a crash, or against going on without knowing the robot's limits."""
    with pytest.raises(RobotError, match="the server at tcp://x"):
        read_hello(hello, "tcp://x")


def test_garbage_for_an_answer_is_an_error() -> None:
    """Guards against an exception of the decoder reaching the control loop."""
    client_calls: list[Callable[[RobotClient], Any]] = [lambda c: c.state(), lambda c: c.frames(), lambda c: c.status()]
    for garbage in ([b"\xc1"], wire.encode({"id": None, "ok": {"kind": "Nothing"}}), wire.encode([1])):

        def answer(request: dict[str, Any], garbage: list[Any] = garbage) -> list[Any]:
            return hello_of(request) if request["call"] == "hello" else garbage

        with fake_server(answer) as address, RobotClient(address, timeout=1.0) as client:
            for call in client_calls:
                with pytest.raises(RobotError, match=r"not like a robot server|malformed answer"):
                    call(client)


def test_late_answers_never_reach_later_calls() -> None:
    """Guards against an answer that comes after its timeout being taken for that of the next call."""
    late: list[Any] = []

    def answer(request: dict[str, Any]) -> list[Any] | None:
        if request["call"] == "hello":
            return hello_of(request)
        if not late:  # the first call is answered with the second one's arrival
            late.append(request["id"])
            return None
        return wire.encode({"id": late[0], "ok": {"count": "stale"}})

    with fake_server(answer) as address:
        truth = TruthClient(address, timeout=0.3)
        for _ in range(2):
            with pytest.raises(RobotError, match="no answer"):
                truth.ground_truth()
        truth.close()


def test_silent_server_is_a_bounded_wait() -> None:
    """Guards against a control loop that a hung server stops for ever."""

    def answer(request: dict[str, Any]) -> list[Any] | None:
        return hello_of(request) if request["call"] == "hello" else None

    with (
        fake_server(answer) as address,
        RobotClient(address, timeout=0.2) as client,
        pytest.raises(RobotError, match=r'no answer to "state" .* within 0.2 s'),
    ):
        client.state()


def test_calls_before_connect_say_what_to_do() -> None:
    """Guards against an obscure None where the metadata should be."""
    with pytest.raises(RobotError, match=r"connect\(\)"):
        _ = RobotClient("tcp://127.0.0.1:1").metadata


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ({"kind": "CommandRefused", "text": "stale"}, CommandRefused, "^stale$"),
        ({"kind": "RobotError", "text": "broken"}, RobotError, "^broken$"),
        ({"kind": "KeyError", "text": "'x'"}, RobotError, "KeyError: 'x'"),
        ("oops", RobotError, "malformed error"),
    ],
)
def test_errors_keep_their_class(error: Any, kind: type[Exception], text: str) -> None:
    """Guards against a refusal that looks like a fault, or a fault that looks like a refusal."""
    with pytest.raises(kind, match=text) as caught:
        raise_error(error)
    assert type(caught.value) is kind


def test_client_and_guarded_robot_satisfy_robot() -> None:
    """Guards against a remote robot that is not a robot; the assignments are checked by the type checker."""
    robots: list[Robot] = [RobotClient("tcp://127.0.0.1:1"), GuardedRobot(FakeDriver())]
    assert len(robots) == 2 and np.isfinite(PROTOCOL_VERSION)
