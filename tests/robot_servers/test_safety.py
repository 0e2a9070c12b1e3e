"""The guard: no sequence of commands leads a target out of the limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guard_parts import CENTRE, make_guard, settle, state_at
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.drivers.fake import JOINTS, LIMITS
from robot_servers.geometry import quat_angle, quat_mul, quat_normalise, rotvec_to_quat
from robot_servers.interface import Array, Bend, Command, CommandRefused, Limits, RobotError
from robot_servers.limits import bend_orientation, bend_position, check_state, outside, rest_target, tightened
from robot_servers.safety import Guard

EPS = 1e-7


def random_limits(rng: np.random.Generator) -> Limits:
    low = rng.uniform(-1.0, 0.5, 3)
    return Limits(
        tuple(low),
        tuple(low + rng.uniform(0.01, 1.0, 3)),
        tuple(quat_normalise(rng.normal(size=4))),
        tilt=rng.uniform(0.01, 2.5),
        step=10 ** rng.uniform(-3, 0),
        turn=rng.uniform(0.01, 1.5),
    )


def random_pose(rng: np.random.Generator, limits: Limits, spread: float) -> Array:
    """A pose around the limits: ``spread`` 1 stays inside, more may lie outside."""
    low, high = np.array(limits.box_low), np.array(limits.box_high)
    position = (low + high) / 2 + spread * rng.uniform(-0.5, 0.5, 3) * (high - low)
    axis = quat_normalise(np.append(rng.normal(size=3), 0.0))[:3]
    angle = min(spread * limits.tilt * rng.uniform(), math.pi)
    return np.concatenate([position, quat_mul(rotvec_to_quat(axis * angle), np.array(limits.orientation))])


def excess(position: Array, limits: Limits) -> float:
    return float(np.linalg.norm(position - np.clip(position, limits.box_low, limits.box_high)))


def assert_admissible(target: Array, measured: Array, limits: Limits) -> None:
    assert np.isfinite(target).all() and abs(np.linalg.norm(target[3:]) - 1.0) < 1e-9
    assert np.linalg.norm(target[:3] - measured[:3]) <= limits.step + EPS
    assert quat_angle(target[3:], measured[3:]) <= limits.turn + EPS
    before = excess(measured[:3], limits)
    assert excess(target[:3], limits) <= EPS or excess(target[:3], limits) < before
    centre = np.array(limits.orientation)
    tilt = quat_angle(target[3:], centre)
    assert tilt <= limits.tilt + EPS or tilt < quat_angle(measured[3:], centre)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_command_leads_a_target_out_of_the_limits(seed: int) -> None:
    """Guards against any of 15 000 random commands moving the target out of the box, the tilt, the step or the turn."""
    rng = np.random.default_rng(seed)
    limits = random_limits(rng)
    guard = make_guard(limits, random_pose(rng, limits, 0.9))
    for number in range(100):
        measured = random_pose(rng, limits, spread=rng.choice([0.9, 3.0]))
        asked = random_pose(rng, limits, spread=rng.choice([0.9, 3.0, 100.0]))
        state = state_at(measured, float(number))
        applied = guard.command(Command(asked, None, state.time), state, state.time)
        assert_admissible(applied.pose, measured, limits)
        unchanged = np.allclose(applied.pose[:3], asked[:3]) and quat_angle(applied.pose[3:], asked[3:]) < 1e-6
        assert bool(applied.bends) or unchanged


MALFORMED: list[Any] = [
    None,
    "up",
    [],
    np.zeros(6),
    np.zeros((7, 1)),
    np.zeros(7),
    np.full(7, np.nan),
    np.array([np.inf, 0, 0, 1, 0, 0, 0]),
    np.array([0, 0, 0, 0, 0, 0, np.nan]),
    CENTRE * 1.02,
    CENTRE * 1e200,
    [object()] * 7,
]


@pytest.mark.parametrize("pose", MALFORMED)
def test_malformed_poses_are_refused_and_nothing_moves(pose: Any) -> None:
    """Guards against a broken client moving the arm."""
    guard = make_guard()
    before = settle(guard, CENTRE)
    with pytest.raises(CommandRefused, match=r"pose|quaternion"):
        guard.command(Command(pose, None, 0.0), state_at(CENTRE), 0.0)
    after = settle(guard, CENTRE)
    assert np.array_equal(before, after) and guard.mode == "idle" and guard.refused == 1


@pytest.mark.parametrize("gripper", [-0.1, 1.1, math.nan, math.inf, "open", [1.0]])
def test_gripper_outside_its_range_is_refused(gripper: Any) -> None:
    """Guards against raw device numbers (0–255) reaching the gripper."""
    with pytest.raises(CommandRefused, match="gripper"):
        make_guard().command(Command(CENTRE, gripper, 0.0), state_at(CENTRE), 0.0)


@pytest.mark.parametrize(
    ("state_time", "why"), [(9.4, "stale"), (10.1, "future"), (math.nan, "state_time"), ("now", "state_time")]
)
def test_stale_and_impossible_times_are_refused(state_time: Any, why: str) -> None:
    """Guards against acting on an old observation, and against clients that stamp with their own clock."""
    with pytest.raises(CommandRefused, match=why):
        make_guard().command(Command(CENTRE, None, state_time), state_at(CENTRE, 10.0), 10.0)


def test_bends_name_limit_value_and_bound() -> None:
    """Guards against a bent command that is not reported as bent, or with other numbers than were used."""
    limits = replace(LIMITS, step=0.05)
    position, bends = bend_position(np.array([0.9, 0.0, 0.3]), np.array([0.74, 0.0, 0.3]), limits)
    assert [bend.limit for bend in bends] == ["step", "box x"]
    assert bends[0].value == pytest.approx(0.16) and bends[0].bound == 0.05
    assert bends[1] == Bend("box x", 0.9, 0.75) and position == pytest.approx([0.75, 0.0, 0.3])
    tilted = quat_mul(rotvec_to_quat(np.array([0.0, 1.4, 0.0])), CENTRE[3:])
    near = quat_mul(rotvec_to_quat(np.array([0.0, 1.1, 0.0])), CENTRE[3:])
    orientation, bends = bend_orientation(tilted, near, limits)
    assert [bend.limit for bend in bends] == ["tilt"] and bends[0].value == pytest.approx(1.4)
    assert quat_angle(orientation, CENTRE[3:]) == pytest.approx(limits.tilt)


def test_admissible_commands_are_not_touched() -> None:
    """Guards against a guard that changes what it need not change."""
    asked = CENTRE + np.array([0.02, -0.01, 0.03, 0, 0, 0, 0])
    guard = make_guard()
    applied = guard.command(Command(asked, 0.5, 0.0), state_at(CENTRE), 0.0)
    assert np.array_equal(applied.pose, asked) and applied.gripper == 0.5 and applied.bends == ()
    assert guard.bent == 0 and guard.commands == 1 and guard.mode == "moving"


def test_outside_the_box_only_motion_towards_it() -> None:
    """Guards against an arm that started outside being driven farther out, or jumping back in."""
    measured = np.array([0.5, 0.0, 0.9])
    target, _ = bend_position(np.array([0.5, 0.0, 1.5]), measured, LIMITS)
    assert target == pytest.approx([0.5, 0.0, 0.9 - LIMITS.step])


def test_enormous_positions_are_bent_not_overflowed() -> None:
    """Guards against numbers so large that their square is infinite: NaN must not come out."""
    asked = CENTRE.copy()
    asked[:3] = [1e308, -1e308, 1e200]
    applied = make_guard().command(Command(asked, None, 0.0), state_at(CENTRE), 0.0)
    assert_admissible(applied.pose, CENTRE, LIMITS)


def test_translation_keeps_the_rotation() -> None:
    """Guards against a translation that turns the arm: the guard must not touch an admissible orientation."""
    tilted = np.concatenate([CENTRE[:3], quat_mul(rotvec_to_quat(np.array([0.3, 0.2, 0.1])), CENTRE[3:])])
    asked = tilted + np.array([5.0, 0, 0, 0, 0, 0, 0])
    applied = make_guard().command(Command(asked, None, 0.0), state_at(tilted), 0.0)
    assert quat_angle(applied.pose[3:], tilted[3:]) < 1e-7


def test_watchdog_holds_once_at_the_measured_pose() -> None:
    """Guards against an arm that goes on pushing when commands stop, and against a hold that creeps."""
    guard = make_guard()
    goal = CENTRE + np.array([0.05, 0, 0, 0, 0, 0, 0])
    guard.command(Command(goal, 0.0, 0.0), state_at(CENTRE), 0.0)
    assert np.array_equal(settle(guard, CENTRE), goal) and guard.mode == "moving"
    halfway = CENTRE + np.array([0.02, 0, 0, 0, 0, 0, 0])
    target = guard.target(state_at(halfway), LIMITS.watchdog + 0.01)
    assert guard.mode == "holding" and "no command" in guard.reason
    assert target is not None and np.array_equal(target[0], halfway)
    assert target[1] == 0.0, "a hold must not open the gripper"
    drifted = CENTRE + np.array([0.03, 0, 0, 0, 0, 0, 0])
    later = guard.target(state_at(drifted), 10.0)
    assert later is not None and np.array_equal(later[0], halfway)
    guard.command(Command(goal, None, 10.0), state_at(drifted), 10.0)
    assert guard.mode == "moving" and guard.reason == "" and np.array_equal(settle(guard, drifted), goal)


def test_a_hold_that_was_asked_for_lasts_until_a_reset() -> None:
    """Guards against an arm that a person stopped and the next command of the policy moves."""
    guard = make_guard()
    guard.hold_until_reset("a hand is in the way", state_at(CENTRE))
    with pytest.raises(CommandRefused, match="held: a hand is in the way; reset, or a person confirms, to go on"):
        guard.command(Command(CENTRE, None, 0.0), state_at(CENTRE), 0.0)
    guard.begin_reset(0.0)
    guard.end_reset(CENTRE, None)
    guard.command(Command(CENTRE, None, 0.0), state_at(CENTRE), 0.0)


def test_commands_that_come_late_are_refused() -> None:
    """Guards against two commands that change places on the way: the older one must not win."""
    guard = make_guard()
    for state_time in (0.9, 1.0, 1.0):
        guard.command(Command(CENTRE, None, state_time), state_at(CENTRE, 1.0), 1.0)
    with pytest.raises(CommandRefused, match="out of order"):
        guard.command(Command(CENTRE, None, 0.9), state_at(CENTRE, 1.0), 1.0)


def test_refused_commands_do_not_feed_the_watchdog() -> None:
    """Guards against a stream of garbage keeping a motion alive."""
    guard = make_guard()
    guard.command(Command(CENTRE, None, 0.0), state_at(CENTRE), 0.0)
    for tick in range(1, 6):
        with pytest.raises(CommandRefused):
            guard.command(Command(np.zeros(7), None, 0.1 * tick), state_at(CENTRE), 0.1 * tick)
    guard.target(state_at(CENTRE), 0.5)
    assert guard.mode == "holding"


def test_hold_just_outside_goes_to_the_edge_and_far_outside_stays() -> None:
    """Guards against holding a target outside the box, and against pulling back an arm that was pushed far out."""
    past = CENTRE + np.array([0.27, 0, 0, 0, 0, 0, 0])
    assert rest_target(past, LIMITS)[0] == LIMITS.box_high[0]
    far = CENTRE + np.array([0.29, 0, 0, 0, 0, 0, 0])
    assert np.array_equal(rest_target(far, LIMITS), far)


@pytest.mark.parametrize("mode", ["resetting", "guiding", "user-stopped", "fault", "stopped"])
def test_commands_are_refused_in_modes_that_are_not_the_clients(mode: Any) -> None:
    """Guards against a policy that fights the reset, or drives on after a fault; none of them ends by a hold."""
    guard = make_guard()
    if mode == "resetting":
        guard.begin_reset(0.0)
    elif mode == "guiding":
        guard.begin_guiding()
    else:
        guard.go_down(mode, "the cable broke", state_at(CENTRE))
    with pytest.raises(CommandRefused, match=mode):
        guard.command(Command(CENTRE, None, 0.0), state_at(CENTRE), 0.0)
    with pytest.raises(CommandRefused, match=mode):
        guard.begin_reset(0.0)
    guard.hold("a client asks", state_at(CENTRE))
    assert guard.mode == ("holding" if mode in ("resetting", "guiding") else mode)


WIDER: list[dict[str, Any]] = [
    {"step": 0.2},
    {"turn": 2.0},
    {"tilt": 1.3},
    {"max_age": 0.6},
    {"watchdog": 0.4},
    {"box_low": (0.2, -0.4, 0.02)},
    {"box_high": (0.75, 0.5, 0.6)},
    {"orientation": (0.0, 1.0, 0.0, 0.0)},
]


@pytest.mark.parametrize("change", WIDER)
def test_limits_are_never_loosened(change: dict[str, Any]) -> None:
    """Guards against a task that gives itself more room than the robot allows."""
    with pytest.raises(RobotError, match=r"never loosened: (step|turn|tilt|max_age|watchdog|box)"):
        tightened(LIMITS, replace(LIMITS, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"step": 0.0},
        {"watchdog": math.nan},
        {"box_low": (0.8, 0.0, 0.1)},
        {"box_low": (0.3, 0.0)},
        {"orientation": (1.0, 1.0, 0.0, 0.0)},
    ],
)
def test_limits_without_sense_are_refused(change: dict[str, Any]) -> None:
    """Guards against a guard that is off because its limits are zero, NaN or inside out."""
    with pytest.raises(RobotError, match="limits"):
        Guard(replace(LIMITS, **change), JOINTS, 100.0)


def test_an_orientation_of_zeros_is_no_measurement() -> None:
    """Guards the limits of turn and tilt: seen from no orientation, every one is within them."""
    check_state(state_at(CENTRE), 7)
    with pytest.raises(RobotError, match="norm 0"):
        check_state(state_at(np.array([0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0])), 7)


def test_tightened_limits_bind_at_once() -> None:
    """Guards against a guard that goes on with the wider limits."""
    guard = make_guard()
    guard.tighten(replace(LIMITS, box_high=(0.51, 0.4, 0.6)), state_at(CENTRE))
    applied = guard.command(Command(CENTRE + np.array([0.05, 0, 0, 0, 0, 0, 0]), None, 0.0), state_at(CENTRE), 0.0)
    assert applied.pose[0] == 0.51 and [bend.limit for bend in applied.bends] == ["box x"]


def test_outside_lists_every_broken_limit() -> None:
    """Guards against a reset plan that is checked on some axes only."""
    pose = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    assert [bend.limit for bend in outside(pose, LIMITS)] == ["box x", "box z", "tilt"]
    assert outside(CENTRE, LIMITS) == ()
