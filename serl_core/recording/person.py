"""Episodes recorded by a person: they begin them, lead the arm, say how it ended, and may take back what they said.

A script may take the person's place (`serl_core.recording.script`); nothing here knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from serl_core.attendance import Attendance
from serl_core.config import Observation
from serl_core.data.episodes import EpisodeStore
from serl_core.envs.attention import Attended, Begins, Ears, attended, by_hand
from serl_core.envs.rewards import Judge
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.outage import OutlivesServer
from serl_core.pairs import AnyTask
from serl_core.recording.book import ABOUT, Book, Kind
from serl_core.recording.watch import Watch, WatchConfig
from serl_core.rollout import Identity, Policy, rollout
from serl_core.session import make_env
from serl_core.types import DEMONSTRATOR, Record

NO_LIMIT = 10**9  # steps: the time limit is `Attended`'s, which does not count the wait for a hand


@dataclass(frozen=True)
class Plan:
    """What is recorded, and how much of it. ``first_seed`` is that of the scene of episode 0.

    ``end_stops``: |action| (motions,) of a hand at its device's end stop; without, 1.
    ``attempts``: end by itself when there is enough, or after so many episodes; 0: the person quits.
    """

    kind: Kind
    obs: Observation
    episodes: int
    steps: int
    max_steps: int
    first_seed: int
    takeover: TakeoverConfig = field(default_factory=TakeoverConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    end_stops: npt.NDArray[np.float64] | None = None
    attempts: int = 0


def actor_of(kind: Kind) -> str:
    """The actor session of a kind of recordings."""
    return DEMONSTRATOR if kind == "demo" else kind


@final
class Board:
    """Told of every record: keeps the figures up to date that the person sees."""

    def __init__(self, plan: Plan, book: Book, watch: Watch, ears: Ears, now: Callable[[], float]) -> None:
        self._plan = plan
        self._book = book
        self._watch = watch
        self._ears = ears
        self._now = now
        self._begun, self._before = now(), book.kept
        self.show()

    def __call__(self, record: Record) -> None:
        self._ears.status["episode"] = record.episode
        self.show()

    def show(self) -> None:
        """After a record, or something said."""
        status = {"kept": f"{self._book.kept}/{self._plan.episodes}", "to go": self._to_go()}
        self._ears.status |= {**status, "warning": "; ".join(self._watch.warnings)}

    def _to_go(self) -> str:
        """Estimated from the pace so far."""
        done, left = self._book.kept - self._before, self._plan.episodes - self._book.kept
        if done <= 0 or left <= 0:
            return ""
        return f"{left * (self._now() - self._begun) / done / 60:.0f} min"


def record_person(
    plan: Plan,
    task: AnyTask,
    there: Attendance,
    store: EpisodeStore,
    stop: Callable[[], bool],
    *,
    idle: Policy,
    who: str,
    meta: Mapping[str, Any],
    say: Callable[[str], None],
    begins: Begins = by_hand,
    judge: Judge | None = None,
    now: Callable[[], float] = time.monotonic,
    ended: Callable[[Book, Watch], object] = lambda book, watch: None,
) -> tuple[Book, Watch]:
    """Record until the person quits, or ``stop()``; returns what was recorded, and what was warned of.

    ``idle`` is the policy that rests; ``begins``, from when on an episode that a device leads is one. ``judge``: of
    demonstrations, instead of the task's own; what the person says goes before it. ``ended`` is told of the same,
    however it ends.
    """
    book = Book(store, plan.kind, actor_of(plan.kind), who, say)
    ears = there.ears
    ears.listeners.append(book.ledger.hear)
    ends = np.ones(task.action_dim - task.grippers) if plan.end_stops is None else plan.end_stops
    watch = Watch(plan.watch, ends, task.control_hz, lambda: book.lengths)
    board = Board(plan, book, watch, ears, now)
    ears.listeners.append(lambda said, running: board.show())
    try:
        rollout(
            person_env(plan, task, there, stop, begins, judge),
            idle,
            [book, watch, board],
            identity=Identity(actor_of(plan.kind), book.first_episode, "demo" if plan.kind == "demo" else "online"),
            seeds=attended(_seeds(plan, book, say), ears, begin=True, judged=plan.kind == "demo"),
            stop=lambda: ears.over() or stop(),
            meta={**meta, "kind": plan.kind},
        )
    finally:
        ended(book, watch)
    return book, watch


def person_env(
    plan: Plan,
    task: AnyTask,
    there: Attendance,
    stop: Callable[[], bool],
    begins: Begins,
    judge: Judge | None = None,
) -> gym.Env[Any, Any]:
    """The task's environment, led by the person. Only demonstrations are judged by anybody else."""
    session = there.session
    env = make_env(
        session,
        replace(task, max_steps=NO_LIMIT),
        plan.obs,
        None,
        0,
        device=there.device,
        takeover=plan.takeover,
        said=there.ears.verdicts,
        judge=judge,
        stop=there.ears.over,
        judged=plan.kind == "demo",
    )
    limit, period = plan.max_steps or task.max_steps, 1.0 / task.control_hz
    forget = judge.reset if judge is not None else lambda: None
    env = Attended(env, there.ears, limit, period, begins if there.device is not None else None, forget)
    return OutlivesServer(env, (session.robot, *session.partners), stop, hear=there.ears.hear)


def enough(plan: Plan, book: Book) -> bool:
    """Whether as much is kept as was asked for."""
    return book.kept >= plan.episodes and book.steps >= plan.steps


def _seeds(plan: Plan, book: Book, say: Callable[[str], None]) -> Iterator[int]:
    """One for each episode. A person is asked for more even if there is enough: the last may still be taken back."""
    for index in count(book.first_episode):
        if enough(plan, book) and not plan.attempts:
            say(f"{book.kept} {ABOUT[plan.kind]} are kept: quit to end, undo to take the last back, begin for one more")
        if plan.attempts and (enough(plan, book) or len(book.ledger.entries) >= plan.attempts):
            return
        yield plan.first_seed + index
