"""Keys typed into the terminal in which a command runs: no display needed, and no other window can reach it.

A terminal tells of presses only. While a key is held it repeats, after a pause of 0.25–0.66 s that the keyboard's
settings set; so a held key moves the arm at once, for `serl_core.teleop.keyboard.HOLD` s, and goes on with the first
repeat. ``xset r rate 200 30`` makes the pause short. Two keys at once do not repeat together.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import termios
import time
from collections.abc import Callable

from serl_core.teleop.device import DeviceError
from serl_core.teleop.keyboard import HeldKeys, motion_of
from serl_core.teleop.reader import Motion

SEQUENCE = re.compile(rb"\x1b(?:[\[O][0-9;]*[A-Za-z~]|.)?", re.DOTALL)  # arrows and the like mean nothing
CHUNK = 1024  # bytes of one read


class Terminal:
    """A terminal that hands on single keys instead of lines, without showing them; Ctrl-C and Ctrl-Z work as ever.

    While the command runs in the background it has no keys. Raises `DeviceError` where there is no terminal.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._saved: list[object] | None = None

    def open(self) -> None:
        """From now on keys come singly."""
        if not os.isatty(self._descriptor):
            raise DeviceError(
                "keyboard: the standard input is no terminal, and there is no other keyboard: start the command "
                "in a terminal, not behind a pipe, nohup or a service"
            )
        self._saved = termios.tcgetattr(self._descriptor)
        self._unbuffer()

    def close(self) -> None:
        """The terminal is as it was. A background process is not allowed to, and would be stopped for trying."""
        if self._saved is not None and self.in_front():
            with contextlib.suppress(termios.error):  # it was closed meanwhile
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)  # pyright: ignore[reportArgumentType]
        self._saved = None

    def in_front(self) -> bool:
        """Whether this process may read the terminal now."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError as error:
            raise DeviceError(f"keyboard: the terminal is gone ({error.strerror})") from error

    def keys(self, wait: float) -> str:
        """What was typed, as soon as something is, at most ``wait`` s later. Raises `DeviceError` when it is gone."""
        if not self.in_front():
            time.sleep(wait)
            return ""
        try:
            self._unbuffer()
            ready, _, _ = select.select([self._descriptor], [], [], wait)
            data = os.read(self._descriptor, CHUNK) if ready else b""
        except (OSError, termios.error) as error:
            raise DeviceError(f"keyboard: the terminal is gone ({error})") from error
        if ready and not data:
            raise DeviceError("keyboard: the terminal is gone (it was closed)")
        return SEQUENCE.sub(b"", data).decode(errors="ignore")

    def _unbuffer(self) -> None:
        """Also after a shell has put its own settings back, as it does after Ctrl-Z."""
        settings = termios.tcgetattr(self._descriptor)
        if settings[3] & (termios.ICANON | termios.ECHO):
            settings[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, settings)


class TerminalKeyboard:
    """Satisfies `Source`. ``now`` is monotonic, s."""

    label = "keyboard (terminal)"
    repeats = False  # a key's own time limit is shorter

    def __init__(self, terminal: Terminal | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal or Terminal()
        self._now = now
        self._held = HeldKeys()

    def open(self) -> None:
        self._held.clear()
        self._terminal.open()

    def close(self) -> None:
        try:
            self._terminal.close()
        except DeviceError:
            return  # a terminal that is gone needs nothing put back

    def poll(self, wait: float) -> Motion | None:
        for key in self._terminal.keys(wait):
            self._held.press(key, self._now())
        return motion_of(self._held.held(self._now()))
