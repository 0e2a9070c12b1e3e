"""Child processes that never outlive their parent: server, learner and actor of a demo or an evaluation."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1


class ChildFailed(RuntimeError):
    """A child process ended when it should not have; the text names its log and quotes its end."""


class Child:
    """One running command; its output goes to ``log``. With ``listens``, `tell` writes lines to its stdin."""

    def __init__(self, name: str, command: Sequence[str], log: Path, listens: bool = False) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def in_child() -> None:
            # Linux ends the child with its parent, even if that was killed with SIGKILL.
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() != parent:
                    os._exit(1)
            # Whoever was started in the background ignores Ctrl-C, and so would its children.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        with log.open("ab") as out:
            self._start = out.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=in_child,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children in order
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def tell(self, line: str) -> None:
        """Write one line to a child that listens."""
        assert self._process.stdin is not None  # it was started with ``listens``
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """What it has printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")

    def failure(self) -> ChildFailed:
        """The error to raise when this child has ended too early."""
        last = "\n".join(self.output().strip().splitlines()[-6:])
        return ChildFailed(f"{self.name} ended with exit status {self._process.returncode}; see {self.log}:\n{last}")

    def ready(self, timeout: float) -> list[str]:
        """The words after "ready" in the line it prints once it serves. Raises `ChildFailed` if it never does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in self.output().splitlines():
                if line.startswith("ready "):
                    return line.split()[1:]
            if not self.running():
                raise self.failure()
            time.sleep(0.02)
        raise ChildFailed(f"{self.name} did not become ready within {timeout:.0f} s; see {self.log}")

    def check(self) -> None:
        """Raise `ChildFailed` if it has ended with an error."""
        if self._process.poll() not in (None, 0):
            raise self.failure()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for a successful end. Raises `ChildFailed` otherwise, also if it takes longer than ``timeout`` s."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as late:
            raise ChildFailed(f"{self.name} did not end within {timeout:.0f} s; see {self.log}") from late
        self.check()

    def stop(self, grace: float = 20.0) -> None:
        """Ask it to end (SIGTERM: it saves what it has), and kill it if it does not within ``grace`` s."""
        if self.running():
            self._process.terminate()
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def serl(*arguments: str | int | Path) -> list[str]:
    """The command line of a ``serl`` command run by this very Python."""
    return [sys.executable, "-m", "serl_core.cli", *map(str, arguments)]


@contextlib.contextmanager
def children() -> Iterator[list[Child]]:
    """A list for running children; whatever happens, all of them have ended afterwards, newest first."""
    running: list[Child] = []
    try:
        yield running
    finally:
        for child in reversed(running):
            child.stop()


class StopFlag:
    """Becomes true at SIGTERM or SIGINT, so that a loop can end between two steps and save."""

    def __init__(self) -> None:
        self._set = False

    def __call__(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[StopFlag]:
        """Listen to the signals; a second one has its usual effect."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.set()
            signal.signal(number, signal.default_int_handler)

        before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, old in before.items():
                signal.signal(number, old)
