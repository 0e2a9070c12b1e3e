"""The set point between two targets: never too fast, never out of the limits, always arriving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from guard_parts import CENTRE
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.drivers.fake import LIMITS
from robot_servers.geometry import quat_angle, quat_mul, rotvec_to_quat
from robot_servers.slew import Pace, Slew

DT = 0.005  # s
PACE = Pace.of(LIMITS)


def goal_in(rng: np.random.Generator) -> np.ndarray:
    """A pose anywhere in the box and the tilt."""
    position = rng.uniform(LIMITS.box_low, LIMITS.box_high)
    axis = rng.normal(size=3)
    turn = axis / np.linalg.norm(axis) * rng.uniform(0.0, LIMITS.tilt)
    return np.concatenate([position, quat_mul(rotvec_to_quat(turn), np.array(LIMITS.orientation))])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_sequence_of_targets_makes_the_set_point_too_fast_or_leave_the_limits(seed: int) -> None:
    """Guards against speed, acceleration, box or tilt exceeded by any of 10 000 changes of the target."""
    rng = np.random.default_rng(seed)
    slew = Slew(DT)
    slew.stay(goal_in(rng))
    assert slew.pose is not None
    before, velocity = slew.pose, np.zeros(3)
    for _ in range(100):
        goal, cycles = goal_in(rng), int(rng.integers(1, 10))
        for _ in range(cycles):
            after = slew.advance(goal, before, LIMITS, PACE)
            moved = (after[:3] - before[:3]) / DT
            assert np.linalg.norm(moved) <= LIMITS.speed + 1e-6
            assert quat_angle(after[3:], before[3:]) / DT <= LIMITS.turn_speed + 1e-6
            assert (after[:3] >= np.array(LIMITS.box_low) - 1e-9).all()
            assert (after[:3] <= np.array(LIMITS.box_high) + 1e-9).all()
            assert quat_angle(after[3:], np.array(LIMITS.orientation)) <= LIMITS.tilt + 1e-6
            inside = (after[:3] > np.array(LIMITS.box_low) + 1e-6) & (after[:3] < np.array(LIMITS.box_high) - 1e-6)
            if inside.all():  # a face of the box stops at once
                assert np.linalg.norm(moved - velocity) <= LIMITS.acceleration * DT + 1e-6
            before, velocity = after, moved


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dt=st.sampled_from([0.002, 0.005, 0.01, 0.02]))
def test_it_arrives_at_rest_and_does_not_swing_past(seed: int, dt: float) -> None:
    """Guards against an arm that overshoots into what it should only touch, also at a low rate."""
    rng = np.random.default_rng(seed)
    start, goal = goal_in(rng), goal_in(rng)
    slew = Slew(dt)
    slew.stay(start)
    distance, at = np.linalg.norm(goal[:3] - start[:3]), start
    for _ in range(2000):
        at = slew.advance(goal, at, LIMITS, PACE)
        left = np.linalg.norm(goal[:3] - at[:3])
        assert left <= distance + 1e-9
        distance = left
    assert np.array_equal(at, goal)


def test_it_takes_no_longer_than_the_limits_ask_for() -> None:
    """Guards against an arm that is slower than its limits: half the way speeding up, half braking."""
    slew = Slew(DT)
    slew.stay(CENTRE)
    goal, cycles, at = CENTRE + np.array([0.015, 0, 0, 0, 0, 0, 0]), 0, CENTRE
    while not np.array_equal(at, goal):
        at, cycles = slew.advance(goal, at, LIMITS, PACE), cycles + 1
    assert cycles * DT <= 2 * np.sqrt(0.015 / LIMITS.acceleration) + 4 * DT


def test_it_waits_for_an_arm_that_does_not_follow() -> None:
    """Guards against a target that runs away from a blocked arm, which then springs after it."""
    slew = Slew(DT)
    slew.stay(CENTRE)
    goal = CENTRE + np.array([0.24, 0, 0, 0, 0, 0, 0])
    for _ in range(400):
        at = slew.advance(goal, CENTRE, LIMITS, PACE)
    assert LIMITS.step - LIMITS.speed * DT <= np.linalg.norm(at[:3] - CENTRE[:3]) <= LIMITS.step
    back = slew.advance(CENTRE, CENTRE, LIMITS, PACE)
    assert back[0] <= at[0], "the way back to the arm is open"


def test_outside_of_the_box_it_only_comes_nearer() -> None:
    """Guards against a set point that jumps to the edge of the box from where the arm really is."""
    slew = Slew(DT)
    limits = replace(LIMITS, step=1.0)
    at = np.array([0.9, 0.1, 0.3, *CENTRE[3:]])
    slew.stay(at)
    for _ in range(200):
        after = slew.advance(CENTRE, at, limits, PACE)
        assert (
            after[0] <= max(at[0], LIMITS.box_high[0])
            and np.linalg.norm(after[:3] - at[:3]) <= LIMITS.speed * DT + 1e-9
        )
        at = after
    assert np.array_equal(at, CENTRE)
