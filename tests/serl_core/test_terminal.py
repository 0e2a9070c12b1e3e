"""Keys of the own terminal: what is heard, what is left as it was, and what a paste does."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from fcntl import ioctl

import pytest
from link_ends import eventually

from robot_servers.interface import RobotError
from serl_core.config import ConfigError
from serl_core.teleop.console import Event
from serl_core.teleop.inbox import Inbox
from serl_core.teleop.keyboard import KEYS as MOTION
from serl_core.teleop.terminal import Terminal, key_names
from serl_core.teleop.terminal_console import KEYS, TerminalConsole, parse_keys


class Heard:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def heard(self, keys: Sequence[str]) -> None:
        self.keys += keys

    def tick(self) -> None:
        pass


def open_pair() -> tuple[int, int]:
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"this machine has no pseudo terminals ({error}): mount devpts")


@contextlib.contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = open_pair()
    try:
        yield ours, theirs
    finally:
        os.close(theirs)
        with contextlib.suppress(OSError):
            os.close(ours)


class Desk:
    """A console with the screen and the arm's STOP beside it."""

    def __init__(self, broken: bool = False) -> None:
        self.stopped: list[str] = []
        self.screen = ""
        self.moment = 100.0
        self._broken = broken
        self.inbox = Inbox(self.stop, wall=lambda: 7.0, now=lambda: self.moment)
        self.console = TerminalConsole(self.inbox, write=self.write, width=lambda: 30)

    def stop(self, reason: str) -> None:
        if self._broken:
            raise RobotError("NOT STOPPED, use the hardware stop: nobody answers")
        self.stopped.append(reason)

    def write(self, text: str) -> None:
        self.screen += text

    def events(self) -> list[Event]:
        return [said.event for said in self.inbox.take()]


def test_a_key_is_heard_without_enter_and_the_terminal_is_put_back():
    """Guards against keys that wait for Enter, and against a shell without echo afterwards."""
    with pseudo_terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        listener = Heard()
        with Terminal([listener], theirs):
            assert eventually(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON)
            os.write(ours, b"y")
            assert eventually(lambda: listener.keys == ["y"])
        assert termios.tcgetattr(theirs) == before


def test_without_a_terminal_nothing_is_heard_and_nothing_fails():
    """Guards a service, a container or a pipe at stdin: the actor must run all the same."""
    reading, writing = os.pipe()
    listener = Heard()
    with Terminal([listener], reading) as terminal:
        assert not terminal.exists
    os.write(writing, b"y")
    assert os.read(reading, 1) == b"y" and not listener.keys
    os.close(reading)
    os.close(writing)
    with Terminal([listener], -1) as terminal:
        assert not terminal.exists


def test_a_terminal_that_goes_away_ends_the_listening_only():
    """Guards against a closed ssh session that ends the actor, or makes it spin."""
    ours, theirs = open_pair()
    with Terminal([Heard()], theirs) as terminal:
        os.close(ours)
        thread = terminal._thread
        assert thread is not None
        assert eventually(lambda: not thread.is_alive())
    os.close(theirs)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("y", ["y"]),
        ("\n", ["enter"]),
        ("\r", ["enter"]),
        (" ", ["space"]),
        ("\x1b[A\x1bOB", ["up", "down"]),
        ("\x1b[15~", []),
        ("\x1b[1;5C", ["right"]),
        ("\x1bn", []),
        ("\x1b", ["escape"]),
        ("é\x00\x07", ["é"]),
    ],
)
def test_function_keys_are_not_their_letters(sent, keys):
    """Guards against an arrow key, which sends ESC [ A, that says what A means, and Alt-N that says failure."""
    assert key_names(sent) == keys


def test_each_key_says_its_event():
    """Guards the keymap: one press, one event, through the key, at its time."""
    desk = Desk()
    for key in KEYS:
        desk.console.heard([key])
    said = desk.inbox.take()
    assert [entry.event for entry in said] == list(KEYS.values()) and set(KEYS.values()) == set(Event)
    assert {(entry.source, entry.wall_time) for entry in said} == {("key", 7.0)}
    assert all(event.replace("_", " ") in desk.console.legend() for event in Event)


def test_a_key_that_is_held_counts_once():
    """Guards against an undo that takes back all episodes because a finger rested on the key."""
    desk = Desk()
    for after in (0.0, 0.66, 0.033, 0.033, 0.033):  # the delay and the rate at which keyboards repeat
        desk.moment += after
        desk.console.heard(["z"])
    desk.moment += 1.0
    desk.console.heard(["z"])
    assert desk.events() == [Event.UNDO, Event.UNDO]


def test_no_key_both_moves_the_arm_and_says_something():
    """Guards a terminal that is shared with the keyboard that moves the arm, which takes capitals for the same."""
    assert not {key.lower() for key in KEYS} & set(MOTION)


