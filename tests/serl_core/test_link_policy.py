"""The actor's wait for its first weights: as long as it takes, but not for a learner that is not there."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from serl_core.policies import SLOW, LinkPolicy
from serl_core.tasks import load_task
from serl_core.transport import LinkError

PATIENCE = 120.0  # s


@dataclass
class QuietLink:
    """Stands in for the link to a learner that is there ``until`` a time and never has weights."""

    until: float  # s
    address: str = "tcp://learner:1"
    time: float = 0.0

    def now(self) -> float:
        return self.time

    def weights(self) -> None:
        return None

    def status(self) -> Any:
        return SimpleNamespace(connected=self.time < self.until, text="it does not let this actor in")

    def wait_weights(self, version: int, timeout: float) -> bool:
        self.time += timeout
        return False


def waited(link: Any, stop_at: float, said: list[str]) -> bool:
    policy = LinkPolicy(link, load_task("reach"), "state", seed=0)
    return policy.wait(PATIENCE, lambda: link.time >= stop_at, link.now, said.append)


def test_a_learner_that_is_there_is_waited_for() -> None:
    """Guards the start on a busy computer: reading and compiling may take longer than anyone's patience."""
    link, said = QuietLink(until=1000.0), []
    assert not waited(link, 900.0, said)
    assert link.time == pytest.approx(900.0, abs=0.2) and len(said) == 1 and "the learner is there" in said[0]


@pytest.mark.parametrize("until", [0.0, 500.0])
def test_a_learner_that_is_away_is_not(until: float) -> None:
    """Guards against an actor that hangs for ever, whether the learner never came or left before it was ready."""
    link, said = QuietLink(until), []
    with pytest.raises(LinkError, match="from tcp://learner:1: it does not let this actor in; is it running"):
        waited(link, 10_000.0, said)
    assert link.time == pytest.approx(until + PATIENCE, abs=0.5) and bool(said) == (until > SLOW)
