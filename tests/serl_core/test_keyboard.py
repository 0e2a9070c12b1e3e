import os
import pty
import queue
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from device_parts import never, until
from hypothesis import given
from hypothesis import strategies as st

from serl_core.envs.takeover_machine import TakeoverMachine
from serl_core.teleop.device import CLUTCH, DeviceError, Reading
from serl_core.teleop.keyboard import HOLD, KEYS, HeldKeys, motion_of, take
from serl_core.teleop.keyboard_terminal import GRIP, TerminalKeyboard
from serl_core.teleop.reader import Reader
from serl_core.teleop.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def terminal():
    """Both ends of a pseudo terminal: the person's, the program's."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


@given(st.lists(st.tuples(st.sampled_from([*KEYS, "x", "7"]), st.floats(0, 0.5))), st.floats(HOLD * 1.01, 10))
def test_motion_ends_soon_after_the_last_sign_of_a_key(presses, later):
    """The dead man's grip: whatever was typed, without further signs nothing moves after a quarter of a second."""
    held, now = HeldKeys(), 0.0
    for key, pause in presses:
        now += pause
        held.press(key, now)
    assert held.held(now + later) == ()


def test_a_key_that_repeats_stays_held():
    """Motion that stutters with the keyboard's repetition would be recorded as a stutter."""
    held = HeldKeys()
    for repeat in range(20):
        held.press("w", repeat * 0.04)
        assert held.held(repeat * 0.04 + 0.03) == ("w",)


def test_a_key_that_was_not_pressed_here_does_nothing():
    """A key that was held when our window got the focus was not meant for the arm."""
    held = HeldKeys()
    held.press("w", 0.0)
    held.see(["w", "s"], 0.1)
    assert held.held(0.1) == ("w",)
    held.see(["s"], 0.2)
    assert held.held(0.2) == ()


def test_keys_mean_what_the_legend_says():
    """Forward, left and up are positive; capitals too, as Caps Lock gives them; opposites cancel."""
    held = HeldKeys()
    for key in ("W", "a", "q", "l", "i", "u", "c"):
        held.press(key, 0.0)
    motion = motion_of(held.held(0.0))
    np.testing.assert_array_equal(motion.twist, np.ones(6))
    assert motion.buttons == (True, False, True)
    assert not motion_of(("w", "s", "left", "right")).twist.any()
    assert motion_of(("w", "s")).buttons[CLUTCH] and not motion_of(()).buttons[CLUTCH]
    assert motion_of(("w", "up")).twist[0] == 1.0
    assert motion_of("v").buttons == (False, True, True)


def test_presses_that_wait_are_taken_together():
    """One for each poll would let a fast typist's backlog move the arm later."""
    presses = queue.SimpleQueue()
    for number in range(5):
        presses.put(("w", float(number)))
    assert len(take(presses, 0.0)) == 5
    assert take(presses, 0.0) == []


def test_a_key_typed_into_the_terminal_moves_and_ends(terminal):
    """No display: the keys of the terminal act at once, and only while they come."""
    person, program = terminal
    with Reader(TerminalKeyboard(descriptor=program)) as reader:
        os.write(person, b"w\x1b[D")
        until(lambda: reader.read().twist[:2].tolist() == [1.0, 1.0])
        until(lambda: not reader.read().twist.any())
        assert reader.read().connected


@pytest.mark.parametrize("hz", [10, 20])
@pytest.mark.parametrize("pause", [0.25, 0.4, 0.5, 0.66])
def test_a_held_key_is_one_takeover(terminal, hz, pause):
    """Between a key's press and its first repeat the policy must not have the arm: takeovers would be counted twice."""
    now, logic = [0.0], TakeoverMachine()
    keyboard = TerminalKeyboard(shared=True, descriptor=terminal[1], now=lambda: now[0])
    keyboard.open()
    signs = [0.0, *np.arange(pause, 2.0, 0.04)]
    found, moved = [], []
    for moment in np.arange(0.01, 4.0, 1.0 / hz):
        while signs and signs[0] <= moment:
            now[0] = signs.pop(0)
            keyboard.heard(["w"])
        now[0] = float(moment)
        motion = keyboard.poll(0.0)
        assert motion is not None
        found.append(logic.update(Reading(0.5 * motion.twist, motion.buttons), now[0]))
        moved.append(bool(motion.twist.any()))
    assert found == sorted(found, reverse=True) and set(found) == {0, -1}
    assert not any(moved[round((2.0 + HOLD) * hz) + 1 :])  # the arm itself stops soon
    assert -1 in found[: round((2.0 + GRIP + 0.5) * hz)]


def test_a_paste_moves_nothing(terminal):
    """Text that was meant for another window arrives all at once."""
    person, program = terminal
    with Reader(TerminalKeyboard(descriptor=program)) as reader:
        time.sleep(0.1)  # the terminal is read key by key by now: its lines are not cut
        os.write(person, b"please draw a cow")
        never(lambda: bool(reader.read().twist.any()))


def test_a_terminal_can_be_shared(terminal):
    """Two readers of one terminal would steal each other's keys: verdicts would get lost."""
    person, program = terminal
    keyboard = TerminalKeyboard(shared=True, descriptor=program)
    with Terminal([keyboard], program), Reader(keyboard) as reader:
        os.write(person, b"a")
        until(lambda: reader.read().twist[1] == 1.0)


def test_a_terminal_that_is_closed_lets_go():
    """An ssh connection that breaks must not leave the arm moving."""
    person, program = pty.openpty()
    with Reader(TerminalKeyboard(descriptor=program)) as reader:
        os.write(person, b"w")
        until(lambda: reader.read().twist.any())
        os.close(person)
        until(lambda: not reader.read().connected)
    os.close(program)


def test_no_terminal_is_an_error():
    """Behind nohup or a pipe no key will ever come."""
    with Path(os.devnull).open() as nothing, pytest.raises(DeviceError, match="no terminal"):
        TerminalKeyboard(descriptor=nothing.fileno()).open()


def test_keys_reach_the_command_and_the_terminal_is_put_back(tmp_path):
    """The whole command at a terminal of its own, ended by Ctrl-C as a person ends it."""
    person, program = pty.openpty()
    script = (
        "trap : INT; stty -a | grep -o '.icanon'; "
        + f"{sys.executable} -m serl_core.cli teleop test keyboard:terminal "
    )
    script += f"--json {tmp_path}/seen.json; stty -a | grep -o '.icanon'"
    process = subprocess.Popen(
        ["setsid", "--ctty", "sh", "-c", script],
        stdin=program, stdout=program, stderr=program, cwd=ROOT, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(program)
    said, stopped, deadline = b"", False, time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([person], [], [], 0.1)[0]:
                try:
                    said += os.read(person, 65536)
                except OSError:
                    break  # its other end is closed
            if b"+0.50" in said and not stopped:
                stopped = os.write(person, b"\x03") == 1
            elif b"age" in said and not stopped:
                os.write(person, b"w")
        assert process.wait(30) == 0
    finally:
        process.send_signal(signal.SIGKILL) if process.poll() is None else None
        os.close(person)
    assert b"buttons seen: w" in said
    assert said.count(b" icanon") == 2
    assert '"w"' in (tmp_path / "seen.json").read_text()
