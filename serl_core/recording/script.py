"""The scripted operator in a person's place, at the device and at the console: for frames of simulated scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from serl_core.attendance import Attendance, attended_by
from serl_core.config import ConfigError, Truth
from serl_core.envs.attention import BEGIN, Begins
from serl_core.pairs import AnyTask
from serl_core.recording.book import Kind
from serl_core.session import Session, scripted_device
from serl_core.teleop.console import Event, Said
from serl_core.teleop.scripted import OperatorConfig

SKILL: dict[Kind, float] = {"demo": 1.0, "success": 1.0, "failure": 0.2, "play": 0.5}


@final
class ScriptedPerson:
    """Satisfies `Console`: begins every episode, and discards those whose frames are not all of their kind."""

    def __init__(self, kind: Kind, truth: Callable[[], Truth]) -> None:
        self._kind = kind
        self._truth = truth
        self._waits_for = ""

    def poll(self) -> Sequence[Said]:
        """What a person who sees the scene would say now."""
        if self._waits_for == BEGIN:
            return [Said(Event.BEGIN, "script", 0.0)]
        wrong = self._kind in ("success", "failure") and self._truth()["success"] != (self._kind == "success")
        return [Said(Event.DISCARD, "script", 0.0)] if wrong and not self._waits_for else []

    def show(self, status: Mapping[str, Any]) -> None:
        """It looks only whether it is waited for."""
        self._waits_for = str(status.get("waits for", ""))


def scripted_attendance(
    kind: Kind, task: AnyTask, session: Session, seed: int, stop: Callable[[], bool]
) -> tuple[Attendance, Begins]:
    """A script at the robot, and from when on what it does is an episode of that kind.

    Raises `ConfigError` without a ground truth, by which it knows what a frame shows.
    """
    truth = session.truth
    if truth is None:
        raise ConfigError("the script tells frames of success from others by the ground truth: give --truth ADDRESS")
    operator = OperatorConfig(mode="always", skill=SKILL[kind], reaction=0)  # whoever reacts late swings about a goal
    there = attended_by(
        session, ScriptedPerson(kind, truth), scripted_device(session, task, truth, operator, seed), stop
    )
    return there, lambda info: kind != "success" or bool(truth()["success"])
