"""Progress for everything that takes more than a few seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

EVERY = 15.0  # s between two lines in a log


class Progress:
    """One bar. ``note`` is a short text beside it."""

    def __init__(self, title: str, total: int, bar: RichProgress | None, now: Callable[[], float]) -> None:
        self._title = title
        self._total = total
        self._bar = bar
        self._task = bar.add_task(title, total=total, note="") if bar else None
        self._done = 0
        self._now = now
        self._next_line = now() + EVERY

    def advance(self, by: int = 1, note: str = "") -> None:
        """``by`` more are done."""
        self.update(self._done + by, note)

    def update(self, done: int, note: str = "") -> None:
        """``done`` of the total are done."""
        self._done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif self._now() >= self._next_line:
            self._next_line = self._now() + EVERY
            print(f"{self._title}: {done}/{self._total} {note}", flush=True)


@contextlib.contextmanager
def progress(title: str, total: int, now: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A bar on stderr where that is a terminal, otherwise a line every 15 s on stdout."""
    console = Console(stderr=True)
    if not (console.is_terminal and sys.stderr.isatty()):
        yield Progress(title, total, None, now)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=console) as bar:
        yield Progress(title, total, bar, now)
