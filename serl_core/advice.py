"""Short advice for the person beside the arm: when to help, when to let it try, and when something else is wrong.

The practice of the method's authors (Luo et al. 2024, HIL-SERL): let the policy explore for 20 to 30 steps, then bring
it close to the goal and let it do the rest; help to about a third of the successes early on, and less and less later.
A policy that is helped each time never learns what follows from its own actions.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, final

from serl_core.course import TRACK, Course, Place, place_of
from serl_core.pairs import AnyTask
from serl_core.types import EpisodeStart, Judgement, Record, Step

log = logging.getLogger(__name__)

EXPLORE = 20  # steps that the policy is left alone in any case
EXPLORED = 30  # steps after which it may be helped while it learns
LED = 30  # steps of one takeover, after which it should finish itself
STILL = 15  # steps over which standing still is judged
ENOUGH = 5  # episodes before rates say anything
LONG = 1000  # steps without a success of its own
DWELL = 2.0  # s for which advice stands at least: a person has to read it


class Kind(StrEnum):
    """What is advised."""

    AWAY = "away"
    LET_GO = "let go"
    STILL = "still"
    CIRCLING = "circling"
    TOO_MUCH = "too much"
    NEVER = "never"
    LOST = "lost"
    EXPLORED = "explored"
    SLOW = "slow"
    SATURATED = "saturated"
    ALONE = "alone"
    TRY = "try"


OF_THE_MOMENT = (Kind.LET_GO, Kind.STILL, Kind.CIRCLING, Kind.EXPLORED)  # over when the episode is


@dataclass(frozen=True)
class Advice:
    """What is advised, and the sentence that says so."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Learner:
    """How the learner does; ``utd``: updates per step it achieves of late and those it should, 0 while unknown."""

    connected: bool = True
    utd: float = 0.0
    utd_wanted: float = 0.0

    @classmethod
    def of_report(cls, connected: bool, report: Mapping[str, Any]) -> Learner:
        """From the link's status; what a report lacks is unknown."""
        return cls(connected, float(report.get("utd", 0.0)), float(report.get("utd_wanted", 0.0)))


@final
class Latch:
    """True from ``on`` upwards until the value falls below ``off``; of a value that is unknown nothing follows."""

    def __init__(self, on: float, off: float) -> None:
        self._on, self._off = on, off
        self._set = False

    def __call__(self, value: float | None) -> bool:
        if value is None:
            self._set = False
        else:
            self._set = value >= (self._off if self._set else self._on)
        return self._set


@final
class Rules:
    """From the figures to the most urgent advice. Latches remember, so ask once per step."""

    def __init__(self) -> None:
        self._still = Latch(-0.5, -1.0)  # minus full steps of motion
        self._circling = Latch(-0.8, -1.2)  # minus full steps from the middle
        self._too_much = Latch(0.5, 0.34)  # of the successes were helped
        self._alone = Latch(0.8, 0.6)  # of the episodes succeeded without help
        self._learning = Latch(-0.5, -0.7)  # minus the same
        self._slow = Latch(-0.7, -0.85)  # minus achieved over wanted updates
        self._saturated = Latch(0.5, 0.35)

    def __call__(self, course: Course, learner: Learner) -> Advice:
        """The first that holds, the most urgent first."""
        found = self._found(course, learner)
        kind = next(kind for kind in Kind if found.get(kind, kind is Kind.TRY))
        return Advice(kind, sentence(kind, course, learner))

    def _found(self, course: Course, learner: Learner) -> dict[Kind, bool]:
        rate = course.alone / len(course.episodes) if len(course.episodes) >= ENOUGH else None
        helped = 1 - course.alone / course.successes if course.successes >= ENOUGH else None
        too_much, alone = self._too_much(helped), self._alone(rate)
        learning = rate is None or self._learning(-rate)
        long = course.since_alone()[0] >= LONG
        wanted = learner.utd_wanted
        return {
            Kind.AWAY: not learner.connected,
            Kind.LET_GO: course.led >= LED,
            **self._stuck(course),
            Kind.TOO_MUCH: too_much,
            Kind.NEVER: long and not course.ever_alone,
            Kind.LOST: long,
            Kind.EXPLORED: learning and course.acted >= EXPLORED,
            Kind.SLOW: self._slow(-learner.utd / wanted if wanted and learner.utd else None),
            Kind.SATURATED: self._saturated(course.saturation if course.actions >= 100 else None),
            Kind.ALONE: alone,
        }

    def _stuck(self, course: Course) -> dict[Kind, bool]:
        acts = course.acted >= EXPLORE
        path, way, spread = course.path(STILL), course.path(TRACK), course.spread(TRACK)
        still = self._still(-path if acts and path is not None else None)
        circling = self._circling(-spread if acts and spread is not None and way is not None and way > 3 else None)
        return {Kind.STILL: still, Kind.CIRCLING: circling}


