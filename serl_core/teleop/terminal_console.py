"""Verdicts, hold and STOP by the keys of the own terminal; a foot pedal that acts as a keyboard is heard alike."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from robot_servers.interface import RobotError
from serl_core.config import ConfigError
from serl_core.teleop.console import Event
from serl_core.teleop.inbox import Inbox, Unheard
from serl_core.teleop.terminal import MOST_KEYS

# Apart from the keys that move an arm (`serl_core.teleop.keyboard`), also with Shift.
KEYS: Mapping[str, Event] = {
    "space": Event.STOP,
    "enter": Event.BEGIN,
    "h": Event.HOLD,
    "y": Event.SUCCESS,
    "n": Event.FAILURE,
    "f": Event.FALSE_SUCCESS,
    "m": Event.MISSED_SUCCESS,
    ".": Event.END,
    "x": Event.DISCARD,
    "z": Event.UNDO,
    "!": Event.QUIT,
}


def parse_keys(text: str) -> dict[str, Event]:
    """`KEYS` with changes such as "b=begin,p=stop", for pedals. Raises `ConfigError` naming what is wrong.

    An event that gets a key gives up its old one, except STOP, which is heard on both.
    """
    keys = dict(KEYS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, name = part.rpartition("=")
        if not separator or not key or name not in set(Event):
            raise ConfigError(f'key "{part}": write KEY=EVENT, with an event of {", ".join(Event)}')
        if keys.get(key) is Event.STOP and name != Event.STOP:
            raise ConfigError(f'key "{part}": {key} is STOP, and stays it')
        keys = {known: event for known, event in keys.items() if event != name or name == Event.STOP}
        keys[key] = Event(name)
    return keys


@final
class TerminalConsole:
    """A `Listener` of the terminal that says what its keys mean, and shows one line of status.

    ``write`` gets text for the screen, which it alone may block on; ``width`` is that of the screen, 0 if there is
    none, and then there is no status.
    """

    def __init__(
        self,
        inbox: Inbox,
        keys: Mapping[str, Event] = KEYS,
        write: Callable[[str], object] | None = None,
        width: Callable[[], int] | None = None,
    ) -> None:
        self._inbox = inbox
        self._keys = dict(keys)
        self._write = write or _to_stderr
        self._width = width or _width_of_stderr
        self._status = ""
        self._shown = ""

    def legend(self) -> str:
        """Which key says what."""
        return "keys: " + " · ".join(f"{key} {event.replace('_', ' ')}" for key, event in self._keys.items())

    def heard(self, keys: Sequence[str]) -> None:
        """STOP is heard however many keys came at once; of a paste nothing else is."""
        events = list(dict.fromkeys(self._keys[key] for key in keys if key in self._keys))
        if len(set(keys)) > MOST_KEYS:
            events = [event for event in events if event is Event.STOP]
            if not events:
                self.say("this looks like a paste: ignored")
        for event in events:
            self._say_event(event)

    def tick(self) -> None:
        """Show what `show` was given last."""
        if self._status != self._shown:
            self._shown = self._status
            self._write(f"\r\x1b[K{self._shown}\r")  # back to its begin: a line of a log overwrites it

    def show(self, status: Mapping[str, Any]) -> None:
        """Figures for the line of status, advice first; shown by the terminal's thread: no screen delays the caller."""
        figures = [f"{name} {_text(value)}" for name, value in status.items() if name != "advice" and _is_told(value)]
        advice = status.get("advice", "")
        line = " · ".join([str(advice), *figures] if _is_told(advice) else figures)
        self._status = line[: max(0, self._width() - 1)]

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(f"\r\x1b[K{text}\n")
        self._shown = ""

    def _say_event(self, event: Event) -> None:
        try:
            news = self._inbox.put(event, "key")
        except (RobotError, Unheard) as error:
            self.say(str(error))
            return
        if news:
            self.say("STOP: the arm is stopped" if event is Event.STOP else f"you said: {event.replace('_', ' ')}")


def _is_told(value: Any) -> bool:
    return value is not None and value != ""


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)


def _to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk behind it must not end the hearing of STOP
        sys.stderr.write(text)
        sys.stderr.flush()


def _width_of_stderr() -> int:
    return shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
