"""Keys of an X display, through pynput: keys act only while the window has the focus in which the command was started.

pynput hears every key of the display, also passwords typed elsewhere. So a press counts only if our window has the
focus and nobody has grabbed the keyboard, as screen locks, password prompts and menus do without taking the focus;
whatever is held ends when that changes, and nothing that is heard is kept. Windows are all that is told apart: keys
typed into another tab or pane of the same window move the arm as well, so a terminal goes before the display unless
``keyboard:display`` is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from serl_core.teleop.device import DeviceError
from serl_core.teleop.keyboard import KEYS, HeldKeys, Presses, motion_of, take
from serl_core.teleop.reader import Motion

PACKAGE = "keyboards need the package pynput: pip install pynput (or the extra: hardware)"
INSTEAD = "keyboard:terminal takes the keys of the terminal instead"
KEYSYMS = {"up": "Up", "down": "Down", "left": "Left", "right": "Right"}  # X's names where they differ from ours
NOWHERE = 1  # the numbers up to this mean that no window has the focus (None, PointerRoot)
READY = 5.0  # s that the listener may take to begin


class DisplayKeyboard:
    """Satisfies `Source`, on the display that the variable DISPLAY names. ``now`` is monotonic, s."""

    label = "keyboard"
    buttons = 3
    names = KEYS
    repeats = False  # the display is asked in each poll which keys are down

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window: Window | None = None
        self._listener: Any = None
        self._presses: Presses = queue.SimpleQueue()
        self._held = HeldKeys()
        self._others: set[str] = set()  # keys that have been down since they went to another window

    def open(self) -> None:
        self._held.clear()
        pynput = load_pynput()
        self._window = Window()
        self._others = set(self._window.down())
        self._listener = pynput.Listener(on_press=lambda key: self._pressed(pynput, key))
        self._listener.start()
        ready = threading.Thread(target=self._listener.wait, name="keyboard begins", daemon=True)  # may wait for ever
        ready.start()
        ready.join(READY)
        if ready.is_alive() or not self._listener.is_alive():
            raise DeviceError(f"keyboard: the X display lets nobody listen (extension RECORD); {INSTEAD}")

    def close(self) -> None:
        if self._listener is not None:
            self._listener.stop()  # its thread ends with the next key, whatever that is (pynput's pull request 583)
        if self._window is not None:
            self._window.close()
        self._listener = self._window = None

    def poll(self, wait: float) -> Motion | None:
        presses = take(self._presses, wait)
        if self._window is None or not self._listener.is_alive():
            raise DeviceError(f"keyboard: the X display is gone; {INSTEAD}")
        down = self._window.down()  # asked first: what goes down after the keys ceased to be ours is not among them
        if not self._window.hears():
            self._others = set(down)
            self._held.clear()
            return motion_of(())
        self._others &= set(down)
        for key, pressed in presses:
            if key.lower() not in self._others:  # held while the keys became ours, it repeats: not meant for the arm
                self._held.press(key, pressed)
        now = self._now()
        self._held.see(down, now)
        return motion_of(self._held.held(now))

    def _pressed(self, pynput: Any, key: Any) -> None:
        """In the listener's thread."""
        name = key.char if isinstance(key, pynput.KeyCode) else key.name
        if name and name.lower() in KEYS:
            self._presses.put((name, self._now()))


