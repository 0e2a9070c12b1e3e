"""The Robotiq 2F over each of its three wires, against an emulated gripper on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from robotiq_emulator import Fingers, RtuServer, crc, modbus_server, urcap_server

from robot_servers.drivers.fake import LIMITS
from robot_servers.drivers.ur import UrDriver
from robot_servers.grippers.none import NoGripper
from robot_servers.grippers.robotiq import RobotiqGripper
from robot_servers.grippers.robotiq_wire import Request, Status, UrcapWire, Wire, modbus_rtu, modbus_tcp
from robot_servers.interface import RobotError, Tool
from robot_servers.real import Real
from robot_servers.real import gripper as named

WIRES = ("urcap", "tcp", "rtu")
PATIENCE = 20.0  # s; generous, for busy machines


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait, within bounds, for another thread."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE, what
        time.sleep(0.005)


def plugged(kind: str, fingers: Fingers, folder: Path) -> tuple[Any, Wire]:
    if kind == "urcap":
        server = urcap_server(fingers)
        return server, UrcapWire("127.0.0.1", server.port)
    if kind == "tcp":
        server = modbus_server(fingers)
        return server, modbus_tcp("127.0.0.1", server.port)
    rtu = RtuServer(fingers, folder)
    return rtu, modbus_rtu(str(rtu.port))


class Bench:
    """A gripper on the bench: the fingers, the cable and the object under test."""

    def __init__(self, kind: str, fingers: Fingers, folder: Path) -> None:
        self.fingers = fingers
        self.cable, wire = plugged(kind, fingers, folder)
        self.gripper = RobotiqGripper(wire)

    def moved(self, width: float) -> str:
        """Move and wait until it rests: what it then says of its grip."""
        self.gripper.move(width)
        until(lambda: self.gripper.grip() != "moving", f"no end of the move to {width}")
        return self.gripper.grip()


@pytest.fixture(params=WIRES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(request.param, Fingers(), tmp_path)
    yield bench
    bench.gripper.close()
    bench.cable.unplug()


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Bench]:
    """Over the text socket, connected."""
    bench = Bench("urcap", Fingers(), tmp_path)
    bench.gripper.connect()
    yield bench
    bench.gripper.close()


def test_opens_closes_and_opens_in_its_own_numbers(bench: Bench):
    """A swapped or unscaled number closes where it should open (255 is closed), or never reaches width 0."""
    bench.gripper.connect()
    assert bench.fingers.activations == 1
    assert bench.gripper.width() == 1.0 and bench.gripper.grip() == "idle"
    bench.fingers.requests.clear()
    assert bench.moved(0.0) == "lost"  # it closed on nothing
    assert bench.gripper.width() == 0.0 and round(bench.fingers.position) == bench.fingers.ends[1]
    assert bench.moved(1.0) == "idle"
    assert bench.gripper.width() == 1.0 and round(bench.fingers.position) == bench.fingers.ends[0]
    assert bench.moved(0.5) == "idle"
    assert bench.gripper.width() == pytest.approx(0.5, abs=0.01)
    assert bench.fingers.requests[:2] == [255, 0]


def test_object_held_then_lost(bench: Bench):
    """A learner that hears "idle" about a held object, or "holding" about a dropped one, learns the wrong thing."""
    bench.gripper.connect()
    bench.fingers.thing = 120
    assert bench.moved(0.0) == "holding"
    assert 0.4 < bench.gripper.width() < 0.6
    bench.fingers.thing = None
    until(lambda: bench.gripper.grip() == "lost", "the loss of the object was not noticed")
    assert bench.moved(1.0) == "idle"


def test_unplugged_and_plugged_again(bench: Bench):
    """A cable that was pulled must neither block a caller nor need a restart of the server."""
    bench.gripper.connect()
    bench.cable.unplug()
    until(lambda: bool(bench.gripper.trouble()), "the pulled cable was not noticed")
    bench.gripper.move(0.5)  # nobody waits for the device
    assert bench.gripper.width() == 1.0
    bench.cable.plug()
    until(lambda: not bench.gripper.trouble(), "it did not connect again")
    until(lambda: bench.gripper.grip() == "idle", "what was asked meanwhile is forgotten")
    assert bench.gripper.width() == pytest.approx(0.5, abs=0.01)


def test_active_gripper_is_left_alone(tmp_path: Path):
    """It may hold something when a server is started again: activating or measuring it would drop that."""
    bench = Bench("urcap", Fingers(active=True), tmp_path)
    bench.gripper.connect()
    assert bench.fingers.activations == 0 and bench.fingers.requests == []
    bench.gripper.close()


def test_stuck_half_way_says_so(ready: Bench):
    """Fingers that do not get on are no motion: a reset would wait for ever, and nobody would know why."""
    ready.fingers.jam = 100
    ready.gripper.move(0.0)
    until(lambda: "stuck at 100" in ready.gripper.trouble(), "a stuck gripper was not noticed")
    arm = UrDriver("127.0.0.1", LIMITS, model="ur5", tool=Tool(), gripper=ready.gripper)
    assert "stuck at 100" in arm.health().gripper and not arm.health().fault
    assert ready.gripper.grip() == "idle"
    ready.fingers.jam = None
    until(lambda: ready.gripper.grip() == "lost", "freed, it did not go on")
    assert not ready.gripper.trouble()


def test_stop_keeps_the_grip(ready: Bench):
    """A stop that opens the fingers drops what they hold on somebody's foot."""
    ready.fingers.thing = 120
    assert ready.moved(0.0) == "holding"
    asked = list(ready.fingers.requests)
    ready.gripper.stop()
    time.sleep(0.1)
    assert ready.gripper.grip() == "holding" and ready.fingers.requests == asked


