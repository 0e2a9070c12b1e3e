"""A person without a body: a hand at a device, and a console at which they say things at given moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robot_servers.geometry import delta_between
from robot_servers.interface import RobotState
from serl_core.config import Task
from serl_core.envs.frames import axis_scales
from serl_core.envs.scored import Belief, ScoreJudge, Stage
from serl_core.teleop.console import Event, Said
from serl_core.teleop.device import Reading


def said(event: Event, wall: float = 0.0) -> Said:
    return Said(event, "key", wall)


@dataclass
class Script:
    """Satisfies `Console`: ``script`` is given the status at every poll and says what the person says then.

    An event alone comes from a key.
    """

    script: Callable[[Mapping[str, Any]], Iterable[Event | Said]]
    shown: list[dict[str, Any]] = field(default_factory=list)
    heard: list[Event] = field(default_factory=list)

    def poll(self) -> Sequence[Said]:
        told = self.script(self.shown[-1] if self.shown else {})
        heard = [said(event) if isinstance(event, Event) else event for event in told]
        self.heard += [one.event for one in heard]
        return heard

    def show(self, status: Mapping[str, Any]) -> None:
        self.shown.append(dict(status))


def in_order(*moments: tuple[str, Event | Said]) -> Callable[[Mapping[str, Any]], Iterator[Event | Said]]:
    """A script: each event is said once when its moment has come.

    A moment is "begin" (the arm waits for BEGIN), "judge" (it waits for a verdict), or a number of steps.
    """
    waiting = list(moments)

    def script(status: Mapping[str, Any]) -> Iterator[Event | Said]:
        if waiting and _has_come(waiting[0][0], status):
            yield waiting.pop(0)[1]

    return script


def _has_come(moment: str, status: Mapping[str, Any]) -> bool:
    waits = str(status.get("waits for", ""))
    if moment == "begin":
        return waits == "begin"
    if moment == "judge":
        return "failure" in waits
    return not waits and status.get("step") == int(moment)


@dataclass
class Seeker:
    """Satisfies `Device`: a hand that pushes towards ``goal`` (3,) m, when ``pushes`` says so."""

    task: Task
    state: Callable[[], RobotState]
    goal: Callable[[], np.ndarray]
    pushes: Callable[[], bool] = lambda: True
    connected: bool = True
    resets: int = 0

    def reset(self) -> None:
        self.resets += 1

    def read(self) -> Reading:
        if not self.pushes():
            return Reading(np.zeros(6), connected=self.connected)
        state = self.state()
        aim = np.concatenate([self.goal(), state.pose[3:]])
        twist = np.clip(0.5 * delta_between(state.pose, aim) / axis_scales(self.task), -1.0, 1.0)
        twist[3:] = 0.0
        norm = float(np.linalg.norm(twist))
        return Reading(twist * max(1.0, 0.3 / max(norm, 1e-9)), connected=self.connected)


@dataclass
class Scores:
    """Satisfies `Scorer`: sees success from the frame of step ``first`` on, counted since its reset."""

    first: int
    name: str = "scores@1"
    beliefs: Mapping[str, Belief] = field(default_factory=lambda: {"success": Belief(0.8, 2, 3)})
    seen: int = 0

    def reset(self) -> None:
        self.seen = 0

    def score(self, obs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        self.seen += 1
        return {"success": 0.9 if self.seen > self.first else 0.1}


def scoring(first: int) -> ScoreJudge:
    """Confirms in step ``first`` + 1 a success that began in step ``first``."""
    return ScoreJudge([Stage(Scores(first), "success")])
