"""From what a person says while the arm works to verdicts on episodes, which the learner's store keeps.

Verdicts said of the running episode meet the step in which they were said; the judge that listens too ends the episode
there, and what its record then says needs no verdict beside it. Those on an episode that is over correct the last one.

An episode that a person ended without a verdict, or that nobody else judges, is a question when it ends: "pending", so
that nobody learns its last step as it was recorded while they think. Their verdict takes its place. Silence means what
was recorded, no success: it is said when the next episode begins, as a "failure" by `SILENCE`. Of an actor that was
killed meanwhile the learner says it (`serl_core.following`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from serl_core.teleop.console import Event, Said
from serl_core.types import SILENCE, EpisodeStart, Judgement, Record, Step, Verdict, Wrong

log = logging.getLogger(__name__)

REMEMBERED = 50  # episodes that can be taken back one after the other
OF_RUNNING = (Event.SUCCESS, Event.FAILURE, Event.MISSED_SUCCESS, Event.DISCARD, Event.END)
ALONE = "person"  # the judge of an episode that nobody but a person judges


@dataclass
class _Episode:
    """What is known of one: its last executed step, where it succeeded (−1: nowhere), and whether a person said so.

    ``asked``: its end is a question to a person; ``judged``: it has its verdict.
    """

    actor: str
    number: int
    asked: bool
    last: int = -1
    success: int = -1
    by_person: bool = False
    judged: bool = False

    @property
    def waits(self) -> bool:
        """For a verdict, once it has ended."""
        return self.asked and not self.judged and self.last >= 0

    def __str__(self) -> str:
        return f"episode {self.number} of {self.actor}"


class _Meaningless(Exception):
    """It cannot be meant of this episode; the text says what can be done."""


@final
class Verdicts:
    """Listens to a rollout, and to a person by `hear`; all of ``told`` get each verdict.

    To be told of a record before whoever sends it: no update may see the end of an episode without what is said of it.
    ``who`` is the name of the person, ``complain`` is told in one line of what cannot be meant. Everything happens in
    the loop's thread; recorded data is not touched.
    """

    def __init__(
        self,
        told: Sequence[Callable[[Judgement], object]],
        who: str,
        complain: Callable[[str], object] = log.error,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._told = tuple(told)
        self._who = who
        self._complain = complain
        self._wall = wall
        self._running: _Episode | None = None
        self._ended: deque[_Episode] = deque(maxlen=REMEMBERED)
        self._taken_back = False  # the last one: nobody means the one before it by a word on "the last"
        self._open: list[Said] = []  # said of the running episode, until its next step is recorded

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self.leave()
            self._running = _Episode(record.actor, record.episode, asked=record.meta.get("judge") == ALONE)
        elif self._running is not None:
            self._step(record, self._running)

    def hear(self, said: Said) -> None:
        """Take what was said; events that are no verdicts are passed over."""
        if self._running is not None and said.event in OF_RUNNING:
            self._open.append(said)
            return
        try:
            self._correct(said)
        except _Meaningless as error:
            self._complain(str(error))

    def leave(self) -> None:
        """No answer follows any more: the next episode begins, or the rollout is over."""
        self._end()
        if self._ended and self._ended[-1].waits:
            episode = self._ended[-1]
            self._tell(Judgement(episode.actor, episode.number, "failure", -1, SILENCE, self._wall()))
            episode.judged = True

    # ── the running episode ──────────────────────────────────────────────────────────────────────

    def _step(self, step: Step, episode: _Episode) -> None:
        if not step.aborted:  # else it was not executed
            episode.last = step.step
        if step.success:
            episode.success = step.step - step.ago
        episode.judged |= step.success or step.terminated
        open_, self._open = self._open, []
        for said in open_:
            self._settle(said, episode, step)
        if step.terminated or step.truncated:
            self._end()

    def _settle(self, said: Said, episode: _Episode, step: Step | None) -> None:
        """A verdict of the running episode; nothing to send where the record of ``step`` says the same itself."""
        recorded_success = step is not None and step.success
        episode.asked |= said.event is Event.END
        episode.by_person |= said.event in (Event.SUCCESS, Event.MISSED_SUCCESS)
        if said.event is Event.DISCARD:
            self._say(said, episode, "discarded")
        elif said.event is Event.FAILURE and not (step is not None and step.terminated and not step.success):
            self._say(said, episode, "failure")
        elif said.event is Event.MISSED_SUCCESS or (said.event is Event.SUCCESS and not recorded_success):
            self._succeeded(said, episode)

    def _end(self) -> None:
        """The running episode is over; its actor may have broken off, and what was said then meets what there is."""
        if self._running is None:
            return
        episode, self._running = self._running, None
        for said in self._open:
            self._settle(said, episode, None)
        self._open = []
        if episode.waits:
            self._tell(Judgement(episode.actor, episode.number, "pending", -1, SILENCE, self._wall()))
        self._ended.append(episode)
        self._taken_back = False

    # ── the last one ─────────────────────────────────────────────────────────────────────────────

    def _correct(self, said: Said) -> None:
        if said.event is Event.UNDO:
            self._say(said, self._newest(said.event), "discarded")
            self._ended.pop()
            self._taken_back = True
        elif said.event is Event.FALSE_SUCCESS:
            self._deny(said, self._last(said.event))
        elif said.event is Event.FAILURE:
            self._say(said, self._last(said.event), "failure")
        elif said.event is Event.DISCARD and self._ended and self._ended[-1].waits:
            self._say(said, self._ended[-1], "discarded")
        elif said.event in (Event.SUCCESS, Event.MISSED_SUCCESS):
            self._grant(said, self._last(said.event))

    def _last(self, event: Event) -> _Episode:
        if self._taken_back:
            raise _Meaningless(f'"{event}": the last episode was taken back; serl label RUN corrects those before')
        return self._newest(event)

    def _newest(self, event: Event) -> _Episode:
        """That is not taken back."""
        if not self._ended:
            raise _Meaningless(f'"{event}": no episode has ended here yet; serl label RUN corrects those before')
        return self._ended[-1]

    def _deny(self, said: Said, episode: _Episode) -> None:
        if episode.success < 0:
            raise _Meaningless(f'"{said.event}": {episode} was no success; serl label RUN corrects those before it')
        self._say(said, episode, "failure", "" if episode.by_person else "false_success", episode.success)

    def _grant(self, said: Said, episode: _Episode) -> None:
        if episode.success >= 0:
            raise _Meaningless(f'"{said.event}": {episode} is a success already; "false_success" denies it')
        self._succeeded(said, episode)

    # ── verdicts ─────────────────────────────────────────────────────────────────────────────────

    def _succeeded(self, said: Said, episode: _Episode) -> None:
        """Success at the last step that was executed."""
        if episode.last < 0:
            self._complain(f'"{said.event}": {episode} had no step that could have succeeded')
            return
        episode.by_person = True
        wrong: Wrong = "missed_success" if said.event is Event.MISSED_SUCCESS else ""
        self._say(said, episode, "success", wrong, episode.last)

    def _say(self, said: Said, episode: _Episode, verdict: Verdict, wrong: Wrong = "", at: int = -1) -> None:
        """Send it. ``at``: the step of the success, or of the judge's mistake."""
        step = at if verdict == "success" else -1
        episode.success, episode.judged = step, True
        about = (episode.actor, episode.number, verdict, step)
        self._tell(Judgement(*about, self._who, said.wall_time, wrong, at if wrong else -1))

    def _tell(self, judgement: Judgement) -> None:
        for tell in self._told:
            tell(judgement)
