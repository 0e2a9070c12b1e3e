"""Keys typed into the terminal in which a command runs: no display needed, and no other window can reach it.

A terminal tells of presses only. While a key is held it repeats, after a pause of 0.25–0.66 s that the keyboard's
settings set; so a held key moves the arm at once, for `serl_core.teleop.keyboard.HOLD` s, and goes on with the first
repeat. In between the arm stands still and stays the person's, for `GRIP` s after the last press: a held key is one
takeover. ``xset r rate 200 30`` makes the pause short. Two keys at once do not repeat together.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

from serl_core.teleop.device import DeviceError
from serl_core.teleop.keyboard import KEYS, HeldKeys, Presses, motion_of, take
from serl_core.teleop.reader import Motion
from serl_core.teleop.terminal import MOST_KEYS, Terminal

NO_TERMINAL = (
    "keyboard: the standard input is no terminal: start the command in one, not behind a pipe, nohup or a service "
    "(keyboard:display takes the keys of an X display instead)"
)

GRIP = 0.8  # s after the last press for which the arm is the person's: more than any usual pause before repetition


class TerminalKeyboard:
    """Satisfies `Source`, and is a `Listener` of the terminal.

    ``shared``: somebody else opens the terminal and tells it of the keys; else it does so itself. ``descriptor`` is
    that of a terminal, by default the standard input. ``now`` is monotonic, s.
    """

    label = "keyboard (terminal)"
    buttons = 3
    names = KEYS
    repeats = False  # a key's own time limit is shorter

    def __init__(
        self, shared: bool = False, descriptor: int | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared, self._descriptor, self._now = shared, descriptor, now
        self._terminal: Terminal | None = None
        self._presses: Presses = queue.SimpleQueue()
        self._held, self._gripped = HeldKeys(), HeldKeys(GRIP)

    def open(self) -> None:
        self._held.clear()
        self._gripped.clear()
        self._terminal = Terminal([self], self._descriptor)
        if not self._terminal.exists:
            raise DeviceError(NO_TERMINAL)
        if not self._shared:
            self._terminal.open()

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
        self._terminal = None

    def heard(self, keys: Sequence[str]) -> None:
        """Many different ones at once are a paste."""
        if len(set(keys)) <= MOST_KEYS:
            for key in keys:
                self._presses.put((key, self._now()))

    def tick(self) -> None:
        """Nothing to show."""

    def poll(self, wait: float) -> Motion | None:
        for key, pressed in take(self._presses, wait):
            self._held.press(key, pressed)
            self._gripped.press(key, pressed)
        if self._terminal is None or not self._terminal.exists:
            raise DeviceError("keyboard: the terminal is gone: start the command in another one")
        now = self._now()
        return motion_of(self._held.held(now), gripped=bool(self._gripped.held(now)))
