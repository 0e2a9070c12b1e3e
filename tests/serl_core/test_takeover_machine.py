"""When a takeover begins and ends: every way through its states, and none through noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tyro
from env_parts import push
from hypothesis import given, settings
from hypothesis import strategies as st

from serl_core.config import ConfigError
from serl_core.envs.takeover_machine import Grip, HandMachine, State, TakeoverConfig, TakeoverMachine
from serl_core.teleop.device import Reading

PERIOD = 0.1  # s
TOUCH, WEAK, REST = Grip(True, True), Grip(False, True), Grip(False, False)


def machine(*readings: Reading, config: TakeoverConfig | None = None) -> list[int]:
    """The number of the takeover after each reading."""
    logic = TakeoverMachine(config)
    return [logic.update(reading, PERIOD * step) for step, reading in enumerate(readings)]


def walk(*grips: Grip | None, hold: bool = True) -> str:
    """The first letters of the states through which a hand goes."""
    hand = HandMachine(delay=0.25, hold=hold)
    return "".join(hand.update(grip, PERIOD * step)[0] for step, grip in enumerate(grips))


@pytest.mark.parametrize(
    ("grips", "states"),
    [
        ([REST, WEAK, TOUCH, WEAK, WEAK], "ppooo"),
        ([TOUCH, REST, REST, REST, REST, REST], "orrrpp"),
        ([TOUCH, REST, REST, REST, WEAK, REST, REST], "orrrorr"),  # a short rest
        ([TOUCH, None, TOUCH, WEAK, REST, WEAK, TOUCH], "olllllo"),  # lost: a push from before is none
        ([TOUCH, REST, None, None, REST, TOUCH], "orlllo"),
        ([TOUCH, None, REST, None, TOUCH, REST, TOUCH], "olllllo"),  # it must rest after the last loss
        ([None, TOUCH], "ao"),  # lost while the policy acted: back, it is heard at once
        ([None, None, WEAK, None, REST, None, TOUCH, None], "aapapaol"),
    ],
)
def test_every_way_through_the_states(grips: list[Grip | None], states: str) -> None:
    """Guards the table of the machine: who leads the arm after what."""
    assert walk(*grips) == states


def test_where_the_policy_is_to_go_on_a_lost_device_ends_the_takeover() -> None:
    """Guards the other choice of the config."""
    assert walk(TOUCH, None, REST, TOUCH, hold=False) == "oppo"
    assert walk(None, TOUCH, hold=False) == "po"


def test_takeovers_begin_at_once_end_after_a_delay_and_count_up() -> None:
    """Guards the numbers that learning from takeovers relies on."""
    rest = [push()] * 5
    assert machine(push(), push(0.5), *rest, push(0, 0.3), push()) == [-1, 0, 0, 0, 0, -1, -1, 1, 1]


def test_a_short_rest_does_not_end_a_takeover() -> None:
    """Guards against handing the robot back to the policy in the middle of a correction."""
    assert machine(push(0.5), push(), push(), push(0.5), push(), push(), push()) == [0] * 7


def test_the_delay_is_a_time_and_not_a_number_of_steps() -> None:
    """Guards against a task at 20 Hz that hands back in half the time."""
    logic = TakeoverMachine()
    found = [logic.update(reading, 0.05 * step) for step, reading in enumerate([push(0.5), *[push()] * 8])]
    assert found == [0] * 6 + [-1] * 3


def test_a_button_takes_over_and_keeps_it() -> None:
    """Guards the gripper: closing it takes longer than the release delay, with the hand at rest."""
    pressed = push(buttons=(True, False))
    assert machine(*[pressed] * 6, *[push()] * 4) == [0] * 9 + [-1]


def test_a_weak_push_keeps_a_takeover_but_does_not_begin_one() -> None:
    """Guards the gap between the two thresholds."""
    assert machine(push(0.1), push(0.2), *[push(0.1)] * 6) == [-1] + [0] * 7


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"connected": False}, "disconnected"),
        ({"age": 1.0}, "stale"),
        ({"age": np.nan}, "stale"),
        ({"twist": np.full(6, np.nan)}, "stale"),
    ],
)
def test_a_lost_device_neither_begins_a_takeover_nor_leads_one(change: dict, name: str) -> None:
    """Guards against a robot that goes on with the last push of an unplugged or broken device."""
    logic = TakeoverMachine()
    assert logic.update(replace(push(0.9), **change), 0.0) == -1 and logic.leads == ("nobody",)
    assert logic.update(push(), 0.05) == -1 and logic.leads == ("policy",)
    assert logic.update(push(0.9), 0.1) == 0 and logic.device == "ok" and logic.leads == ("operator",)
    assert logic.update(replace(push(0.9), **change), 0.2) == 0 and logic.device == name and logic.leads == ("nobody",)


def test_a_reset_ends_a_takeover_but_not_the_loss_of_its_device() -> None:
    """Guards the next episode: the policy does not go on with what the person was preventing when the device went."""
    logic = TakeoverMachine()
    logic.update(push(0.9), 0.0)
    logic.reset()
    assert logic.update(push(), 0.1) == -1 and logic.states == (State.POLICY,)
    logic.update(push(0.9), 0.2)
    logic.update(replace(push(), connected=False), 0.3)
    logic.reset()
    assert logic.update(push(), 0.4) == 2 and logic.leads == ("nobody",) and logic.lost
    assert logic.update(push(0.9), 0.5) == 2 and logic.leads == ("operator",) and not logic.lost


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"engage": 0.1, "release": 0.2}, "release"),
        ({"ease": -1}, "ease"),
        ({"max_age": 0.0}, "max_age"),
        ({"clutch": -1}, "clutch"),
        ({"gains": (0.0,) * 6}, "gains"),
        ({"gains": (np.nan,) * 6}, "gains"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict, text: str) -> None:
    """Guards against a configuration that flickers, or that nobody can take over with."""
    with pytest.raises(ConfigError, match=text):
        TakeoverConfig(**values)


def test_masks_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a comment behind a bracket: the help would not have it."""
    with pytest.raises(SystemExit):
        tyro.cli(TakeoverConfig, args=["--help"])
    assert "masks" in capsys.readouterr().out


