"""What a method makes of a recorded transition: who learns from it, and with which reward. Pure functions.

Records are never changed: they hold what happened. A `Routing` says what replay makes of them, so that every method
runs on the same loop and store. What it is told of a transition can grow after the transition is stored: that the
next step began a takeover, that a takeover ended behind it, that a verdict changed. It is then asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, final

from serl_core.data.labels import Outcome, recorded_outcome
from serl_core.types import Source, Step, Who, led_to_takeover

FAR = 0  # of `Seen.before`: no takeover follows, as far as is known


@dataclass(frozen=True)
class Seen:
    """What is known of a transition by now."""

    source: Source  # "demo": of a recorded demonstration
    who: Who  # whose action it was
    outcome: Outcome  # as recorded, or as a verdict has it
    before: int = FAR  # the policy's: how many steps later a takeover began; 1: in the next step
    released: bool = False  # not the policy's: the policy acts in the next step
    old: bool = False  # more than `Routing.demo_age` online transitions have come after it


@dataclass(frozen=True)
class Routed:
    """What replay makes of it. In neither partition it is not sampled; its frames stay, for its neighbours."""

    online: bool
    demos: bool
    reward: float
    terminated: bool


class Routing(Protocol):
    """A method's way with transitions."""

    @property
    def lookback(self) -> int:
        """How many of the policy's steps before a takeover hear of it."""
        ...

    @property
    def demo_ratio(self) -> float:
        """The share of each batch that is drawn from "demos"."""
        ...

    @property
    def demo_age(self) -> int:
        """Online transitions after which what a person did is old; 0: never."""
        ...

    def route(self, seen: Seen) -> Routed:
        """What replay makes of a transition of which this is known."""
        ...


@final
@dataclass(frozen=True)
class HilSerl:
    """HIL-SERL (arXiv 2410.21845): all online steps, demonstrations, and what the person did in both partitions.

    With a ``penalty`` > 0 each of the policy's last ``penalty_steps`` before a takeover loses as much reward, so that
    it does not learn to be rescued. With a ``demo_age`` what a person did leaves "demos" when so many online
    transitions have come after it. Raises ValueError for negative ones.
    """

    penalty: float = 0.0
    penalty_steps: int = 1
    demo_age: int = 0
    demo_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.penalty < 0 or self.demo_age < 0 or self.penalty_steps < 1:
            raise ValueError(
                f"penalty {self.penalty} (it is subtracted) and demo_age {self.demo_age} must not be negative, "
                f"penalty_steps {self.penalty_steps} must be at least 1"
            )

    @property
    def lookback(self) -> int:
        return self.penalty_steps if self.penalty else 0

    def route(self, seen: Seen) -> Routed:
        """The task's reward, less the penalty."""
        blamed = 0 < seen.before <= self.lookback
        human = (seen.who == "operator" or seen.source == "demo") and not seen.old
        reward = seen.outcome.reward - self.penalty * blamed
        return Routed(seen.source == "online", human, reward, seen.outcome.terminated)


@final
@dataclass(frozen=True)
class Rlif:
    """RLIF (Luo, Dong et al. 2023, arXiv 2311.12996), as its released code does it: takeovers are the only reward.

    −1 on the policy's transition before a takeover, 0 elsewhere; bootstrapping goes on through it. Demonstrations lie
    with reward 0 in the one buffer. Of the ``expert``'s transitions the released code keeps the "last" of each
    takeover only; "none" and "all" are the alternatives.

    All returns are ≤ 0, so an end by failure with value 0 would be the best state of all: it carries −1. A success
    ends with 0; a time limit bootstraps. (The released code never stores the last step of an episode.)
    """

    expert: Literal["last", "none", "all"] = "last"
    demo_ratio: float = 0.0
    demo_age: int = 0

    @property
    def lookback(self) -> int:
        return 1

    def route(self, seen: Seen) -> Routed:
        """Takeovers as reward; the task's is not looked at."""
        failed = seen.outcome.terminated and not seen.outcome.success
        reward = -1.0 if seen.before == 1 or failed else 0.0
        return Routed(self._kept(seen), seen.source == "demo", reward, seen.outcome.terminated)

    def _kept(self, seen: Seen) -> bool:
        if seen.source == "demo" or seen.who == "policy":
            return True
        kept = self.expert == "all" or (self.expert == "last" and seen.released)
        return seen.who == "operator" and kept


@final
@dataclass(frozen=True)
class Imitation:
    """Imitation of what people did: "demos" hold demonstrations and, ``corrected``, what they did in takeovers.

    With corrections it is HG-DAgger (Kelly et al. 2019, arXiv 1810.02890), without them behaviour cloning.
    """

    corrected: bool = True
    demo_ratio: float = 1.0
    demo_age: int = 0

    @property
    def lookback(self) -> int:
        return 0

    def route(self, seen: Seen) -> Routed:
        """As recorded."""
        human = seen.source == "demo" or (self.corrected and seen.who == "operator")
        return Routed(seen.source == "online", human and not seen.old, seen.outcome.reward, seen.outcome.terminated)


def seen_in(steps: Sequence[Step], source: Source, lookback: int) -> list[Seen]:
    """What is known, in the end, of each transition of one whole episode: what replay arrives at step by step.

    For those who read whole episodes, and as the yardstick of replay's tests. Nothing is old here.
    """
    known = [Seen(source, step.who, recorded_outcome(step)) for step in steps]
    for number, step in enumerate(steps):
        last = steps[number - 1] if number else None
        if source == "online" and led_to_takeover(last, step):
            for back in blamed(steps, number, lookback):
                known[back] = replace(known[back], before=number - back)
        if last is not None and step.who == "policy" != last.who:
            known[number - 1] = replace(known[number - 1], released=True)
    return known


def blamed(steps: Sequence[Step], number: int, lookback: int) -> list[int]:
    """The policy's own steps, at most ``lookback`` of them, directly before step ``number``; the nearest first."""
    found = []
    for back in range(number - 1, max(-1, number - 1 - lookback), -1):
        if steps[back].who != "policy":
            break
        found.append(back)
    return found
