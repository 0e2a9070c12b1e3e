"""Is anything lost when either side is killed? ``python -m examples.benchmarks.soak --kills N --seed S``.

A robot server, an actor that drives it and a learner, processes with the real loop, link, spool, store, replay and
checkpoints, are killed with −9 in turns of random order and at random moments (of a seeded schedule, also while they
start) while records flow. In the end every record whose spooling had returned must be in the store once and in order;
of each kill of the actor one more record may be there, whose spooling had not returned. Exit status 0 only then.
"""

from __future__ import annotations

import csv
import json
import random
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

from examples.benchmarks.ports import free_address
from examples.benchmarks.soak_ends import CAMERAS, is_whole, number_of
from examples.benchmarks.soak_phases import Phases, marks, phases, summary, table
from robot_servers.hello import STATE_PORT, STOP_PORT
from serl_core.data.episodes import EpisodeStore
from serl_core.types import Judgement

RESULTS = Path(__file__).parent / "results"
PATIENCE = 180.0  # s for everything to arrive in the end
ROLES = ("server", "learner", "actor")
SLOW = 15.0  # s to resume that are worth a line
LEASE = 2.0  # s after which a killed actor no longer owns the robot: the next one waits for that


@dataclass(frozen=True)
class Config:
    """Kill server, actor and learner again and again, and count."""

    kills: int = 100
    seed: int = 0  # of the schedule
    rate: float = 300.0  # records per second, of two 128×128 cameras each, at most
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
    phases: dict[str, dict[str, float]]

    def clean(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.duplicated or self.out_of_order or self.damaged) and self.in_flight <= self.kills


