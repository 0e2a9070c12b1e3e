"""Several consoles as one: keys, a browser page, buttons of a device. ``--console`` is parsed here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

from robot_servers.interface import RobotError
from serl_core.config import ConfigError
from serl_core.teleop.console import Event, Said
from serl_core.teleop.inbox import Inbox, Stop
from serl_core.teleop.page import PORT, Page, make_token
from serl_core.teleop.terminal import Listener, Terminal
from serl_core.teleop.terminal_console import TerminalConsole, parse_keys

SPECS = "keys, page, page:PORT, page:HOST:PORT, several joined by +, or none"


class Shown(Protocol):
    """An end at which a person sees how things stand."""

    def show(self, status: Mapping[str, Any]) -> None: ...


@final
class Consoles:
    """What was said at any of several ends, in order; satisfies `Console`."""

    def __init__(self, inbox: Inbox, ends: Sequence[Shown]) -> None:
        self._inbox = inbox
        self._ends = tuple(ends)

    def poll(self) -> Sequence[Said]:
        """What was said since the last call."""
        return self._inbox.take()

    def show(self, status: Mapping[str, Any]) -> None:
        """The same figures at every end."""
        for end in self._ends:
            end.show(status)

    def say(self, event: Event, source: str) -> None:
        """For an end of its own, e.g. `SayingButtons`. Raises as `Inbox.put` does."""
        self._inbox.put(event, source)


@contextlib.contextmanager
def open_console(
    spec: str,
    stop: Stop,
    *,
    keys: str = "",
    token_file: Path | None = None,
    listeners: Sequence[Listener] = (),
    say: Callable[[str], object] | None = None,
) -> Iterator[Consoles]:
    """Hear a person through what ``spec`` names until the end of the block: "keys+page", "page:5581", "none", … .

    ``stop`` must stop the arm at once and raise RobotError if that is uncertain; it is called by the threads that hear
    the keys and serve the page, whatever the loop does. ``keys`` changes keys ("b=begin", see `parse_keys`). The page
    asks for a token, which ``token_file`` keeps, so that the address stays the same after a restart. A page never says
    BEGIN: what sets the arm in motion is said beside it. ``listeners`` hear the same terminal, as a keyboard that moves
    the arm does; they hear it only where "keys" is. ``say`` prints the addresses and the legend.
    Raises `ConfigError` for a spec that means nothing, RobotError for a port that is taken.
    """
    say = say or _print
    inbox = Inbox(stop)
    ends: list[Shown] = []
    with contextlib.ExitStack() as stack:
        for part in _parts(spec):
            if part == "keys":
                console = TerminalConsole(inbox, parse_keys(keys))
                _listen(stack, [console, *listeners], console.legend(), say)
                ends.append(console)
            else:
                ends.append(_page(stack, inbox, part, token_file, say))
        if ends and not any(isinstance(end, TerminalConsole) for end in ends):
            say("a page cannot let the arm go on after a hold: --console keys+page can")
        yield Consoles(inbox, ends)


def check_console(spec: str) -> None:
    """Raises `ConfigError` for a spec that means nothing, before anything is opened."""
    for part in _parts(spec):
        if part != "keys":
            _place(part)


def _parts(spec: str) -> list[str]:
    parts = [] if spec == "none" else spec.split("+")
    kinds = ["page" if part.startswith("page:") else part for part in parts]
    if len(set(kinds)) < len(kinds) or not set(kinds) <= {"keys", "page"}:
        raise ConfigError(f'console "{spec}": write {SPECS}')
    return parts


def _listen(
    stack: contextlib.ExitStack, listeners: Sequence[Listener], legend: str, say: Callable[[str], object]
) -> None:
    terminal = stack.enter_context(Terminal(listeners))
    say(legend if terminal.exists else "no terminal here: keys are not heard")


def _page(
    stack: contextlib.ExitStack, inbox: Inbox, spec: str, token_file: Path | None, say: Callable[[str], object]
) -> Page:
    host, port = _place(spec)
    try:
        token = make_token(token_file)
    except OSError as error:
        raise RobotError(f"cannot keep the token of the page in {token_file}: {error}") from error
    page = stack.enter_context(Page(inbox, host, port, token))
    say(f"page for verdicts, hold and STOP: {page.url}")
    return page


def _place(spec: str) -> tuple[str, int]:
    """Host and port of "page", "page:PORT" or "page:HOST:PORT"."""
    host, _, port = spec.removeprefix("page").removeprefix(":").rpartition(":")
    if not port and not host:
        return "127.0.0.1", PORT
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f'console "{spec}": "{port}" is no port; write {SPECS}')
    return host or "127.0.0.1", int(port)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
