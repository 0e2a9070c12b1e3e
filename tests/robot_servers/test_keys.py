"""CURVE keys: who has none, or the wrong ones, neither moves nor sees a robot, and is told why."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from served import serving

from robot_servers.client import RobotClient, TruthClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.interface import RobotError
from robot_servers.keys import (
    ClientKeys,
    KeyProblem,
    authorised,
    check_address,
    load_client_keys,
    load_server_keys,
    make_keys,
)
from robot_servers.server import Server
from robot_servers.stop import send_stop
from robot_servers.stream import StateStream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def secured(folder: Path) -> Iterator[Server]:
    with serving(FakeDriver(clock="realtime"), truth_address="tcp://127.0.0.1:*", keys=load_server_keys(folder)) as one:
        yield one


def test_every_socket_answers_who_has_the_keys(secured: Server, folder: Path) -> None:
    """Guards against keys that shut out their owner, on any of the sockets."""
    keys = load_client_keys(folder)
    assert secured.truth_address is not None
    with RobotClient(secured.address, keys=keys) as client, StateStream(secured.address, keys=keys) as stream:
        truth = TruthClient(secured.truth_address, keys=keys)
        assert truth.ground_truth()["success"] is False
        assert stream.wait(10.0).pose.shape == (7,)
        send_stop(secured.address, "by key", keys)
        assert client.status().mode == "stopped"
        truth.close()


def stranger(folder: Path) -> ClientKeys:
    public, secret = zmq.curve_keypair()
    return replace(load_client_keys(folder), public=public, secret=secret)


def test_unknown_keys_are_rejected_and_logged(secured: Server, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against a stranger at the arm, and against a rejection that nobody can make out."""
    keys = stranger(folder)
    with pytest.raises(RobotError, match="does not know this client's key"):
        RobotClient(secured.address, keys=keys).connect()
    assert any("rejected an unknown key from 127.0.0.1" in record.message for record in caplog.records)
    assert keys.public.decode() in caplog.text and keys.secret.decode() not in caplog.text


def test_without_keys_nothing_comes_through(secured: Server) -> None:
    """Guards against a secured server that also answers in the clear, on any of its sockets."""
    with pytest.raises(RobotError, match="one side uses keys and the other does not"):
        RobotClient(secured.address).connect()
    with pytest.raises(RobotError, match="NOT STOPPED"):
        send_stop(secured.address, "without a key")
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(secured.sockets["state"])
        assert not socket.poll(500)


def test_a_false_server_is_noticed(secured: Server, folder: Path) -> None:
    """Guards against a client that tells its commands to whoever sits at the robot's address."""
    keys = replace(load_client_keys(folder), server=zmq.curve_keypair()[0])
    with pytest.raises(RobotError, match=r"is server\.pub its own"):
        RobotClient(secured.address, keys=keys).connect()


def test_a_key_that_is_put_in_place_counts_at_once(secured: Server, folder: Path) -> None:
    """Guards against a server, and with it an arm, that must be stopped to let one more person look."""
    keys = stranger(folder)
    (folder / "clients" / "guest.pub").write_bytes(keys.public + b"\n")
    with RobotClient(secured.address, keys=keys) as client:
        assert client.metadata.robot == "fake"


def test_secrets_are_private_and_never_shown(folder: Path) -> None:
    """Guards against secrets that other users read, or that a log or a config shows."""
    for path in (folder / "server.key", folder / "client.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server, client = load_server_keys(folder), load_client_keys(folder)
    assert server.secret.decode() not in repr(server) and client.secret.decode() not in repr(client)


@pytest.mark.parametrize(("name", "mode", "wanted"), [(".", 0o755, "700"), ("server.key", 0o640, "600")])
def test_open_permissions_are_refused(folder: Path, name: str, mode: int, wanted: str) -> None:
    """Guards against keys that everybody on the machine can copy, unnoticed."""
    (folder / name).chmod(mode)
    with pytest.raises(KeyProblem, match=f"chmod {wanted}"):
        load_server_keys(folder)


def test_keys_are_never_replaced(folder: Path) -> None:
    """Guards against a second call that locks out every machine that has the first one's keys."""
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(KeyProblem, match="already"):
        make_keys(folder)
    assert make_keys(folder, "laptop") == [folder / "laptop.key", folder / "clients" / "laptop.pub"]
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(authorised(folder / "clients").values()) == ["client", "laptop"]


@pytest.mark.parametrize("name", ["../x", "", "server", "a" * 65, "a b"])
def test_client_names_stay_in_the_folder(folder: Path, name: str) -> None:
    """Guards against a name that writes elsewhere, or over the servers' own key."""
    with pytest.raises(KeyProblem, match="client name"):
        make_keys(folder, name)


def test_what_is_missing_or_broken_is_named(folder: Path, tmp_path: Path) -> None:
    """Guards against an obscure error where a file was forgotten or mistyped."""
    with pytest.raises(KeyProblem, match="serl keys"):
        load_client_keys(tmp_path / "nowhere")
    (folder / "server.pub").unlink()
    with pytest.raises(KeyProblem, match=r"server\.pub is missing"):
        load_client_keys(folder)
    (folder / "client.key").write_text("secret")
    with pytest.raises(KeyProblem, match=r"client\.key is not a key"):
        load_client_keys(folder)
    (folder / "clients" / "client.pub").unlink()
    with pytest.raises(KeyProblem, match="nobody could connect"):
        load_server_keys(folder)
    with pytest.raises(KeyProblem, match="without laptop"):
        (folder / "clients" / "laptop.pub").write_text("x" * 40)
        make_keys(folder, "laptop")


def test_routable_addresses_need_keys_or_consent() -> None:
    """Guards against a robot that anyone in the building can move."""
    with pytest.raises(KeyProblem, match="without keys"):
        check_address("tcp://0.0.0.0:1", secured=False, insecure=False)
    check_address("tcp://0.0.0.0:1", secured=True, insecure=False)
    check_address("tcp://0.0.0.0:1", secured=False, insecure=True)
    check_address("tcp://127.8.0.1:1", secured=False, insecure=False)
    with pytest.raises(KeyProblem, match="expected tcp"):
        check_address("udp://127.0.0.1:1", secured=True, insecure=True)