@dataclass
class Arena:
    """The three processes, and when each was killed."""

    address: str
    robot: str
    folder: Path
    rate: float
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: list[tuple[str, float]] = field(default_factory=list)

    def start(self, role: str) -> None:
        command = self._server() if role == "server" else self._end(role)
        with (self.folder / f"{role}.log").open("ab") as log:
            self.running[role] = subprocess.Popen([sys.executable, "-m", *command], stderr=log, stdout=log)

    def _server(self) -> list[str]:
        options = ["--clock", "lockstep", "--lease", str(LEASE), "--port", self.robot.rsplit(":", 1)[1]]
        return ["robot_servers", "fake", *options, "--cameras", *CAMERAS]

    def _end(self, role: str) -> list[str]:
        options = {"role": role, "address": self.address, "robot": self.robot, "folder": self.folder, "rate": self.rate}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["examples.benchmarks.soak_ends", *words]

    def kill(self, role: str) -> None:
        """Raises RuntimeError if it had ended by itself: nothing that happens to the other side may end it."""
        process = self.running[role]
        if process.poll() is not None:
            raise RuntimeError(f"the {role} ended by itself; the end of its log:\n{tail(self.folder / f'{role}.log')}")
        process.kill()
        process.wait()

    def wait_for_records(self) -> float:
        """Until they flow again: s after the last kill. Raises RuntimeError if that takes too long: it must go on."""
        role, since = self.killed[-1] if self.killed else ("actor", 0.0)
        deadline = time.monotonic() + PATIENCE
        while (arrival := resumed(arrivals(self.folder / "arrived"), role, since)) is None:
            if time.monotonic() > deadline:
                logs = "\n".join(f"{role}:\n{tail(self.folder / f'{role}.log')}" for role in ROLES)
                raise RuntimeError(f"no record within {PATIENCE:.0f} s\n{logs}")
            time.sleep(0.02)
        return arrival[0] - since if self.killed else 0.0

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def victims(schedule: random.Random, kills: int) -> list[str]:
    """Who is killed: each as often as the others."""
    rounds = -(-kills // len(ROLES))
    return [role for _ in range(rounds) for role in schedule.sample(ROLES, len(ROLES))][:kills]


def soak(config: Config, folder: Path, say: Callable[[str], None]) -> Figures:
    """Run the schedule, let everything arrive, count. Raises RuntimeError if a side ends by itself or never drains."""
    schedule = random.Random(config.seed)
    arena = Arena(free_address(), free_address((STOP_PORT, STATE_PORT)), folder, config.rate)
    try:
        for role in ROLES:
            arena.start(role)
        for number, role in enumerate(victims(schedule, config.kills)):
            if schedule.random() >= config.early and (took := arena.wait_for_records()) > SLOW:
                say(f"kill {number}, of the {arena.killed[-1][0]}: {took:.1f} s until records flowed again")
            time.sleep(schedule.uniform(*config.pause))
            arena.kill(role)
            arena.killed.append((role, time.monotonic()))
            arena.start(role)
            if number % 10 == 9:
                say(f"{number + 1} kills")
        arena.wait_for_records()
        arena.kill("actor")
        arena.start("drain")
        if arena.running["drain"].wait(PATIENCE):
            raise RuntimeError(f"what was spooled did not arrive:\n{tail(folder / 'drain.log')}")
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
        record = item.record()
        damaged += isinstance(record, Judgement) or number_of(record) != item.seq or not is_whole(record)
    distinct = {session: set(numbers) for session, numbers in stored.items()}
    times = [stored - moment for _, moment, (stored, _) in resumptions(arrivals(folder / "arrived"), killed)]
    return Figures(
        kills=len(killed),
        produced=sum(sent.values()),
        stored=sum(map(len, stored.values())),
        duplicated=sum(len(numbers) - len(distinct[session]) for session, numbers in stored.items()),
        lost=sum(len(set(range(1, last + 1)) - distinct.get(session, set())) for session, last in sent.items()),
        out_of_order=sum(b < a for numbers in stored.values() for a, b in pairwise(numbers)),
        in_flight=sum(len(numbers - set(range(1, sent.get(session, 0) + 1))) for session, numbers in distinct.items()),
        damaged=damaged,
        resume_s_median=round(median(times), 2) if times else 0.0,
        resume_s_max=round(max(times), 2) if times else 0.0,
        phases=summary(phases_of(folder, killed)),
    )


Arrival = tuple[float, float | None]  # monotonic s: stored, and begun if it began an episode, not a learner's life


def arrivals(path: Path) -> list[Arrival]:
    """What the learner noted, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.split() for line in lines]
    return [(float(stored), None if begun == "life" else float(begun)) for stored, begun in pairs]


def resumed(arrived: list[Arrival], role: str, killed: float) -> Arrival | None:
    """The first record of the next life of this side that was stored, or None: not yet."""
    for stored, begun in arrived:
        if stored > killed and (begun is None if role == "learner" else begun is not None and begun > killed):
            return stored, begun
    return None


def resumptions(arrived: list[Arrival], killed: list[tuple[str, float]]) -> list[tuple[str, float, Arrival]]:
    """Side, moment and that record of each kill; none if somebody was killed again before."""
    found = []
    for index, (role, moment) in enumerate(killed):
        until = killed[index + 1][1] if index + 1 < len(killed) else float("inf")
        arrival = resumed(arrived, role, moment)
        found += [(role, moment, arrival)] if arrival is not None and arrival[0] < until else []
    return found


def phases_of(folder: Path, killed: list[tuple[str, float]]) -> list[Phases]:
    """Where the time went in each resumption."""
    found, noted = resumptions(arrivals(folder / "arrived"), killed), marks(folder)
    return [phases(noted, role, moment, begun, stored) for role, moment, (stored, begun) in found]


def main(config: Config) -> int:
    """Soak, print the table, exit 0 only if the promise was kept."""
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        figures = soak(config, Path(name), say=lambda text: print(text, flush=True))
    row = asdict(figures)
    where = row.pop("phases")
    for title, value in row.items():
        print(f"{title:16} {value:>10}")
    print(table(where))
    print("nothing lost, repeated or reordered" if figures.clean() else "THE PROMISE WAS BROKEN")
    if config.json:
        config.json.write_text(json.dumps({**row, "phases": where}, indent=2) + "\n")
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
