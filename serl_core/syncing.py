"""Files written back to the disk now and then, so that a power loss costs seconds and no writer waits for a disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import final


@final
class Syncer:
    """Syncs the files that `changed` names, every ``every`` seconds, in a thread of its own.

    ``every`` counts real seconds: a disk knows no other clock. A failure is raised by the next `check`.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._mutex = threading.Lock()
        self._paths: set[Path] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault: OSError | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what changed since its last round is left to the caller."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def changed(self, path: Path) -> None:
        """The file at ``path`` has something new."""
        with self._mutex:
            self._paths.add(path)

    def check(self) -> None:
        """Raises the OSError of a sync that failed: what was written before it may not survive a power loss."""
        with self._mutex:
            fault, self._fault = self._fault, None
        if fault:
            raise fault

    def now(self) -> None:
        """Sync at once. Raises OSError."""
        with self._mutex:
            paths, self._paths = self._paths, set()
        for path in paths:
            _sync(path)

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                self.now()
            except OSError as error:
                with self._mutex:
                    self._fault = error


def _sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # no longer needed
        return
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make names in ``path`` survive a power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
