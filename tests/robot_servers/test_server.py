"""The server: whatever arrives is answered or rejected, and the service goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers import wire
from robot_servers.__main__ import build
from robot_servers.answering import answer_request
from robot_servers.client import RobotClient, TruthClient
from robot_servers.drivers.fake import LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, CommandRefused, Frame, MoveTo, RobotError
from robot_servers.keys import check_address
from robot_servers.lease import Lease
from robot_servers.server import Server, robot_calls

ME = {"kind": "Client", "ident": "1", "name": "a test"}
LOOPBACK = "tcp://127.0.0.1:*"


@contextlib.contextmanager
def serving(driver: FakeDriver, truth: bool = True, silence: float | None = None) -> Iterator[Server]:
    robot = GuardedRobot(driver)
    robot.connect()
    with Server(robot, LOOPBACK, LOOPBACK if truth else None, silence=silence) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()
            robot.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(FakeDriver(cameras=("front", "wrist"))) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[RobotClient]:
    with RobotClient(server.address) as client:
        yield client


@contextlib.contextmanager
def raw_socket(address: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        yield socket


def ask(socket: zmq.Socket[bytes], frames: list[Any]) -> Any:
    socket.send_multipart(frames)
    assert socket.poll(5000), "the server did not answer"
    return wire.decode(socket.recv_multipart())


def request(name: str, *args: Any, ident: Any = 1) -> list[Any]:
    return wire.encode({"id": ident, "call": name, "args": list(args), "client": ME})


def free() -> Lease:
    return Lease(1.0, ended=lambda: None)


def test_counts_arrive_in_order_over_the_wire(client: RobotClient) -> None:
    """Guards against a state or an image lost, repeated or reordered between driver and client."""
    start = int(client.state().q[0])
    for step in range(1, 30):
        client.advance(0.05)
        assert client.state().q[0] == start + 5 * step == client.frames()["wrist"].number


def test_the_whole_interface_over_the_wire(client: RobotClient) -> None:
    """Guards against a call that works on the robot itself and not over the wire."""
    state = client.state()
    applied = client.command(Command(state.pose + np.array([1.0, 0, 0, 0, 0, 0, 0]), 0.5, state.time))
    assert [bend.limit for bend in applied.bends] == ["step"] and applied.gripper == 0.5
    client.hold("test")
    assert client.status().mode == "holding" and client.status().reason == "test"
    client.reset((MoveTo((0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0)),))
    client.advance(5.0)
    assert client.status().mode == "idle"
    assert client.metadata.limits == LIMITS and client.metadata.cameras == {"front": (128, 128), "wrist": (128, 128)}


def test_refusals_arrive_as_refusals(client: RobotClient) -> None:
    """Guards against a refused command that looks like an accepted one, or like a broken server."""
    state = client.state()
    with pytest.raises(CommandRefused, match="not finite"):
        client.command(Command(np.full(7, np.nan), None, state.time))
    with pytest.raises(CommandRefused, match=r"Command\.pose: expected an array"):
        client.command(Command([0.5] * 7, None, state.time))  # type: ignore[arg-type]
    with pytest.raises(CommandRefused, match="nothing was sent"):
        client.command(Command(np.array([object()] * 7), None, state.time))
    with pytest.raises(CommandRefused, match="box x"):
        client.reset((MoveTo((5.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0)),))


MALFORMED: list[list[bytes]] = [
    [b""],
    [b"\x80\x04\x95pickle"],
    [b"\xc1" * 100],
    [wire.encode({"id": 1})[0]],  # type: ignore[list-item]
    [wire.encode([1, 2, 3])[0]],  # type: ignore[list-item]
    request("state", ident="one"),
    request("state", 1, 2),
    request("command", {"kind": "Command"}),
    request("command", None),
    request("reset", [{"kind": "Explode"}]),
    request("advance", "soon"),
    wire.encode({"id": 1, "call": "state", "args": [], "client": "me"}),  # type: ignore[list-item]
    wire.encode({"id": 1, "call": "acquire", "args": [None]}),  # type: ignore[list-item]
    [*request("state"), b"surplus"],
    [bytes(1 << 19)] * 3,
    [b""] * 5000,
]


@pytest.mark.parametrize("frames", MALFORMED)
def test_malformed_messages_are_answered_and_logged(
    server: Server, client: RobotClient, frames: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against malformed, truncated or oversized messages ending the service, or vanishing without a trace."""
    with raw_socket(server.address) as socket:
        answer = ask(socket, frames)
    assert answer["error"]["kind"] == "WireError" and answer["error"]["text"]
    assert any("rejected" in record.message for record in caplog.records)
    assert client.state().pose.shape == (7,)


def test_a_frame_beyond_the_cap_is_not_even_received(server: Server, client: RobotClient) -> None:
    """Guards the server's memory: a frame over the cap ends the connection it came from, and no other."""
    with raw_socket(server.address) as socket:
        socket.send_multipart([bytes(2 << 20)])
        assert not socket.poll(200)
    assert client.state().pose.shape == (7,)


def test_long_texts_are_cut(server: Server, client: RobotClient) -> None:
    """Guards against a status that carries a megabyte, and a search for the nearest name that takes minutes."""
    client.hold("because " * 1000)
    assert len(client.status().reason) == 200
    with raw_socket(server.address) as socket:
        assert "unknown call" in ask(socket, request("x" * 500_000))["error"]["text"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3))
