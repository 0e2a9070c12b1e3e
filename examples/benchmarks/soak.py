"""Is anything lost when either side is killed? ``python -m examples.benchmarks.soak --kills N --seed S``.

An actor and a learner, processes with the real link, spool, store, replay and checkpoints, are killed with −9 at
random moments (of a seeded schedule, also while they start) while records flow. In the end every record whose
spooling had returned must be in the store once and in order; of each kill of the actor one more record may be
there, whose spooling had not returned. Exit status 0 only then.
"""

from __future__ import annotations

import csv
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import tyro

from examples.benchmarks.soak_ends import number_of
from serl_core.data.episodes import EpisodeStore

RESULTS = Path(__file__).parent / "results"
PATIENCE = 180.0  # s for everything to arrive in the end


@dataclass(frozen=True)
class Config:
    """Kill actor and learner again and again, and count."""

    kills: int = 100
    seed: int = 0  # of the schedule
    rate: float = 300.0  # records per second, of two 64×64 cameras each
    pause: tuple[float, float] = (0.1, 1.5)  # s from flowing records to the next kill, uniform
    early: float = 0.2  # share of kills that do not wait until records flow again after the last one
    folder: Path | None = None  # where spool and store are written; default: the system's temporary folder
    json: Path | None = None  # also write the figures here
    csv: bool = False  # add a row to results/soak.csv


@dataclass(frozen=True)
class Figures:
    """What was counted. ``in_flight``: stored although the spooling had not returned when the actor was killed."""

    kills: int
    produced: int
    stored: int
    duplicated: int
    lost: int
    out_of_order: int
    in_flight: int
    damaged: int
    resume_s_median: float
    resume_s_max: float

    def clean(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.duplicated or self.out_of_order or self.damaged) and self.in_flight <= self.kills


@dataclass
class Arena:
    """The two processes, and when each was killed."""

    address: str
    folder: Path
    rate: float
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: list[tuple[str, float]] = field(default_factory=list)

    def start(self, role: str, count: int = 0) -> None:
        options = {"role": role, "address": self.address, "folder": self.folder, "rate": self.rate, "count": count}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (self.folder / f"{role}.log").open("ab") as log:
            command = [sys.executable, "-m", "examples.benchmarks.soak_ends", *words]
            self.running[role] = subprocess.Popen(command, stderr=log, stdout=log)

    def kill(self, role: str) -> None:
        """Raises RuntimeError if it had ended by itself: nothing that happens to the other side may end it."""
        process = self.running[role]
        if process.poll() is not None:
            raise RuntimeError(f"the {role} ended by itself; the end of its log:\n{tail(self.folder / f'{role}.log')}")
        process.kill()
        process.wait()

    def wait_for_records(self) -> None:
        """Until one was stored after the last kill. Raises RuntimeError if that takes too long: it must go on."""
        since = self.killed[-1][1] if self.killed else 0.0
        deadline = time.monotonic() + PATIENCE
        while not any(moment > since for moment in arrivals(self.folder / "arrived")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no record within {PATIENCE:.0f} s:\n{tail(self.folder / 'learner.log')}")
            time.sleep(0.02)

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def free_address() -> str:
    """A loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def soak(config: Config, folder: Path, say: Callable[[str], None]) -> Figures:
    """Run the schedule, let everything arrive, count. Raises RuntimeError if a side ends by itself or never drains."""
    schedule, arena = random.Random(config.seed), Arena(free_address(), folder, config.rate)
    try:
        for role in ("learner", "actor"):
            arena.start(role)
        for number in range(config.kills):
            if schedule.random() >= config.early:
                arena.wait_for_records()
            time.sleep(schedule.uniform(*config.pause))
            role = schedule.choice(["actor", "learner"])
            arena.kill(role)
            arena.killed.append((role, time.monotonic()))
            arena.start(role)
            if number % 10 == 9:
                say(f"{number + 1} kills")
        arena.wait_for_records()
        arena.kill("actor")
        arena.start("actor", count=1)
        if arena.running["actor"].wait(PATIENCE):
            raise RuntimeError(f"what was spooled did not arrive:\n{tail(folder / 'actor.log')}")
    finally:
        arena.close()
    return count(folder, arena.killed)


def count(folder: Path, killed: list[tuple[str, float]]) -> Figures:
    """Compare what was spooled with what is stored."""
    sent: dict[str, int] = {}
    for line in (folder / "sent").read_text().splitlines():
        session, number = line.split()
        sent[session] = max(sent.get(session, 0), int(number))
    stored: dict[str, list[int]] = {}
    damaged = 0
    for item in EpisodeStore(folder / "episodes").stored():
        stored.setdefault(item.actor, []).append(item.seq)
        damaged += number_of(item.record()) != item.seq
    distinct = {session: set(numbers) for session, numbers in stored.items()}
    resumed = resume_times(folder / "arrived", killed)
    return Figures(
        kills=len(killed),
        produced=sum(sent.values()),
        stored=sum(map(len, stored.values())),
        duplicated=sum(len(numbers) - len(distinct[session]) for session, numbers in stored.items()),
        lost=sum(len(set(range(1, last + 1)) - distinct.get(session, set())) for session, last in sent.items()),
        out_of_order=sum(b < a for numbers in stored.values() for a, b in pairwise(numbers)),
        in_flight=sum(len(numbers - set(range(1, sent.get(session, 0) + 1))) for session, numbers in distinct.items()),
        damaged=damaged,
        resume_s_median=round(median(resumed), 2) if resumed else 0.0,
        resume_s_max=round(max(resumed), 2) if resumed else 0.0,
    )


def arrivals(path: Path) -> list[float]:
    """When the learner stored the first record of each of its lives and of each session, monotonic s."""
    return [float(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def resume_times(arrived: Path, killed: list[tuple[str, float]]) -> list[float]:
    """From each kill until a record of the next life of that side was stored, s; none if killed again before."""
    moments, times = sorted(arrivals(arrived)), []
    for index, (_, moment) in enumerate(killed):
        until = killed[index + 1][1] if index + 1 < len(killed) else float("inf")
        after = [later for later in moments if moment < later < until]
        times += [after[0] - moment] if after else []
    return times


def main(config: Config) -> int:
    """Soak, print the table, exit 0 only if the promise was kept."""
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        figures = soak(config, Path(name), say=lambda text: print(text, flush=True))
    row = asdict(figures)
    for title, value in row.items():
        print(f"{title:16} {value:>10}")
    print("nothing lost, repeated or reordered" if figures.clean() else "THE PROMISE WAS BROKEN")
    if config.json:
        config.json.write_text(json.dumps(row, indent=2) + "\n")
    if config.csv:
        append(RESULTS / "soak.csv", {"seed": config.seed, "rate": config.rate, **row})
    return 0 if figures.clean() else 1


def append(path: Path, row: dict[str, float]) -> None:
    """Add a row; the header comes with the first."""
    path.parent.mkdir(exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.soak", description=__doc__)))