def test_stop_ends_a_motion(tmp_path: Path):
    """Fingers that go on closing after a stop catch the hand that comes to help."""
    bench = Bench("urcap", Fingers(active=True), tmp_path)
    bench.fingers.jam = 100  # so slow that the stop comes in time
    bench.gripper.connect()
    bench.gripper.move(0.0)
    until(lambda: bench.fingers.requests == [255], "the move did not arrive")
    bench.gripper.stop()
    until(lambda: bench.gripper.grip() == "idle", "it still moves")
    rest, bench.fingers.jam = bench.fingers.status()["POS"], None
    time.sleep(0.1)
    assert bench.fingers.status()["POS"] == rest <= 100
    bench.gripper.close()


def test_power_cut_needs_a_move_to_activate(ready: Bench):
    """Fingers that open by themselves when the power comes back drop what they hold."""
    ready.fingers.cut_power()
    until(lambda: "not active" in ready.gripper.trouble(), "the lost activation was not noticed")
    assert ready.fingers.activations == 1
    assert ready.moved(0.5) == "idle"
    assert ready.fingers.activations == 2 and ready.gripper.width() == pytest.approx(0.5, abs=0.01)


def test_faults_are_said_in_words(ready: Bench):
    """A number helps nobody at the robot."""
    ready.fingers.fault = 8
    until(lambda: "cool down" in ready.gripper.trouble(), "the fault was not reported")


def test_nobody_waits_for_a_silent_device():
    """A control cycle that waits for a gripper's answer is a control cycle that stops."""
    silence = threading.Event()

    class Silent:
        def open(self) -> None: ...
        def close(self) -> None: ...
        def write(self, request: Request) -> None:
            silence.wait(PATIENCE)

        def read(self) -> Status:
            return Status(3, 3, 0, 0, 0)

    gripper = RobotiqGripper(Silent())
    gripper.connect()
    gripper.move(0.0)
    begun = time.monotonic()
    for _ in range(1000):
        gripper.move(0.2)
        gripper.stop()
        assert gripper.grip() == "moving" and gripper.width() == 1.0
    assert time.monotonic() - begun < PATIENCE / 2  # else one of them waited for the device
    silence.set()
    gripper.close()


@pytest.mark.parametrize("wire", WIRES)
def test_absent_gripper_is_an_error_that_names_it(wire: str, tmp_path: Path):
    """A hang or a traceback from three libraries below helps nobody."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wires = {"urcap": UrcapWire("127.0.0.1", port), "tcp": modbus_tcp("127.0.0.1", port)}
    gripper = RobotiqGripper(wires.get(wire) or modbus_rtu(str(tmp_path / "nothing")))
    with pytest.raises(RobotError, match="no Robotiq gripper at"):
        gripper.connect()


@pytest.mark.parametrize("width", [float("nan"), float("inf")])
def test_width_that_is_no_number_is_refused(ready: Bench, width: float):
    """nan compares false with every bound and would be sent as some register value."""
    with pytest.raises(RobotError, match="must be a number"):
        ready.gripper.move(width)


def test_no_gripper():
    """A driver without a gripper needs no special case."""
    gripper = NoGripper()
    gripper.connect()
    gripper.move(0.0)
    gripper.stop()
    assert gripper.width() == 1.0 and gripper.grip() == "none"


def test_emulator_frames_are_those_of_the_manual():
    """An emulator that agrees only with our own client proves nothing: the manual's example, with its checksum."""
    assert crc(bytes.fromhex("090407D00003")) == bytes.fromhex("B1CE")
    assert crc(bytes.fromhex("090406F90000000D00")) == bytes.fromhex("17AA")


@pytest.mark.parametrize("name", ["robotiq-urcap", "robotiq-tcp=10.0.0.2", "robotiq-rtu=/dev/ttyUSB0"])
def test_named_on_the_command_line(name: str):
    """A gripper that cannot be named cannot be used."""
    assert isinstance(named(Real("127.0.0.1", name)), RobotiqGripper)


@pytest.mark.parametrize(("name", "match"), [("robotiq", "did you mean"), ("robotiq-rtu", "serial port")])
def test_misnamed_gripper_is_refused(name: str, match: str):
    """The wrong gripper's numbers open where they should close."""
    with pytest.raises(RobotError, match=match):
        named(Real("127.0.0.1", name))
