"""How a training run goes, as far as the person beside the arm is concerned: pure figures of its records."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import numpy as np

from robot_servers.interface import Array
from serl_core.envs.arm import PROPRIOCEPTION
from serl_core.pairs import AnyTask
from serl_core.types import EpisodeStart, Judgement, Obs, Record, Step

EPISODES = 20  # of which rates are taken
HANDS = 500  # steps of which the operator's share is taken
ACTIONS = 200  # actions of the policy of which the saturation is taken
FULL = 0.98  # of an action's range: from here on it counts as saturated
TRACK = 30  # steps over which motion is followed

Place: TypeAlias = Callable[[Obs], Array]  # where all arms are, in full steps of an action: any origin


def place_of(task: AnyTask) -> Place:
    """Positions and orientations in an observation of ``task``, in units of its full steps.

    An orientation is two columns of a rotation matrix, which change by 1.4 per rad at most.
    """
    firsts, first = [], 0
    for arm in task.arms:
        firsts.append((first, arm))
        first += PROPRIOCEPTION + arm.grippers

    def place(obs: Obs) -> Array:
        state = np.asarray(obs["state"], np.float64)
        parts = [
            (state[at : at + 3] / a.step_translation, state[at + 3 : at + 9] / a.step_rotation) for at, a in firsts
        ]
        return np.concatenate([entry for pair in parts for entry in pair])

    return place


@dataclass(frozen=True)
class Ended:
    """One episode that is over; ``at``: steps of the run and time at its end."""

    number: int
    steps: int
    success: bool
    helped: bool
    at: tuple[int, float]

    @property
    def alone(self) -> bool:
        """It succeeded on its own."""
        return self.success and not self.helped


@final
class Course:
    """Listens to a rollout, and by `judge` to a person. ``now`` is monotonic, s.

    ``axes``: how many leading entries of an action move an arm.
    """

    def __init__(self, axes: int, place: Place, now: Callable[[], float]) -> None:
        self._axes = axes
        self._place = place
        self._now = now
        self.steps = 0
        self.episodes: deque[Ended] = deque(maxlen=EPISODES)
        self.ended = 0  # episodes in all
        self.acted = 0  # steps of the policy since the episode, or a takeover, began or ended
        self.led = 0  # steps of the present takeover; 0 outside of one
        self._hands: deque[bool] = deque(maxlen=HANDS)
        self._saturated: deque[float] = deque(maxlen=ACTIONS)
        self._places: deque[Array] = deque(maxlen=TRACK + 1)
        self._begun = (0, now())
        self._alone: list[Ended] = []  # every success on its own, in the order of the episodes
        self._early: Judgement | None = None  # on the running episode
        self._running, self._length, self._helped = -1, 0, False

    def __call__(self, record: Record) -> None:
        if isinstance(record, EpisodeStart):
            self._running, self._early = record.episode, None
            self._length, self._helped, self.led = 0, False, 0
            self._let_go(record.obs)
        elif not record.aborted:
            self._step(record)
        if isinstance(record, Step) and (record.terminated or record.truncated):
            self._end(record)

    def judge(self, judgement: Judgement) -> None:
        """A verdict on an episode, also on the running one: it counts in place of what was recorded."""
        if judgement.episode == self._running:
            self._early = judgement
            return
        if judgement.verdict == "pending":
            return
        found = [place for place, ended in enumerate(self.episodes) if ended.number == judgement.episode]
        self._alone = [ended for ended in self._alone if ended.number != judgement.episode]
        for place in found:
            self._correct(place, judgement)

    def _correct(self, place: int, judgement: Judgement) -> None:
        if judgement.verdict == "discarded":
            del self.episodes[place]
            return
        self.episodes[place] = ended = replace(self.episodes[place], success=judgement.verdict == "success")
        if ended.alone:
            self._alone = sorted([*self._alone, ended], key=lambda one: one.number)

    def _step(self, step: Step) -> None:
        leads = step.who != "policy"
        self.steps, self._length = self.steps + 1, self._length + 1
        self._hands.append(leads)
        if leads:
            self.led, self._helped = self.led + 1, True
            self._let_go(step.next_obs)
            return
        self.led, self.acted = 0, self.acted + 1
        self._saturated.append(float(np.mean(np.abs(step.proposal[: self._axes]) >= FULL)))
        self._places.append(self._place(step.next_obs))

    def _let_go(self, obs: Obs) -> None:
        """From here on the policy's own motion counts."""
        self.acted = 0
        self._places.clear()
        self._places.append(self._place(obs))

    def _end(self, step: Step) -> None:
        ended = Ended(step.episode, self._length, step.success, self._helped, (self.steps, self._now()))
        self.episodes.append(ended)
        self.ended += 1
        if ended.alone:
            self._alone.append(ended)
        early, self._early, self._running = self._early, None, -1
        if early is not None:
            self.judge(early)

    # ── figures ──────────────────────────────────────────────────────────────────────────────────

    @property
    def operator_share(self) -> float:
        """Of the newest steps."""
        return _mean(self._hands)

    @property
    def saturation(self) -> float:
        """Share of the entries of the policy's newest actions that are at their limit."""
        return _mean(self._saturated)

    @property
    def actions(self) -> int:
        """How many of them `saturation` is of."""
        return len(self._saturated)

    @property
    def alone(self) -> int:
        """How many of the newest episodes succeeded without help."""
        return sum(episode.alone for episode in self.episodes)

    @property
    def successes(self) -> int:
        """How many of the newest episodes succeeded."""
        return sum(episode.success for episode in self.episodes)

    @property
    def ever_alone(self) -> bool:
        """Whether there was a success without help."""
        return bool(self._alone)

    def since_alone(self) -> tuple[int, float]:
        """Steps and seconds since the last success without help, or since the beginning."""
        steps, moment = self._alone[-1].at if self._alone else self._begun
        return self.steps - steps, self._now() - moment

    def path(self, steps: int) -> float | None:
        """How far the policy moved in its last ``steps`` steps, in full steps; None if it has not acted so long."""
        if len(self._places) <= steps:
            return None
        places = np.array(self._places)[-steps - 1 :]
        return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())

    def spread(self, steps: int) -> float | None:
        """How far from their middle it was at most in these steps, in full steps; None as `path`."""
        if len(self._places) <= steps:
            return None
        places = np.array(self._places)[-steps - 1 :]
        return float(np.linalg.norm(places - places.mean(axis=0), axis=1).max())


def _mean(values: deque[bool] | deque[float]) -> float:
    return float(sum(values)) / len(values) if values else 0.0
