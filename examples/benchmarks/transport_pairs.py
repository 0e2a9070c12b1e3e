"""Pairs of processes that send and store: started once, then measured in turns, so that other work hits all alike."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from types import TracebackType

from robot_servers.keys import make_keys


class End:
    """One end as a process; killed on leaving."""

    def __init__(self, role: str, folder: Path, address: str = "tcp://127.0.0.1:*", count: int = 0) -> None:
        command = [sys.executable, "-m", "examples.benchmarks.transport_ends"]
        options = ["--role", role, "--address", address, "--folder", str(folder), "--count", str(count)]
        self._process = subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> End:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def said(self) -> str:
        """The next line that it prints. Raises RuntimeError if it has ended."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self._process.args} ended without a figure")
        return line.strip()

    def ask(self, count: int) -> float:
        """Let it go through a round of ``count``; its figure."""
        if self._process.stdin is None:
            raise RuntimeError("a process without an input")
        self._process.stdin.write(f"{count}\n")
        return float(self.said())

    def cpu(self) -> float:
        """CPU time that its threads have used so far, s."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Pair:
    """A serving end and one that calls it, in a folder of their own; with ``keys`` they speak encrypted."""

    def __init__(self, serving: str, calling: str, parent: Path | None, keys: bool = False) -> None:
        self._roles = (serving, calling)
        self._parent = parent
        self._keys = keys
        self._stack = contextlib.ExitStack()
        self.rates: list[float] = []  # per s, of each round
        self.cpu_us: list[list[float]] = []  # per transition, of serving and of calling end, in each round

    def __enter__(self) -> Pair:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._parent)))
        if self._keys:
            make_keys(folder / "keys")
        self._folder = folder
        self._server = self._stack.enter_context(End(self._roles[0], folder))
        self._caller = self._stack.enter_context(End(self._roles[1], folder, self._server.said().split()[1]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def settle(self) -> None:
        """Wait until the disk has what was written: no round pays for another's write-back."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                written_back(path)

    def round(self, count: int) -> None:
        """Measure once."""
        before = [self._server.cpu(), self._caller.cpu()]
        self.rates.append(self._caller.ask(count))
        after = [self._server.cpu(), self._caller.cpu()]
        self.cpu_us.append([1e6 * (end - begin) / count for begin, end in zip(before, after, strict=True)])

    def cpu(self) -> list[float]:
        """Median CPU time per transition of serving and calling end, µs."""
        return [median(spent) for spent in zip(*self.cpu_us, strict=True)]

    def forget(self) -> None:
        """The rounds so far were for warming up."""
        self.rates, self.cpu_us = [], []


def written_back(path: Path) -> None:
    """Wait until the disk has the file."""
    with contextlib.suppress(FileNotFoundError):  # a spool drops its files
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def between(serving: str, calling: str, parent: Path | None, count: int) -> dict[str, float]:
    """The figures of the calling end."""
    with (
        tempfile.TemporaryDirectory(dir=parent) as name,
        End(serving, Path(name)) as server,
        End(calling, Path(name), server.said().split()[1], count) as caller,
    ):
        return json.loads(caller.said())


def throughput(transitions: int, rounds: int, parent: Path | None) -> dict[str, float]:
    """Transitions per second of the link and of the baseline, in turns; the ratio is the median of the turns'."""
    with (
        Pair("pull", "push", parent) as raw,
        Pair("learner", "actor", parent) as ours,
        Pair("learner", "actor", parent, keys=True) as secured,
    ):
        pairs = (raw, ours, secured)
        for number in range(rounds + 2):
            for pair in pairs:
                for each in pairs:
                    each.settle()
                pair.round(transitions)
                if number == 1:
                    pair.forget()
        ratios = sorted(mine / bare for mine, bare in zip(ours.rates, raw.rates, strict=True))
        return {
            "transitions_per_s": median(ours.rates),
            "curve_transitions_per_s": median(secured.rates),
            "raw_push_per_s": median(raw.rates),
            "ratio": median(ratios),
            "ratio_lower_quartile": ratios[len(ratios) // 4],
            "ratio_upper_quartile": ratios[3 * len(ratios) // 4],
            "cpu_ratio": sum(raw.cpu()) / sum(ours.cpu()),
            "actor_cpu_us": ours.cpu()[1],
            "learner_cpu_us": ours.cpu()[0],
            "raw_push_cpu_us": raw.cpu()[1],
            "raw_pull_cpu_us": raw.cpu()[0],
        }