def sentence(kind: Kind, course: Course, learner: Learner) -> str:
    """What a person reads: what is the matter, and what to do."""
    steps, seconds = course.since_alone()
    long = f"{steps} steps ({_duration(seconds)})"
    helped = course.successes - course.alone
    texts = {
        Kind.AWAY: "the learner is away: what happens now is kept, but nothing is learnt from it yet",
        Kind.LET_GO: f"you have led for {course.led} steps: bring it close, then let go and let it finish",
        Kind.STILL: "help: it does not move. Bring it close, then let go",
        Kind.CIRCLING: "help: it stays in the same place. Bring it close, then let go",
        Kind.TOO_MUCH: f"let it try: you helped in {helped} of {course.successes} successes, a third is enough",
        Kind.NEVER: f"no success of its own in {long}: help in every third episode, and check the reward",
        Kind.LOST: f"no success of its own in {long}: help in a few episodes, right to the end",
        Kind.EXPLORED: f"help: it has tried for {course.acted} steps. Bring it close, let it do the rest",
        Kind.SLOW: f"the learner does {learner.utd:.1f} of {learner.utd_wanted:g} updates per step: hold now and then",
        Kind.SATURATED: f"{course.saturation:.0%} of its actions are at the limit: larger steps, or bad values?",
        Kind.ALONE: f"hands off: {course.alone} of {len(course.episodes)} on its own. Help only if it is stuck",
        Kind.TRY: "let it try",
    }
    return texts[kind]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"


@final
class Advisor:
    """Listens to a rollout, and by `judge` to what a person says of it; ``advice`` stands for `DWELL` s at least.

    ``axes`` and ``place`` as in `Course`. ``learner`` tells how that does. ``say`` gets a line at the end of an episode
    when the advice has changed that is not of a moment, ``show`` gets `status` with every record. ``now`` is monotonic.
    """

    def __init__(
        self,
        axes: int,
        place: Place,
        learner: Callable[[], Learner] = Learner,
        say: Callable[[str], object] = log.info,
        show: Callable[[Mapping[str, Any]], object] = dict,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.course = Course(axes, place, now)
        self.advice = Advice(Kind.TRY, "let it try")
        self._rules = Rules()
        self._learner = learner
        self._say = say
        self._show = show
        self._now = now
        self._since = -math.inf
        self._said = Kind.TRY

    def __call__(self, record: Record) -> None:
        self.course(record)
        begins = isinstance(record, EpisodeStart)  # what was advised for a moment is over
        ends = isinstance(record, Step) and (record.terminated or record.truncated)
        self._advise(self._rules(self.course, self._learner()), begins, begins or ends)
        if ends:
            self._report()
        self._show(self.status())

    def judge(self, judgement: Judgement) -> None:
        """A verdict on an episode: the figures follow, and the advice that rests on them."""
        self.course.judge(judgement)
        self._advise(self._rules(self.course, self._learner()), begins=False, figures=True)
        self._show(self.status())

    def status(self) -> dict[str, Any]:
        """For a console: advice first, then the figures behind it that the actor does not show anyway."""
        course, learner = self.course, self._learner()
        steps, seconds = course.since_alone()
        return {
            "advice": self.advice.text,
            "on its own": f"{course.alone} of {len(course.episodes)}",
            "since a success of its own": f"{steps} steps, {_duration(seconds)}",
            "actions at the limit": f"{course.saturation:.0%}",
            "UTD": f"{learner.utd:.1f} of {learner.utd_wanted:g}" if learner.utd_wanted else "",
        }

    def _advise(self, advice: Advice, begins: bool, figures: bool) -> None:
        """Unless the ``figures`` are news, the sentence changes with its kind only: what counts up is in the status."""
        if advice.kind is self.advice.kind:
            self.advice = advice if figures else self.advice
        elif begins or self._now() - self._since >= DWELL:
            self.advice, self._since = advice, self._now()

    def _report(self) -> None:
        if self.advice.kind not in (self._said, *OF_THE_MOMENT):
            self._said = self.advice.kind
            course = self.course
            share = f"operator {course.operator_share:.0%}, on its own {course.alone} of {len(course.episodes)}"
            self._say(f"episode {course.ended}: {share} · {self.advice.text}")


def advisor_for(
    task: AnyTask,
    learner: Callable[[], Learner] = Learner,
    say: Callable[[str], object] = log.info,
    show: Callable[[Mapping[str, Any]], object] = dict,
) -> Advisor:
    """The advisor for ``task``."""
    return Advisor(task.action_dim - task.grippers, place_of(task), learner, say, show)
