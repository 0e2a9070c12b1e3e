"""The stream of states: newest first, for many observers, and never at anybody's expense."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import zmq
from served import serving

from robot_servers import wire
from robot_servers.channel import DRIFT, ClockOffset, NoAnswer
from robot_servers.client import RobotClient
from robot_servers.drivers.fake import FakeDriver
from robot_servers.interface import RobotError
from robot_servers.stream import StateStream

OBSERVERS = 20


def test_every_new_state_of_lockstep_arrives_once_and_in_order() -> None:
    """Guards against states that are lost, repeated or reordered between server and observer."""
    with serving(FakeDriver()) as server, RobotClient(server.address) as client, StateStream(server.address) as stream:
        client.advance(0.01)
        until_listening(stream, client)
        for _ in range(50):
            client.advance(0.02)
            state = stream.wait(5.0)
            assert state.q[0] == client.state().q[0] and stream.newest() is state


def until_listening(stream: StateStream, client: RobotClient) -> None:
    """A subscription takes a moment to arrive; whatever was sent by then is taken out of the way."""
    for _ in range(100):
        client.advance(0.01)
        try:
            while stream.wait(0.1).q[0] < client.state().q[0]:
                continue
            return
        except NoAnswer:
            continue
    raise AssertionError("nothing was streamed")


def test_many_observers_follow_a_running_arm() -> None:
    """Guards against a stream slower than the arm is measured, or that serves only the first who asks."""
    with serving(FakeDriver(clock="realtime", cycle_hz=250.0)) as server:
        streams = [StateStream(server.address) for _ in range(OBSERVERS)]
        for stream in streams:
            stream.connect()
        for stream in streams:
            first = stream.wait(10.0)
            later = [stream.wait(10.0).time for _ in range(10)]
            assert later == sorted(set(later)) and later[0] > first.time
        for stream in streams:
            stream.close()


def test_who_does_not_read_delays_nobody() -> None:
    """Guards against a stuck observer holding up the others, the cycle, or the calls."""
    with serving(FakeDriver(clock="realtime", cycle_hz=250.0)) as server, zmq.Context() as context:
        stuck = [context.socket(zmq.SUB) for _ in range(5)]
        for socket in stuck:  # without CONFLATE, and a queue of one: it fills at once and stays full
            socket.setsockopt(zmq.RCVHWM, 1)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(server.sockets["state"])
        with StateStream(server.address) as stream, RobotClient(server.address) as client:
            begun = stream.wait(10.0)
            for _ in range(500):
                newest = stream.wait(10.0)
            assert newest.time - begun.time > 1.0 and client.status().mode == "idle"
        for socket in stuck:
            socket.close()


def test_age_and_offset_on_one_machine() -> None:
    """Guards against an age by the wrong clock: on one machine both clocks are the same one."""
    with serving(FakeDriver(clock="realtime", cycle_hz=250.0)) as server, StateStream(server.address) as stream:
        stream.wait(10.0)
        assert 0.0 < stream.offset.uncertainty() < 2.0
        assert abs(stream.offset.seconds) <= stream.offset.uncertainty()
        exact = time.monotonic() - stream.newest().time
        assert abs(stream.age() - exact) < stream.offset.uncertainty() + 1.0


def test_simulated_time_has_no_age() -> None:
    """Guards against an age that compares simulated time with a real clock."""
    with (
        serving(FakeDriver()) as server,
        StateStream(server.address) as stream,
        pytest.raises(RobotError, match="no age"),
    ):
        stream.age()


def test_messages_carry_the_servers_time() -> None:
    """Guards what observers written in another language read: one frame, state and time of sending."""
    with serving(FakeDriver(clock="realtime")) as server, zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(server.sockets["state"])
        assert socket.poll(10_000)
        (frame,) = socket.recv_multipart()
        tree = wire.unpack(frame)
        assert tree["state"]["kind"] == "RobotState" and tree["time"] >= tree["state"]["time"]


def test_before_the_first_state_there_is_none() -> None:
    """Guards against a made-up state, and against a wait for ever for a server that sends nothing."""
    with serving(FakeDriver()) as server, StateStream(server.address) as stream:
        with pytest.raises(RobotError, match="no state has come"):
            stream.newest()
        with pytest.raises(NoAnswer, match=r"within 0.05 s"):
            stream.wait(0.05)


def test_the_offset_is_bounded_whatever_the_delays() -> None:
    """Guards the promise of `ClockOffset`: the true offset never lies outside of the published uncertainty."""
    rng, now, ahead = np.random.default_rng(0), [0.0], 1234.5
    offset = ClockOffset(lambda: now[0])
    assert offset.uncertainty() == math.inf
    for _ in range(2000):
        drifted = ahead + DRIFT * now[0] * 0.99
        sent, out, back = now[0], rng.exponential(0.002), rng.exponential(0.02)
        now[0] += out + back
        offset.observe(sent, sent + out + drifted, now[0])
        assert abs(offset.seconds - drifted) <= offset.uncertainty() + 1e-6
        now[0] += rng.exponential(1.0)
    assert offset.uncertainty() < 0.01
