"""The keys of this process's own terminal, one at a time, without waiting for Enter.

Nothing is heard from other windows, nor while the process is in the background. Where stdin is no terminal, nothing is
heard at all. Ctrl-C, Ctrl-Z and ``fg`` work as ever.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Sequence
from typing import Any, Protocol, final

TICK = 0.25  # s between two ticks while no key is pressed
MOST_KEYS = 4  # different ones at once by hand; more are a paste
NAMES = {"\n": "enter", "\r": "enter", " ": "space", "\t": "tab", "\x7f": "backspace", "\x1b": "escape"}
ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_SEQUENCE = re.compile(r"\x1b[\[O][0-?]*[ -/]*([@-~])|\x1b([^\x1b])|([\s\S])")


class Listener(Protocol):
    """Told of keys from the terminal's own thread; must not raise."""

    def heard(self, keys: Sequence[str]) -> None:
        """Pressed together, by name: the character, or "enter", "space", "up", … ."""
        ...

    def tick(self) -> None:
        """Comes a few times a second."""
        ...


def key_names(text: str) -> list[str]:
    """The keys behind what a terminal sends. Unknown function keys, and keys with Alt, are left out."""
    found = []
    for final_letter, _alt, plain in _SEQUENCE.findall(text):
        name = ARROWS.get(final_letter, "") if final_letter else NAMES.get(plain, plain if plain.isprintable() else "")
        found += [name] if name else []
    return found


@final
class Terminal:
    """Reads keys in a thread of its own between `open` and `close` (or ``with``), for ``listeners``.

    The terminal is put back as it was by `close`. ``fd`` is that of a terminal, e.g. a pseudo terminal.
    """

    def __init__(self, listeners: Sequence[Listener], fd: int | None = None) -> None:
        self._fd = fd if fd is not None else _stdin()
        self._listeners = tuple(listeners)
        self._closing = threading.Event()
        self._saved: list[Any] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Terminal:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def exists(self) -> bool:
        """Whether there is a terminal to hear."""
        return self._fd >= 0 and os.isatty(self._fd)

    def open(self) -> None:
        if self.exists and self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="keys", daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._closing.set()
            self._thread.join()
            self._thread = None

    def _listen(self) -> None:
        # Without these signals, reading in the background is an error instead of the end of the whole process's moves.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN, signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError, termios.error):  # the terminal is gone: nobody is left to hear
                while not self._closing.is_set():
                    self._listen_once()
        finally:
            self._restore()

    def _listen_once(self) -> None:
        if not self._in_front():
            self._closing.wait(TICK)
            return
        self._key_by_key()
        ready, _, _ = select.select([self._fd], [], [], TICK)
        if ready and not self._closing.is_set():
            self._tell(self._read())
        for listener in self._listeners:
            listener.tick()

    def _tell(self, keys: Sequence[str]) -> None:
        for listener in self._listeners:
            listener.heard(keys)

    def _read(self) -> list[str]:
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            if self._in_front():
                raise
            return []  # sent to the background since we looked
        if not data:
            raise OSError("the terminal was closed")
        return key_names(data.decode(errors="ignore"))

    def _in_front(self) -> bool:
        """Whether keys of this terminal are meant for us; without job control they always are."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True

    def _key_by_key(self) -> None:
        """Again after each return from the background: the shell has put its own settings back."""
        settings = termios.tcgetattr(self._fd)
        if settings[tty.LFLAG] & termios.ICANON:
            self._saved = self._saved or settings
            tty.setcbreak(self._fd, termios.TCSANOW)
            changed = termios.tcgetattr(self._fd)
            changed[tty.IFLAG] &= ~termios.IXON  # Ctrl-S would stop our output, and whoever prints with it
            termios.tcsetattr(self._fd, termios.TCSANOW, changed)

    def _restore(self) -> None:
        with contextlib.suppress(OSError, termios.error):
            if self._saved is not None and self._in_front():
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)


def _stdin() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # a service without stdin, or one that was closed or replaced
        return -1