def test_random_messages_get_an_error(frames: list[bytes]) -> None:
    """Guards against any bytes raising out of the server's loop."""
    answer = wire.decode(answer_request(frames, {}, free()))
    assert answer["error"]["text"]


def test_unknown_calls_name_the_nearest(server: Server) -> None:
    """Guards against a typo that costs an afternoon, and against the truth leaking through the public socket."""
    with raw_socket(server.address) as socket:
        assert 'did you mean "frames"?' in ask(socket, request("frame"))["error"]["text"]
        assert "unknown call" in ask(socket, request("ground_truth"))["error"]["text"]


def test_a_failing_handler_is_answered_and_the_service_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Guards against an exception in a handler killing the server's thread."""
    driver = FakeDriver(cameras=("front",))

    def broken() -> Any:
        raise ZeroDivisionError("a bug \udcff")

    driver.frames = broken  # type: ignore[method-assign]
    with serving(driver) as server, RobotClient(server.address) as client:
        with pytest.raises(RobotError, match="ZeroDivisionError: a bug"):
            client.frames()
        assert client.state().pose.shape == (7,)
    assert any("service goes on" in record.message for record in caplog.records)


def test_clients_do_not_mix(server: Server) -> None:
    """Guards against one client's answer going to another, and against one that never reads blocking the rest."""
    with raw_socket(server.address) as mute, RobotClient(server.address) as client:
        for _ in range(300):
            mute.send_multipart(request("frames"))
        for _ in range(20):
            assert client.status().mode in ("idle", "moving", "holding")


def test_truth_only_on_its_own_socket(server: Server) -> None:
    """Guards against a policy that could read the ground truth: it needs the other address."""
    assert server.truth_address is not None
    truth = TruthClient(server.truth_address)
    assert truth.ground_truth()["success"] is False
    with raw_socket(server.truth_address) as socket:
        assert "unknown call" in ask(socket, request("state"))["error"]["text"]
    truth.close()
    with serving(FakeDriver(), truth=False) as closed:
        assert closed.truth_address is None


def test_hung_server_thread_ends_in_a_hold() -> None:
    """Guards against an arm that goes on moving when its server hangs: the cycle holds without it."""
    driver = FakeDriver(clock="realtime", cameras=("front",))
    release = threading.Event()

    def hang() -> dict[str, Frame]:
        release.wait(20)
        return {}

    driver.frames = hang  # type: ignore[method-assign]
    robot = GuardedRobot(driver)
    robot.connect()
    with Server(robot, LOOPBACK) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = RobotClient(server.address, timeout=1.0)
        client.connect()
        state = client.state()
        client.command(Command(state.pose + np.array([0.05, 0, 0, 0, 0, 0, 0]), None, state.time))
        with pytest.raises(RobotError, match="no answer"):
            client.frames()
        assert robot.status().mode == "holding"
        release.set()
        client.close()
        server.stop()
        thread.join()
    robot.close()


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5555", "tcp://192.168.1.5:5555", "tcp://*:5555", "tcp://robot:5555"]
)
def test_routable_addresses_need_consent(address: str) -> None:
    """Guards against a robot that anyone in the building can move."""
    with pytest.raises(RobotError, match="without keys"):
        check_address(address, secured=False, insecure=False)
    check_address(address, secured=False, insecure=True)
    check_address(address, secured=True, insecure=False)
    check_address("tcp://[::1]:5", secured=False, insecure=False)
    check_address("tcp://127.0.0.1:*", secured=False, insecure=False)


def test_taken_ports_say_so(server: Server) -> None:
    """Guards against a second server that fails without a word."""
    robot = GuardedRobot(FakeDriver())
    robot.connect()
    with pytest.raises(RobotError, match="another server"), Server(robot, server.address):
        pass


def test_calls_cover_the_protocol() -> None:
    """Guards against a method of the robot that was forgotten on the wire."""
    read = {"hello", "state", "frames", "status", "statistics", "time", "hold", "stop", "recover"}
    change = {"command", "reset", "confirm", "guide", "advance"}
    calls = robot_calls(GuardedRobot(FakeDriver()), free())
    assert set(calls) == read | change | {"acquire", "release"}
    assert {name for name, call in calls.items() if call.access == "owner"} == change


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["fak"], 'did you mean "fake"?'),
        (["fake", "--prot", "1"], 'did you mean "--port"?'),
        (["fake", "--host", "0.0.0.0"], "refusing"),
        (["fake", "--clock", "lockste"], "lockstep"),
        (["fake", "--port", "http"], "invalid int"),
    ],
)
def test_wrong_arguments_give_one_line(arguments: list[str], hint: str) -> None:
    """Guards against a traceback where a name was misspelt."""
    done = subprocess.run(
        [sys.executable, "-m", "robot_servers", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and hint in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_line_serves_until_a_signal(number: int) -> None:
    """Guards against a server that says ready before it is, or that a signal leaves running."""
    command = [sys.executable, "-m", "robot_servers", "fake", "--port", "0", "--truth-port", "0", "--clock", "lockstep"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[0] == "ready" and words[2] == "truth"
        with RobotClient(words[1]) as client:
            assert client.metadata.robot == "fake"
        assert TruthClient(words[3]).ground_truth()["success"] is False
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0 and errors == ""
    finally:
        process.kill()
        process.wait()


def test_build_checks_names_and_limits() -> None:
    """Guards against a server that starts with limits the robot does not allow."""
    with pytest.raises(RobotError, match="did you mean"):
        build("fakes")
    assert build("fake", limits=LIMITS, clock="lockstep") is not None
