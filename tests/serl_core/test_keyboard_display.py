"""Real key events of a virtual display: Xvfb, xdotool and pynput."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from device_parts import never, until

from serl_core.teleop.device import DeviceError
from serl_core.teleop.keyboard_display import DisplayKeyboard, load_pynput
from serl_core.teleop.reader import Reader

MISSING = [program for program in ("Xvfb", "xdotool") if shutil.which(program) is None]


@pytest.fixture(scope="module")
def display():
    """The name of a display without a window manager."""
    if MISSING:
        pytest.skip(f"needs {' and '.join(MISSING)}: apt-get install xvfb xdotool")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "320x240x8", "-nolisten", "tcp", "-noreset"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as answer:
        name = f":{answer.readline().strip()}"
    yield name
    server.terminate()
    server.wait()


@pytest.fixture
def screen(display, monkeypatch):
    """Two windows, of which the first, that of the command, has the focus."""
    xlib = pytest.importorskip("Xlib.display", reason="needs the package pynput")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WINDOWID", raising=False)
    monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
    pynput = pytest.importorskip("pynput.keyboard", reason="needs the package pynput")
    screen = Screen(xlib.Display())
    yield screen
    subprocess.run(["xdotool", "key", "Shift_L"], check=True)  # listeners end with the next key only
    until(lambda: not any(isinstance(thread, pynput.Listener) for thread in threading.enumerate()))
    screen.close()


class Screen:
    def __init__(self, connection) -> None:
        self._connection = connection
        root = connection.screen().root
        self.windows = [root.create_window(0, 0, 50, 50, 0, connection.screen().root_depth) for _ in range(2)]
        for window in self.windows:
            window.map()
        connection.sync()
        self.focus(0)

    def focus(self, number: int | None) -> None:
        window = 1 if number is None else self.windows[number]
        self._connection.set_input_focus(window, 0, 0)
        self._connection.sync()

    def close(self) -> None:
        for window in self.windows:
            window.destroy()
        self._connection.close()


class Lock:
    """A screen lock: another program that grabs the keyboard and leaves the focus where it is."""

    def __init__(self) -> None:
        self._connection = pytest.importorskip("Xlib.display").Display()
        self._root = self._connection.screen().root

    def __enter__(self) -> "Lock":
        until(lambda: self._root.grab_keyboard(False, 1, 1, 0) == 0)  # without delay for anybody, from now on
        return self

    def end(self) -> None:
        self._connection.ungrab_keyboard(0)
        self._connection.sync()

    def __exit__(self, *_: object) -> None:
        self.end()
        self._connection.close()


class Keys:
    """Keys as a person holds them: pressed until let go of, and repeated by the server."""

    def __init__(self) -> None:
        self._down: list[str] = []

    def __enter__(self) -> "Keys":
        return self

    def down(self, key: str) -> None:
        subprocess.run(["xdotool", "keydown", key], check=True)
        self._down.append(key)

    def up(self, key: str) -> None:
        subprocess.run(["xdotool", "keyup", key], check=True)
        self._down.remove(key)

    def __exit__(self, *_: object) -> None:
        for key in list(self._down):
            self.up(key)


def test_held_keys_move_until_they_are_let_go_of(screen):
    """Two at once, a capital, an arrow: all that a terminal cannot tell."""
    with Reader(DisplayKeyboard()) as reader, Keys() as keys:
        keys.down("w")
        until(lambda: reader.read().twist[0] == 1.0)
        keys.down("Left")
        until(lambda: reader.read().twist[1] == 1.0)
        assert reader.read().twist[0] == 1.0
        keys.up("w")
        until(lambda: reader.read().twist[0] == 0.0)
        keys.down("c")
        until(lambda: reader.read().buttons == (True, False, True))
        keys.up("Left")
        keys.up("c")
        until(lambda: reader.read().pressed == ())


def test_a_key_is_held_although_another_ended_the_repetition(screen):
    """X repeats the last key only: an arm that stops for it would jerk with every tap of the gripper's key."""
    with Reader(DisplayKeyboard()) as reader, Keys() as keys:
        keys.down("w")
        until(lambda: reader.read().twist[0] == 1.0)
        keys.down("c")
        until(lambda: reader.read().buttons[0])
        keys.up("c")
        until(lambda: not reader.read().buttons[0])
        never(lambda: reader.read().twist[0] != 1.0)


