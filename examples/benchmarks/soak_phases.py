"""Where the time goes between a kill and the first record of the next life: each notes when it has come how far."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Mark:
    """At ``at`` (s, monotonic) a process of ``role`` had come to ``what``, after ``cpu`` s of CPU time of its life."""

    role: str
    at: float
    cpu: float
    what: str


@dataclass(frozen=True)
class Phase:
    """A stretch of one resumption: how long, s, and CPU time of the process meanwhile; None: it was another's."""

    took: float
    cpu: float | None


Phases = dict[str, Phase]


def note(folder: Path, role: str, what: str) -> None:
    """Add a mark of this process."""
    line = f"{role} {time.monotonic()} {time.process_time()} {what}\n".encode()
    fd = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(fd, line)  # at once: whoever is killed leaves whole lines
    os.close(fd)


def marks(folder: Path) -> list[Mark]:
    """All marks in their order."""
    path = folder / "marks"
    rows = [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []
    return [Mark(role, float(at), float(cpu), what) for role, at, cpu, what in rows]


def phases(found: Sequence[Mark], role: str, killed: float, begun: float | None, stored: float) -> Phases:
    """Of one resumption: up to each mark of the new process, to the ``begun`` episode, and until it was ``stored``."""
    at, cpu, parts = killed, 0.0, Phases()
    for mark in found:
        if mark.role == role and killed < mark.at < (stored if begun is None else begun):
            parts[f"{role}: {mark.what}"] = Phase(mark.at - at, mark.cpu - cpu)
            at, cpu = mark.at, mark.cpu
    if begun is not None:
        parts[f"{role}: an episode begins"] = Phase(begun - at, None)
        at = begun
    parts[f"{role}: a record is stored"] = Phase(stored - at, None)
    return parts


def summary(all_phases: Sequence[Phases]) -> dict[str, dict[str, float]]:
    """Of each phase: median and longest time, s, and median CPU time where it is known."""
    names = dict.fromkeys(name for parts in all_phases for name in parts)
    found: dict[str, dict[str, float]] = {}
    for name in sorted(names, key=lambda name: name.split(":")[0]):  # a stable sort: phases stay in their order
        times = [parts[name].took for parts in all_phases if name in parts]
        cpus = [cpu for parts in all_phases if name in parts and (cpu := parts[name].cpu) is not None]
        found[name] = {"median_s": round(median(times), 2), "max_s": round(max(times), 2)}
        if cpus:
            found[name]["cpu_median_s"] = round(median(cpus), 2)
    return found


def table(figures: dict[str, dict[str, float]]) -> str:
    """For people."""
    lines = [f"{'from the kill until':44} {'median s':>9} {'longest s':>9} {'of CPU s':>9}"]
    for name, row in figures.items():
        lines.append(f"{name:44} {row['median_s']:9} {row['max_s']:9} {row.get('cpu_median_s', ''):>9}")
    return "\n".join(lines)
