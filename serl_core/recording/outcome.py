"""What a recording came to, for programs: ``serl record --json FILE``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serl_core.recording.book import Book, Kind
from serl_core.recording.watch import Watch


@dataclass(frozen=True)
class Outcome:
    """The episodes of one kind in a folder, those of earlier calls included; ``warnings`` are of this call alone."""

    kind: Kind
    folder: str
    kept: int  # episodes that count …
    steps: int  # … and their steps
    attempts: int  # episodes that were begun
    successes: int
    discarded: int
    warnings: Mapping[str, int]  # episodes in which there was one: "idle", "long", "saturated"


def outcome_of(book: Book, watch: Watch, kind: Kind, folder: Path) -> Outcome:
    """What a person, or a script in their place, has recorded so far."""
    verdicts = [entry.verdict for entry in book.ledger.entries]
    return Outcome(
        kind,
        str(folder),
        kept=book.kept,
        steps=book.steps,
        attempts=len(verdicts),
        successes=verdicts.count("success"),
        discarded=verdicts.count("discarded"),
        warnings=dict(watch.episodes),
    )
