"""What can be seen from outside: processes, ports, and the records of a run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label
from serl_core.processes import serl
from serl_core.types import EpisodeStart, Record, Step


def complaint(*arguments: str | int | Path) -> str:
    """What ``serl …`` says when it refuses; asserts exit status 2 and one line, without a traceback."""
    done = subprocess.run(serl(*arguments), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr


def wait_for(condition: Callable[[], object], timeout: float, every: float = 0.1) -> None:
    """Return when ``condition()``, asked ``every`` so many s, is true; a hang is a failure."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {timeout:.0f} s"
        time.sleep(every)


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``, at any depth."""
    found, level = set(), {pid}
    while level:
        level = {child for child, parent in _parents().items() if parent in level}
        found |= level
    return found


def alive(pids: Iterable[int]) -> set[int]:
    """Those of the processes that still run."""
    return set(pids) & _parents().keys()


def _parents() -> dict[int, int]:
    """The parent of every process that runs; one that only waits for its parent's notice has ended."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        if state != "Z":
            parents[int(path.parent.name)] = int(parent)
    return parents


def stored(run_dir: Path) -> list[Record]:
    """What the learner has stored so far."""
    return list(EpisodeStore(run_dir / "episodes").records())


def labels(run_dir: Path) -> list[Label]:
    """Every verdict in the learner's store, in the order in which they came."""
    return EpisodeStore(run_dir / "episodes").labels.news()


def steps(run_dir: Path) -> list[Step]:
    """What the learner has stored of the arm's steps, none before it began."""
    return [record for record in stored(run_dir) if isinstance(record, Step)] if (run_dir / "episodes").exists() else []


def episodes(run_dir: Path) -> list[tuple[EpisodeStart, list[Step]]]:
    """The stored episodes of a run with one actor; asserts that each is whole and its steps are in order."""
    found: list[tuple[EpisodeStart, list[Step]]] = []
    for record in stored(run_dir):
        if isinstance(record, EpisodeStart):
            found.append((record, []))
        else:
            start, steps = found[-1]
            assert (record.actor, record.episode, record.step) == (start.actor, start.episode, len(steps))
            steps.append(record)
    assert all(steps[-1].terminated or steps[-1].truncated for _, steps in found)
    return found