def test_a_key_that_moves_the_arm_is_no_paste():
    """Guards against a line on the screen for every moment that somebody steers with the keys."""
    desk = Desk()
    desk.console.heard(["w"] * 9)
    assert desk.screen == "" and desk.events() == []


def test_a_paste_says_nothing_but_stop():
    """Guards against a line meant for another window: its letters are verdicts here."""
    desk = Desk()
    desk.console.heard(list("many success"))
    assert desk.events() == [] and "paste" in desk.screen
    desk.console.heard([*"mxyz", "space", *"nnn"])
    assert desk.events() == [Event.STOP] and desk.stopped == ["STOP by key"]


def test_stop_acts_before_the_loop_hears_of_it():
    """Guards against a STOP that waits for a loop that hangs."""
    desk = Desk()
    desk.console.heard(["space", "space"])
    assert desk.stopped == ["STOP by key"] and desk.events() == [Event.STOP]
    desk.console.heard(["space"])
    assert len(desk.stopped) == 2  # at once again: it never counts as a repetition


def test_a_stop_that_failed_says_so():
    """Guards against the worst lie: an arm believed to be stopped."""
    desk = Desk(broken=True)
    desk.console.heard(["space"])
    assert "use the hardware stop" in desk.screen and "the arm is stopped" not in desk.screen


def test_a_loop_that_hangs_is_noticed_and_can_be_stopped():
    """Guards against memory that grows with every key, and against a full queue that swallows STOP."""
    desk = Desk()
    for number in range(100):
        desk.moment = 200.0 + number
        desk.console.heard(["h"])
    assert desk.inbox.waiting() == 64 and "the loop hangs" in desk.screen
    desk.console.heard(["space"])
    assert desk.stopped == ["STOP by key"]


def test_the_status_is_one_line_that_fits():
    """Guards the screen: a longer line would scroll with every update."""
    desk = Desk()
    desk.console.show({"episode": 3, "rate": 0.123456, "none": None, "advice": "let it try"})
    assert desk.screen == ""  # shown by the terminal's thread, not by the loop
    desk.console.tick()
    line = desk.screen.removeprefix("\r\x1b[K").removesuffix("\r")
    assert line == "let it try · episode 3 · rate 0.123"[:29]
    desk.console.tick()
    assert desk.screen.count("episode") == 1
    blind = TerminalConsole(desk.inbox, write=pytest.fail, width=lambda: 0)
    blind.show({"episode": 4})
    blind.tick()  # a log in a file is spared


def test_keys_can_be_changed_but_stop_stays():
    """Guards pedals, which send keys of their own, and the one key that must never mean something else."""
    keys = parse_keys("b=begin, p=stop")
    assert keys["b"] is Event.BEGIN and "enter" not in keys
    assert keys["p"] is Event.STOP and keys["space"] is Event.STOP
    for wrong in ("b", "b=walk", "=begin", "space=begin"):
        with pytest.raises(ConfigError, match=r'key "'):
            parse_keys(wrong)


CHILD = """
import sys, time
from serl_core.teleop.consoles import open_console
with open_console("keys", lambda reason: print("stopped", flush=True)) as console:
    while True:
        for said in console.poll():
            print("heard", said.event, flush=True)
        time.sleep(0.01)
"""


def test_ctrl_c_ends_the_program_and_puts_the_terminal_back():
    """Guards the way most runs end: by Ctrl-C in the very terminal that is listened to."""
    with pseudo_terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)

        def own_terminal() -> None:
            ioctl(theirs, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        child = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True, preexec_fn=own_terminal,
        )  # fmt: skip
        assert child.stdout is not None
        assert eventually(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, timeout=30.0)
        os.write(ours, b"n")
        assert child.stdout.readline() == "heard failure\n"
        os.write(ours, b"\x03")
        assert child.wait(30.0) != 0
        assert termios.tcgetattr(theirs) == before


def test_the_last_word_counts_however_soon_it_follows():
    """Guards against an arm that moves on: HOLD, BEGIN, HOLD in a second was once heard as HOLD, BEGIN."""
    desk = Desk()
    for moment, key in enumerate(["h", "enter", "h", "h", "y", "n", "y"]):
        desk.moment = 200.0 + 0.3 * moment
        desk.console.heard([key])
    hold, begin, success, failure = Event.HOLD, Event.BEGIN, Event.SUCCESS, Event.FAILURE
    assert desk.events() == [hold, begin, hold, hold, success, failure, success]


def test_a_repetition_is_not_confirmed():
    """Guards against "you said: undo" twice where one episode was taken back."""
    desk = Desk()
    for moment in (200.0, 200.5, 201.0):
        desk.moment = moment
        desk.console.heard(["z"])
    assert desk.events() == [Event.UNDO] and desk.screen.count("you said: undo") == 1
    desk.moment = 202.0
    desk.console.heard(["z"])
    assert desk.events() == [Event.UNDO] and desk.screen.count("you said: undo") == 2