def test_keys_for_other_windows_move_nothing(screen):
    """Key listeners that act in any window have driven arms by e-mail."""
    with Reader(DisplayKeyboard()) as reader, Keys() as keys:
        keys.down("w")
        until(lambda: reader.read().twist[0] == 1.0)
        screen.focus(1)
        until(lambda: not reader.read().twist.any())
        keys.up("w")
        keys.down("s")
        never(lambda: bool(reader.read().twist.any()))
        keys.up("s")
        screen.focus(0)
        keys.down("a")
        until(lambda: reader.read().twist[1] == 1.0)


def test_a_password_typed_into_a_lock_moves_nothing(screen):
    """Screen locks grab the keyboard, the focus stays with our window: each w of a password would be a full push."""
    with Reader(DisplayKeyboard()) as reader, Keys() as keys:
        keys.down("w")
        until(lambda: reader.read().twist[0] == 1.0)
        with Lock():
            until(lambda: not reader.read().twist.any())
            keys.up("w")
            keys.down("s")
            never(lambda: bool(reader.read().twist.any()))
            keys.up("s")
            keys.down("d")
        never(lambda: bool(reader.read().twist.any()), seconds=1.0)  # held, and repeated, since before the end
        keys.down("a")
        until(lambda: reader.read().twist[1] == 1.0)


@pytest.mark.parametrize("focused", [0, 1])
def test_a_lock_from_before_counts_until_it_ends(screen, focused):
    """Started from afar, or by a script, while the screen is locked: the display tells of changes only."""
    with Lock() as lock, Reader(DisplayKeyboard()) as reader, Keys() as keys:
        screen.focus(focused)
        screen.focus(0)
        keys.down("w")
        never(lambda: bool(reader.read().twist.any()))
        keys.up("w")
        lock.end()
        time.sleep(0.1)  # a press before the end is noticed is none
        keys.down("a")
        until(lambda: reader.read().twist[1] == 1.0)


def test_without_a_focused_window_it_refuses(screen):
    """If nobody knows which window is ours, every window would be."""
    screen.focus(None)
    with pytest.raises(DeviceError, match="no window of the display has the focus"):
        DisplayKeyboard().open()


def test_the_terminals_own_window_is_taken_if_it_says_so(screen, monkeypatch):
    """Started from a script, another window may have the focus by now."""
    monkeypatch.setenv("WINDOWID", str(screen.windows[1].id))
    with Reader(DisplayKeyboard()) as reader, Keys() as keys:
        keys.down("w")
        never(lambda: bool(reader.read().twist.any()))
        screen.focus(1)
        never(lambda: bool(reader.read().twist.any()), seconds=1.0)  # it repeats, but began elsewhere
        keys.down("a")
        until(lambda: reader.read().twist[1] == 1.0)


def test_no_display_is_an_error_that_names_the_way_out(monkeypatch):
    """pynput's own error is a page long and names backends."""
    pytest.importorskip("Xlib", reason="needs the package pynput")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DeviceError, match="keyboard:terminal") as error:
        DisplayKeyboard().open()
    assert "\n" not in str(error.value)


def test_a_missing_package_is_named(monkeypatch):
    """The computer at the robot has none of the extras."""
    monkeypatch.setitem(sys.modules, "pynput", None)
    monkeypatch.delitem(sys.modules, "pynput.keyboard", raising=False)
    with pytest.raises(DeviceError, match="pip install pynput"):
        load_pynput()
