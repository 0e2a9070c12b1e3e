"""The book of a recording: every record goes into the store at once, what it comes to goes above it as labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Literal, final

from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label
from serl_core.recording.ledger import Entry, Ledger, Source, Terms
from serl_core.types import EpisodeStart, Judgement, Record, Step

Kind = Literal["demo", "success", "failure", "play"]
ABOUT: dict[Kind, str] = {
    "demo": "demonstrations",
    "success": "episodes that show success in every frame",
    "failure": "episodes that show no success in any frame",
    "play": "episodes of free play",
}
TERMS: dict[Kind, Terms] = {
    "demo": Terms(counts=("success",), unsaid="discarded"),
    "success": Terms(counts=("success",), unsaid="success", whole=True),
    "failure": Terms(counts=("failure",), unsaid="failure"),
    "play": Terms(counts=("pending", "success", "failure"), unsaid="pending"),
}


def known_entries(store: EpisodeStore, actor: str) -> list[Entry]:
    """The episodes of an actor that a store holds, oldest first, as the newest verdicts have them, else the records.

    One that a crash left behind is over once a person has labelled it: a word meant for another does not reach it.
    """
    found: dict[int, Entry] = {}
    for record in store.records(as_recorded=True):
        if record.actor != actor:
            continue
        if isinstance(record, EpisodeStart):
            found[record.episode] = Entry(actor, record.episode, verdict="pending")
        elif record.episode in found:  # of a damaged start the steps are left out too
            _go_on(found[record.episode], record)
    for (labelled, episode), label in store.labels.newest().items():
        if labelled == actor and episode in found:
            found[episode].verdict = label.verdict
            found[episode].over |= label.source == "person"
    return list(found.values())


def _go_on(entry: Entry, step: Step) -> None:
    if not step.aborted:
        entry.last = step.step
    entry.over = step.terminated or step.truncated
    if step.success:
        entry.verdict, entry.judged = "success", step.step - step.ago
    elif step.terminated:
        entry.verdict = "failure"


def next_episode(entries: Iterable[Entry]) -> int:
    """The number of the next episode: numbers count up, whatever became of the earlier ones."""
    return max((entry.number for entry in entries), default=-1) + 1


@final
class Book:
    """Stores records of one ``kind``, and every judgement of its ``ledger`` as a label.

    ``store`` must be open. Until an episode has ended it counts as discarded: what a crash leaves behind is on disk,
    and used by nobody before somebody has looked at it (``serl label``).
    """

    def __init__(
        self,
        store: EpisodeStore,
        kind: Kind,
        actor: str,
        who: str,
        say: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        known = known_entries(store, actor)
        self.first_episode = next_episode(known)
        self.ledger = Ledger(TERMS[kind], self._rule, who, say, known, wall)
        self._store = store

    @property
    def kept(self) -> int:
        """Episodes that count."""
        return len(self.ledger.kept)

    @property
    def steps(self) -> int:
        """Their steps."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """The steps of each of them."""
        return [entry.steps for entry in self.ledger.kept]

    def __call__(self, record: Record) -> None:
        """Store it, then judge it: what is judged is stored."""
        self._store.append(record)
        self.ledger(record)

    def _rule(self, judgement: Judgement, source: Source) -> None:
        self._store.labels.add(Label(source=source, **asdict(judgement)))