class Window:
    """The window a command was started in: whether keys go to it, and which of our keys are down.

    It is the one that the terminal names in WINDOWID, else the one that has the focus now. Used by one thread.
    Raises `DeviceError` if there is no display or no such window.
    """

    def __init__(self) -> None:
        self._error, self._x, symbols, displays = (load_xlib(part) for part in ("error", "X", "XK", "display"))
        try:
            self._display = displays.Display()
        except (self._error.DisplayError, OSError) as error:
            raise DeviceError(f"keyboard: no X display ({' '.join(str(error).split())}); {INSTEAD}") from error
        named = os.environ.get("WINDOWID", "")
        self._own = set(self._line(int(named) if named.isdigit() else self._focus()))
        if not self._own:
            self.close()
            raise DeviceError(f"keyboard: no window of the display has the focus, so none is ours; {INSTEAD}")
        codes = {key: symbols.string_to_keysym(KEYSYMS.get(key, key)) for key in KEYS}
        self._codes = {key: self._display.keysym_to_keycode(symbol) for key, symbol in codes.items()}
        self._seen = (0, False)  # the window that had the focus, and whether it is ours
        self._told: set[int] = set()  # windows of whose focus and grabs the display tells us
        self._grabbed = False

    def close(self) -> None:
        """Let go of the display."""
        with contextlib.suppress(self._error.ConnectionClosedError, OSError):
            self._display.close()

    def hears(self) -> bool:
        """Whether keys go to our window: it has the focus, and no other program has grabbed the keyboard.

        Raises `DeviceError` when the display is gone.
        """
        focus = self._focus()
        if focus != self._seen[0]:
            self._seen = (focus, not self._own.isdisjoint(self._line(focus)))
        if self._seen[1] and focus not in self._told:
            self._ask(lambda: self._watch(focus))
        self._ask(self._mind_grabs)
        return self._seen[1] and not self._grabbed

    def down(self) -> list[str]:
        """Our keys that are down now, whatever was heard of them. Raises `DeviceError` when the display is gone."""
        keymap = self._ask(self._display.query_keymap)
        return [key for key, code in self._codes.items() if keymap[code // 8] & 1 << code % 8]

    def _focus(self) -> int:
        focus = self._ask(lambda: self._display.get_input_focus().focus)
        return focus if isinstance(focus, int) else focus.id

    def _line(self, window: int) -> list[int]:
        """The window and those that contain it, without the root: two windows of one frame share a member."""
        found: list[int] = []
        with contextlib.suppress(self._error.BadWindow):  # it was closed meanwhile
            while window > NOWHERE:
                tree = self._ask(self._display.create_resource_object("window", window).query_tree)
                if not tree.parent:
                    break
                found.append(window)
                window = tree.parent.id
        return found

    def _watch(self, focus: int) -> None:
        """From now on the display tells us of grabs; one that there is already shows by trying, once, for a moment."""
        for number in {focus, *self._own} - self._told:
            gone = self._error.CatchError(self._error.BadWindow)
            self._display.create_resource_object("window", number).change_attributes(
                event_mask=self._x.FocusChangeMask, onerror=gone
            )
            self._told.add(number)
        window = self._display.create_resource_object("window", focus)
        tried = window.grab_keyboard(False, self._x.GrabModeAsync, self._x.GrabModeAsync, self._x.CurrentTime)
        self._grabbed = tried in (self._x.AlreadyGrabbed, self._x.GrabFrozen)
        if tried == self._x.GrabSuccess:
            self._display.ungrab_keyboard(self._x.CurrentTime)
            self._display.sync()

    def _mind_grabs(self) -> None:
        """A grab makes the window with the focus lose it in this way only; `get_input_focus` does not tell of it."""
        for _ in range(self._display.pending_events()):
            event = self._display.next_event()
            if event.type in (self._x.FocusIn, self._x.FocusOut):
                self._grabbed = event.mode in (self._x.NotifyGrab, self._x.NotifyWhileGrabbed)

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except (self._error.ConnectionClosedError, OSError) as error:
            raise DeviceError(f"keyboard: the X display is gone; {INSTEAD}") from error


def load_pynput() -> Any:
    """The module pynput.keyboard. Raises `DeviceError` naming what is missing: the package, or a display."""
    try:
        return importlib.import_module("pynput.keyboard")
    except ModuleNotFoundError as error:
        raise DeviceError(PACKAGE) from error
    except ImportError as error:
        raise DeviceError(f"keyboard: no X display that pynput can listen to; {INSTEAD}") from error


def load_xlib(part: str) -> Any:
    """A module of the package python-xlib, which comes with pynput where there can be an X display."""
    try:
        return importlib.import_module(f"Xlib.{part}")
    except ModuleNotFoundError as error:
        raise DeviceError(f"keyboard: the focus can be known on X displays only (python-xlib); {INSTEAD}") from error
