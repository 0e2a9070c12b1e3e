"""The actor's wait for its first weights: as long as it takes, but not for a learner that is not there."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from link_ends import eventually

from serl_core import policies
from serl_core.agents.policy import params_from_tree, params_to_tree
from serl_core.blueprint import Blueprint
from serl_core.policies import SLOW, LinkPolicy
from serl_core.tasks import load_task
from serl_core.transport import LinkError, Weights

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


class PublishingLink(QuietLink):
    """A learner that publishes at once, and again when it is told to."""

    session = "actor"

    def __init__(self) -> None:
        super().__init__(until=1000.0)
        self.blueprint = Blueprint.for_task("reach", "state")
        self.params = params_to_tree(self.blueprint.agent().policy(self.blueprint.agent().init(jax.random.key(0))))
        self.newest = self.version(1)

    def version(self, number: int, **changes: Any) -> Weights:
        return Weights(number, {**self.params, **changes}, {**self.blueprint.to_tree(), "received": {"actor": number}})

    def weights(self) -> Any:
        return self.newest


def test_new_weights_are_made_ready_beside_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the time of an action: copying a network took 2 to 6 ms of every fifth one."""
    link: Any = PublishingLink()
    policy = LinkPolicy(link, load_task("reach"), "state", seed=0)
    assert policy.wait(PATIENCE, lambda: False, link.now, lambda text: None) and policy.version == 1
    may_end, obs = threading.Event(), link.blueprint.raw_example()

    def slowly(tree: Any) -> Any:
        assert may_end.wait(30.0)
        return params_from_tree(tree)

    monkeypatch.setattr(policies, "params_from_tree", slowly)
    link.newest = link.version(5)
    assert [policy(obs).version for _ in range(3)] == [1, 1, 1] and policy.received == 1  # nobody waits
    link.newest = link.version(9)
    may_end.set()
    assert eventually(lambda: policy(obs).version == 9)
    assert policy.received == 9


def test_new_weights_are_made_ready_after_the_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the slowest actions: one beside which weights are copied shares its core with that."""
    link: Any = PublishingLink()
    policy = LinkPolicy(link, load_task("reach"), "state", seed=0)
    assert policy.wait(PATIENCE, lambda: False, link.now, lambda text: None)
    order, act = [], policy._acting
    made_ready = threading.Event()

    def slowly_decided(params: Any, obs: Any) -> Any:
        made_ready.wait(0.2)
        order.append("decided")
        return act(params, obs)

    def noted(tree: Any) -> Any:
        order.append("made ready")
        made_ready.set()
        return params_from_tree(tree)

    monkeypatch.setattr(policies, "params_from_tree", noted)
    monkeypatch.setattr(policy, "_acting", slowly_decided)
    link.newest = link.version(5)
    policy(link.blueprint.raw_example())
    assert made_ready.wait(30.0) and order == ["decided", "made ready"]


def test_weights_that_cannot_be_used_are_not_passed_over() -> None:
    """Guards against an actor that goes on for hours with old weights because another thread has failed."""
    link: Any = PublishingLink()
    policy = LinkPolicy(link, load_task("reach"), "state", seed=0)
    assert policy.wait(PATIENCE, lambda: False, link.now, lambda text: None)
    link.newest = link.version(2, **{"strange/kernel": np.zeros(2)})
    with pytest.raises(ValueError, match="strange"):
        for _ in range(1000):
            policy(link.blueprint.raw_example())
            time.sleep(0.01)