@given(st.floats(0.0, 1.0), st.integers(0, 2**32 - 1), st.sampled_from([None, 0]))
@settings(deadline=None)
def test_axis_noise_never_makes_a_takeover_flicker(level: float, seed: int, clutch: int | None) -> None:
    """Guards every steady push, whatever its strength: 1 % noise starts it at most once and never ends it."""
    rng = np.random.default_rng(seed)
    config, logic = TakeoverConfig(clutch=clutch), []
    for step in range(60):
        twist = np.array([level, 0, 0, 0, 0, 0]) + rng.uniform(-0.01, 0.01, 6)
        logic.append(Reading(twist, (clutch is not None and step > 20, False)))
    ids = machine(*logic, config=config)
    assert set(ids) <= {-1, 0}
    assert ids == sorted(ids)


@given(st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_noise_never_makes_the_states_flicker(level: float, seed: int) -> None:
    """Guards the hand-over too: once led, a steady push above the release is never taken for letting go."""
    rng = np.random.default_rng(seed)
    logic = TakeoverMachine()
    twists = [np.array([level, 0, 0, 0, 0, 0]) + rng.uniform(-0.01, 0.01, 6) for _ in range(60)]
    states = []
    for step, twist in enumerate(twists):
        logic.update(Reading(twist), PERIOD * step)
        states.append(logic.states[0])
    assert sum(before != after for before, after in pairwise(states)) <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(5, 12)), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_noise_changes_no_takeover_of_a_person(phases: list[tuple[bool, int]], seed: int) -> None:
    """Guards counts of takeovers: pushes and rests give the same numbers with and without 1 % noise."""
    rng = np.random.default_rng(seed)
    clean = [push(0.4 if pushing else 0.0) for pushing, length in phases for _ in range(length)]
    noisy = [replace(reading, twist=reading.twist + rng.uniform(-0.01, 0.01, 6)) for reading in clean]
    assert machine(*clean) == machine(*noisy)


@given(st.lists(st.sampled_from([TOUCH, WEAK, REST, None]), max_size=40), st.booleans())
@settings(deadline=None)
def test_a_lost_hand_never_hands_its_arm_to_the_policy(grips: list[Grip | None], hold: bool) -> None:
    """Guards against any order of losses and returns after which the policy goes on unasked."""
    states = walk(*grips, hold=hold)
    assert ("l" in states or "a" in states) <= hold
    assert "lp" not in states and "lr" not in states and "la" not in states and "al" not in states
    assert hold <= all(state in "la" for grip, state in zip(grips, states, strict=True) if grip is None)
    assert all(grip is not None for grip, state in zip(grips, states, strict=True) if state == "o")
