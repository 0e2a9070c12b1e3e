"""What a person says beside the device's motion: verdicts, hold, STOP, "again". No arm moves by any of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class Event(StrEnum):
    """One thing to say. Verdicts on the running episode end it, those on the last one change its label only."""

    BEGIN = "begin"  # the next episode may start
    END = "end"  # this one ends here, a verdict follows
    SUCCESS = "success"  # of the running episode, or of the one that awaits its verdict
    FAILURE = "failure"
    DISCARD = "discard"  # the running episode is not kept
    UNDO = "undo"  # the last kept episode is taken back
    FALSE_SUCCESS = "false_success"  # the judge was wrong about the last success
    MISSED_SUCCESS = "missed_success"  # it is done now, and the judge does not see it
    HOLD = "hold"  # the arm waits where it is, until BEGIN
    STOP = "stop"  # the arm is stopped; only `serl recover` ends that
    QUIT = "quit"  # end after this episode


@dataclass(frozen=True)
class Said:
    """An event, through what it came ("key", "page", "button") and when (wall clock, s)."""

    event: Event
    source: str
    wall_time: float


class Console(Protocol):
    """Hears a person, and shows them how things stand. Constructors open nothing."""

    def poll(self) -> Sequence[Said]:
        """What was said since the last call, in order, at once; never raises because an end of it is gone."""
        ...

    def show(self, status: Mapping[str, Any]) -> None:
        """The figures to show now, by name; plain values. Returns at once."""
        ...
