"""What comes over the wire from a lab's SERL server: its states, and a connection that may do anything."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from http_site import PATIENCE, site, wait_for
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.drivers.fake import FakeDriver
from robot_servers.drivers.serl_http import SerlHttpDriver
from robot_servers.drivers.serl_http_link import Errand, Errands, HttpLink
from robot_servers.drivers.serl_http_state import SETTLED, SHAPES, GripWatch, read_state
from robot_servers.interface import RobotError, RobotState
from robot_servers.scenes import load_scene
from robot_servers.serl_dialect import GripperNumbers

SCENE = load_scene("pick_cube")
LIMITS = SCENE.limits


def driver(url: str, **options: object) -> SerlHttpDriver:
    return SerlHttpDriver(url, LIMITS, home_q=SCENE.home_q, **options)


# ── states ───────────────────────────────────────────────────────────────────────────────────────


def answer_of(**changed: object) -> bytes:
    whole = {name: np.zeros(shape).tolist() for name, shape in SHAPES.items()}
    return json.dumps({**whole, "pose": [0.5, 0, 0.3, 1, 0, 0, 0], "gripper_pos": 1.0, **changed}).encode()


def test_a_state_is_read_as_it_is():
    """Guards against swapped fields and against the other dialect's gripper."""
    state = read_state(answer_of(force=[1, 2, 3], gripper_pos=255), 7.0, GripperNumbers("serl", "robotiq"))
    assert isinstance(state, RobotState)
    assert (state.time, state.force.tolist(), state.gripper) == (7.0, [-1.0, -2.0, -3.0], 0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<html>", "JSON"),
        (b"[]", "list"),
        (b"{}", "lacks pose"),
        (answer_of(q=[0.0] * 6), "q has shape"),
        (answer_of(vel="fast"), "not made of numbers"),
        (answer_of(dq=[0, 0, 0, None, 0, 0, 0]), "dq is not"),
        (answer_of(jacobian=[[math.inf] * 7] * 6), "jacobian is not finite"),
        (answer_of(gripper_pos=math.nan), "gripper_pos is not finite"),
        (answer_of(pose=[10**400, 0, 0, 1, 0, 0, 0]), "not made of numbers"),
    ],
)
def test_states_that_cannot_be_meant_are_named(text, words):
    """Guards against a target that is derived from a measurement that is none."""
    with pytest.raises(RobotError, match=words):
        read_state(text, 0.0, GripperNumbers())


@given(st.binary(max_size=300))
def test_no_answer_raises_anything_else(text):
    """Guards against a server's odd answer that ends the cycle without saying where it came from."""
    with pytest.raises(RobotError, match="getstate"):
        read_state(text, 0.0, GripperNumbers())


@pytest.mark.parametrize(
    ("opening", "target", "grip"),
    [(1.0, None, "idle"), (1.0, 1.0, "idle"), (0.45, 0.0, "holding"), (0.0, 0.0, "lost"), (0.5, 0.5, "idle")],
)
def test_what_the_gripper_does_is_told_from_its_opening(opening, target, grip):
    """Guards against an empty gripper that is believed to hold."""
    watch = GripWatch()
    assert watch.see(opening, target, 0.0) == "moving"
    assert watch.see(opening, target, SETTLED + 0.1) == grip


# ── the link ─────────────────────────────────────────────────────────────────────────────────────


def test_of_one_kind_only_the_newest_errand_waits(peer):
    """Guards against a gripper that goes on opening and closing long after the policy has stopped toggling it."""
    errands = Errands(peer.url)
    with contextlib.closing(errands):
        peer.running.clear()
        errands.open()
        errands.put("joints", Errand("startimp", None, PATIENCE))
        wait_for(lambda: not errands._waiting, "the first errand")
        for _ in range(20):
            errands.put("gripper", Errand("close_gripper", None, PATIENCE))
            errands.put("gripper", Errand("open_gripper", None, PATIENCE))
        peer.running.set()
        wait_for(lambda: not errands.busy("gripper"), "the newest errand")
    assert peer.calls == ["startimp", "open_gripper"]
    errands.check()


def test_what_waits_is_not_sent_after_a_stop(peer):
    """Guards against a gripper that closes, or joints that are driven home, after a STOP."""
    errands = Errands(peer.url)
    with contextlib.closing(errands):
        peer.running.clear()
        errands.open()
        errands.put("params", Errand("update_param", {}, PATIENCE))
        wait_for(lambda: not errands._waiting, "the first errand")
        errands.put("joints", Errand("jointreset", None, PATIENCE))
        errands.stop()
        errands.put("gripper", Errand("close_gripper", None, PATIENCE))
        assert not errands.busy("joints") and not errands.busy("gripper")
        peer.running.set()
        wait_for(lambda: not errands.busy("params"), "the first errand's end")
        errands.clear()
        errands.put("gripper", Errand("open_gripper", None, PATIENCE))
        wait_for(lambda: not errands.busy("gripper"), "an errand after it")
    assert peer.calls == ["update_param", "open_gripper"]


def test_a_connection_that_the_server_has_closed_is_opened_again():
    """Guards against a fault after a pause: servers close idle connections as they like."""
    with site(FakeDriver(clock="realtime")) as found, contextlib.closing(HttpLink(found.url)) as link:
        assert link.post("getpos", None, PATIENCE)
        assert link._connection.sock is not None  # it was kept open
        link._connection.sock.shutdown(2)
        assert link.post("getpos", None, PATIENCE)


def test_an_endless_answer_is_refused():
    """Guards the memory of the robot's computer."""
    with (
        _speaking(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000) as url,
        contextlib.closing(HttpLink(url)) as link,
        pytest.raises(RobotError, match="more than"),
    ):
        link.post("getstate", None, PATIENCE)


def test_an_error_of_the_server_is_quoted():
    """Guards against a fault without its cause."""
    with (
        _speaking(b"HTTP/1.0 500 NO\r\n\r\nno jacobian yet") as url,
        contextlib.closing(HttpLink(url)) as link,
        pytest.raises(RobotError, match="status 500: no jacobian yet"),
    ):
        link.post("getstate", None, PATIENCE)


@contextlib.contextmanager
def _speaking(text: bytes) -> Iterator[str]:
    """A server that answers one connection with ``text``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(text)

        thread = threading.Thread(target=speak)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_time_of_a_state_is_when_it_was_asked_for(peer):
    """Guards against states that look younger than they are, by a slow answer."""
    arm = driver(peer.url)
    with contextlib.closing(arm):
        arm.connect()
        before = time.monotonic()
        arm.cycle()
        assert before <= arm.state().time <= time.monotonic()
