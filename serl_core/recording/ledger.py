"""What becomes of recorded episodes: every one gets a verdict, from a person, a judge, or by what was to be recorded.

Pure logic beside the records: it is told of every record and of everything said, and hands on a `Judgement` whenever
an episode comes to something else. Recordings are never changed. While a policy trains, `serl_core.verdicts` does this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, final

from serl_core.teleop.console import Event, Said
from serl_core.types import EpisodeStart, Judgement, Record, Step, Verdict, Wrong

Source = Literal["person", "judge", "recorder"]  # who says so; the recorder, where nobody else did
Rule = Callable[[Judgement, Source], None]

SPOKEN: dict[Event, Verdict] = {
    Event.SUCCESS: "success",
    Event.MISSED_SUCCESS: "success",
    Event.FAILURE: "failure",
    Event.DISCARD: "discarded",
}


@dataclass(frozen=True)
class Terms:
    """How episodes are counted. ``unsaid``: the verdict on one of which neither a person nor a judge said anything."""

    counts: tuple[Verdict, ...]  # the verdicts that are wanted
    unsaid: Verdict
    whole: bool = False  # a success is one from the first frame on


@dataclass
class Entry:
    """An episode as it stands.

    ``last``: its last step that was carried out, −1 before the first; ``judged``: the step at which a judge saw
    success, −1 if it saw none.
    """

    actor: str
    number: int
    last: int = -1
    verdict: Verdict = "discarded"
    over: bool = False
    judged: int = -1

    @property
    def steps(self) -> int:
        """How many were carried out."""
        return self.last + 1


@final
class Ledger:
    """Told of records (as a subscriber of the rollout) and of what is said (as a listener); ``rule`` gets judgements.

    An episode counts as discarded until it has ended. ``who`` is the person; ``say`` gets a line about everything
    that changed or could not; ``known`` are the episodes of earlier calls, oldest first.
    """

    def __init__(
        self,
        terms: Terms,
        rule: Rule,
        who: str,
        say: Callable[[str], None],
        known: Iterable[Entry] = (),
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.entries: list[Entry] = list(known)
        self._terms = terms
        self._rule = rule
        self._who = who
        self._say = say
        self._wall = wall
        self._spoken: Event | None = None  # of the running episode; the last word counts
        self._asked = False  # a person ended it: they are asked what it came to
        self._waiting: Entry | None = None  # for their answer
        self._begun = False  # an episode was let begin, and does not run yet
        self._taken_back: Entry | None = None  # the last thing said

    @property
    def kept(self) -> list[Entry]:
        """The episodes that count."""
        return [entry for entry in self.entries if entry.over and entry.verdict in self._terms.counts]

    def __call__(self, record: Record) -> None:
        """The next record; it must have been stored before."""
        if isinstance(record, EpisodeStart):
            self._spoken, self._asked, self._waiting = None, False, None
            self._begun, self._taken_back = False, None
            self.entries.append(Entry(record.actor, record.episode))
            self._judge(self.entries[-1], "discarded", "recorder")
            return
        entry = self.entries[-1]
        if not record.aborted:
            entry.last = record.step
        if record.terminated or record.truncated:
            self._finish(entry, record)

    def hear(self, said: Said, running: bool) -> None:
        """Something was said, in an episode or between two."""
        if running and said.event in SPOKEN:
            self._spoken = said.event
        elif running and said.event is Event.END:
            self._asked = True
        elif said.event is Event.BEGIN:
            self._begun = not running
        elif said.event is Event.UNDO:
            self._take_back()
        elif said.event is Event.FALSE_SUCCESS:
            self._deny()
        elif said.event in SPOKEN:
            self._correct(said.event)

    def _finish(self, entry: Entry, last: Step) -> None:
        entry.over = True
        if last.success and self._spoken is None:
            entry.judged = last.step - last.ago
        if self._spoken is not None and (entry.steps or SPOKEN[self._spoken] != "success"):
            self._judge_as_said(entry, self._spoken)
        elif self._spoken is None and (last.success or last.terminated):
            self._judge(entry, "success" if last.success else "failure", "judge")
        else:
            self._judge(entry, self._terms.unsaid if entry.steps else "discarded", "recorder")
            self._waiting = entry if self._asked else None
        self._say(self._about(entry))

    # ── episodes that are over ──

    def _take_back(self) -> None:
        """The episode whose verdict is waited for, else the last that counts."""
        entry = self._waiting or (self.kept[-1] if self.kept else None)
        if entry is None:
            self._say("there is no episode to take back")
            return
        self._waiting, self._taken_back = None, entry
        self._judge(entry, "discarded", "person")
        self._say(f"taken back: {self._about(entry)}")

    def _deny(self) -> None:
        successes = [entry for entry in self.entries if entry.over and entry.verdict == "success"]
        if not successes:
            self._say("there is no success that could be false")
            return
        entry = successes[-1]
        wrong: Wrong = "false_success" if entry.judged >= 0 else ""
        self._judge(entry, "failure", "person", wrong, entry.judged)
        self._say(self._about(entry))

    def _correct(self, event: Event) -> None:
        over = [entry for entry in self.entries if entry.over]
        if self._begun:
            self._say(f'"{event}" is of no episode: the next one does not run yet')
            return
        if over and over[-1] is self._taken_back:
            self._say(f'episode {over[-1].number} was taken back, "{event}" does not bring it back: serl label does')
            return
        if not over or (SPOKEN[event] == "success" and not over[-1].steps):
            self._say(f'there is no episode of which "{event}" could be said')
            return
        self._waiting = None
        self._judge_as_said(over[-1], event)
        self._say(self._about(over[-1]))

    # ── verdicts ──

    def _judge_as_said(self, entry: Entry, event: Event) -> None:
        missed = event is Event.MISSED_SUCCESS
        self._judge(entry, SPOKEN[event], "person", "missed_success" if missed else "", entry.last if missed else -1)

    def _judge(self, entry: Entry, verdict: Verdict, source: Source, wrong: Wrong = "", at: int = -1) -> None:
        entry.verdict = verdict
        step = -1
        if verdict == "success":
            judged = entry.judged if source == "judge" else entry.last
            step = 0 if self._terms.whole else judged
        who = self._who if source == "person" else source
        self._rule(Judgement(entry.actor, entry.number, verdict, step, who, self._wall(), wrong, at), source)

    def _about(self, entry: Entry) -> str:
        return f"episode {entry.number}: {entry.verdict}, {entry.steps} steps; {len(self.kept)} kept"
