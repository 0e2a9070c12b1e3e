"""What a takeover says about the step before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from link_records import step

from serl_core.types import Step, Who, led_to_takeover

HANDS: dict[str, tuple[Who, int]] = {
    "p": ("policy", -1),
    "o": ("operator", 0),
    "n": ("nobody", 0),
    "q": ("operator", 1),
}


def episode(hands: str) -> list[Step]:
    """One step per letter: policy, operator or nobody within takeover 0, or (q) the operator within takeover 1."""
    led = [HANDS[letter] for letter in hands]
    return [replace(step("a", 0, at), who=who, takeover=takeover) for at, (who, takeover) in enumerate(led)]


def marked(hands: str) -> list[int]:
    """The numbers of the steps that led to a takeover."""
    steps = episode(hands)
    pairs = zip([None, *steps], steps, strict=False)
    return [before.step for before, after in pairs if led_to_takeover(before, after) and before]


@pytest.mark.parametrize(
    ("hands", "found"),
    [
        ("ppoop", [1]),
        ("ooppp", []),  # a takeover that is there from the first step
        ("popq", [0, 2]),
        ("poonnoop", [0]),  # the device is lost and comes back: one takeover
        ("poqq", [0]),  # straight from one takeover into another
        ("pppp", []),
    ],
)
def test_a_takeover_marks_the_step_of_the_policy_before_it(hands: str, found: list[int]) -> None:
    """Guards learning from takeovers: a mark on a person's own step, or on none, teaches the opposite."""
    assert marked(hands) == found


def test_steps_that_are_no_neighbours_are_refused() -> None:
    """Guards against a mark on the last step of another episode."""
    first, _, third = episode("ppo")
    for before in (first, replace(third, step=1, episode=7), replace(third, step=1, actor="b")):
        with pytest.raises(ValueError, match="does not follow"):
            led_to_takeover(before, third)
