"""STOP over the network: it works from anyone, and while everything else on the server hangs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from served import Hang, serving

from examples.benchmarks.ports import free_address
from robot_servers.channel import Channel
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.hello import STATE_PORT, STOP_PORT, beside
from robot_servers.interface import Command, CommandRefused, NotOwner, RobotError
from robot_servers.stop import send_stop, stop_address


def ahead(client: RobotClient) -> Command:
    state = client.state()
    return Command(state.pose + np.array([0.02, 0, 0, 0, 0, 0, 0]), None, state.time)


def test_stop_needs_no_lease_and_ends_every_motion() -> None:
    """Guards against a bystander who cannot stop the arm because somebody else owns it."""
    driver = FakeDriver()
    with serving(driver) as server, RobotClient(server.address) as owner:
        owner.command(ahead(owner))
        send_stop(server.address, "smoke")
        assert driver.stops == 1 and owner.status().mode == "stopped" and owner.status().reason == "smoke"
        with pytest.raises(CommandRefused, match="stopped"):
            owner.command(ahead(owner))


def test_stop_while_the_main_thread_hangs() -> None:
    """Guards against a STOP that waits behind the call that went wrong."""
    driver = FakeDriver(clock="realtime", cameras=("front",))
    hang = Hang()
    driver.frames = hang  # type: ignore[method-assign]
    with serving(driver) as server, RobotClient(server.address, timeout=30.0) as client:
        looker = Channel(server.address, 30.0)
        stuck = threading.Thread(target=looker.call, args=("frames",))
        stuck.start()
        assert hang.entered.wait(10)
        client.stop("the server hangs")
        assert driver.stops == 1
        hang.release.set()
        stuck.join()
        looker.close()
        assert client.status().mode == "stopped"


@pytest.mark.parametrize("clock", ["realtime", "lockstep"])
def test_stop_while_the_driver_hangs(clock) -> None:
    """Guards against a STOP that waits for the very driver that does not come back."""
    driver = FakeDriver(clock=clock)
    with serving(driver) as server, RobotClient(server.address, timeout=0.5) as client:
        driver.running.clear()
        if clock == "lockstep":
            with pytest.raises(RobotError, match="no answer"):
                client.advance(0.1)
        client.stop("the driver hangs")
        assert driver.stops == 1


def test_the_stop_is_found_while_the_main_thread_hangs() -> None:
    """Guards against ``serl stop`` that needs an answer from the server that hangs."""
    driver = FakeDriver(clock="realtime", cameras=("front",))
    hang = Hang()
    driver.frames = hang  # type: ignore[method-assign]
    with serving(driver, free_address((STOP_PORT, STATE_PORT))) as server:
        assert stop_address(server.address) == server.sockets["stop"] == beside(server.address, STOP_PORT)
        looker = Channel(server.address, 30.0)
        stuck = threading.Thread(target=looker.call, args=("frames",))
        stuck.start()
        assert hang.entered.wait(10)
        send_stop(server.address, "the server hangs")
        assert driver.stops == 1
        hang.release.set()
        stuck.join()
        looker.close()


def test_a_stop_that_nobody_hears_says_so() -> None:
    """Guards against a person who believes that the arm has been told to stop."""
    with pytest.raises(RobotError, match="NOT STOPPED, use the hardware stop"):
        send_stop("tcp://127.0.0.1:9", "help")


def test_without_its_socket_the_client_stops_by_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a client whose STOP fails although the server still listens."""
    driver = FakeDriver()
    with serving(driver) as server, RobotClient(server.address) as client:
        dead = Channel("tcp://127.0.0.1:9", 0.2)
        monkeypatch.setattr(client, "_stop_channel", dead)
        client.stop("by the other way")
        assert driver.stops == 1


def test_only_recover_ends_a_stop_and_anyone_may_ask_for_it() -> None:
    """Guards against a stop that a reset or a command ends, and against one that nobody can end."""
    with serving(FakeDriver()) as server, RobotClient(server.address) as owner, RobotClient(server.address) as other:
        owner.command(ahead(owner))
        other.stop("look")
        with pytest.raises(CommandRefused):
            owner.reset(())
        other.recover()
        owner.advance(0.1)
        assert owner.status().mode == "holding"


def test_guiding_is_for_the_owner() -> None:
    """Guards against a bystander who makes the arm limp while it works."""
    with serving(FakeDriver()) as server, RobotClient(server.address) as owner, RobotClient(server.address) as other:
        owner.guide(True)
        owner.advance(0.1)
        assert owner.status().mode == "guiding"
        with pytest.raises(NotOwner):
            other.guide(False)
        owner.guide(False)
        owner.advance(0.1)
        assert owner.status().mode == "holding"


def test_garbage_does_not_end_the_stop_thread() -> None:
    """Guards against one malformed message that silently takes the STOP away."""
    driver = FakeDriver()
    with serving(driver) as server:
        channel = Channel(server.sockets["stop"], 5.0)
        for name, args in (("stop", ()), ("stop", (3,)), ("command", ()), ("x" * 1000, ())):
            with pytest.raises(RobotError):
                channel.call(name, *args)
        assert driver.stops == 0
        channel.call("stop", "because " * 1000)
        channel.close()
        assert driver.stops == 1
