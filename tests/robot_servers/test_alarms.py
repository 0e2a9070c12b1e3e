"""What the guard does about what it measures: force, margins, joints, and a soft beginning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from guard_parts import CENTRE, make_guard, settle, state_at

from robot_servers.drivers.fake import LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, CommandRefused, JointLimits, MoveTo, PlaceObjects, RobotState
from robot_servers.limits import bend_joints, joint_pace
from robot_servers.safety import RELEASE, SOFT_START, Guard

GOAL = CENTRE + np.array([0.05, 0, 0, 0, 0, 0, 0])


def test_pressing_too_hard_holds_until_it_has_sunk() -> None:
    """Guards against an arm that goes on pressing, and one that chatters at its force limit."""
    guard = make_guard()
    guard.command(Command(GOAL, None, 0.0), state_at(CENTRE), 0.0)
    hard = state_at(CENTRE, force=LIMITS.force + 5)
    guard.watch(hard)
    assert guard.mode == "holding" and "force 65.0 N at the TCP (limit 60 N)" in guard.reason
    assert np.array_equal(settle(guard, CENTRE), CENTRE), "it stops pressing: the target is where it is"
    for force in (LIMITS.force + 5, LIMITS.force - 1, LIMITS.force * RELEASE + 0.1):
        state = state_at(CENTRE, force=force)
        guard.watch(state)
        with pytest.raises(CommandRefused, match="too much force: goes on when below 70%"):
            guard.command(Command(GOAL, None, 0.0), state, 0.0)
    soft = state_at(CENTRE, force=LIMITS.force * RELEASE - 0.1)
    guard.watch(soft)
    guard.command(Command(GOAL, None, 0.0), soft, 0.0)
    assert guard.mode == "moving"


def test_pressing_ends_a_reset() -> None:
    """Guards against resets that are exempt from the force limit."""
    driver = FakeDriver()
    robot = GuardedRobot(driver)
    robot.connect()
    robot.reset((MoveTo((0.7, 0.3, 0.1, *CENTRE[3:])),))
    robot.advance(0.2)
    driver.force = np.array([0.0, 0.0, 70.0])
    robot.advance(0.2)
    status = robot.status()
    assert status.mode == "holding" and "force 70.0 N" in status.reason
    here = robot.state().pose
    robot.advance(1.0)
    assert robot.state().pose[:3] == pytest.approx(here[:3], abs=0.02)


def test_a_reset_that_begins_pressing_does_not_press_on() -> None:
    """Guards against a reset that drives through what stopped the arm, because that alarm has been heard."""
    driver = FakeDriver()
    robot = GuardedRobot(driver)
    robot.connect()
    driver.force = np.array([0.0, 0.0, 100.0])
    robot.advance(1.2)
    robot.reset((MoveTo((0.7, 0.3, 0.1, *CENTRE[3:])),))
    robot.advance(2.0)
    assert robot.status().mode == "holding" and "force 100.0 N" in robot.status().reason
    assert robot.state().pose == pytest.approx(CENTRE, abs=1e-3)


def test_a_reset_lets_go_first_of_what_the_arm_pressed_on() -> None:
    """Guards the next episode: the force that ended the last one is still there when its reset begins."""
    driver = FakeDriver()
    robot = GuardedRobot(driver)
    robot.connect()
    driver.force = np.array([0.0, 0.0, 70.0])
    robot.advance(1.2)
    robot.reset((MoveTo((0.6, 0.1, 0.3, *CENTRE[3:])),))
    robot.advance(0.2)
    driver.force = np.array([0.0, 0.0, 20.0])  # held where it is, it presses less
    robot.advance(3.0)
    assert robot.status().mode == "idle" and robot.state().pose[:3] == pytest.approx([0.6, 0.1, 0.3], abs=0.01)


def test_a_hold_does_not_move_an_arm_that_waits_outside() -> None:
    """Guards against anybody's hold being taken for a person's consent to move back in."""
    limits = replace(LIMITS, box_low=(0.52, -0.4, 0.02))
    guard = make_guard(limits)
    assert "outside of its limits" in guard.waiting_for
    guard.hold_until_reset("an observer asks", state_at(CENTRE))
    assert np.array_equal(settle(guard, CENTRE), CENTRE)


def test_on_hardware_a_reset_does_not_end_the_soft_start() -> None:
    """Guards against full stiffness at once: only a simulation has started over when objects were placed."""
    for scene, soft in (("", True), ("somewhere", False)):
        robot = GuardedRobot(FakeDriver(scene))
        robot.connect()
        robot.reset((PlaceObjects(0),))
        robot.advance(0.1)
        assert robot.status().soft is soft


def test_pushed_beyond_the_margin_it_holds_once_and_may_be_led_back() -> None:
    """Guards against an arm outside of its box that either drives on, or can never come back."""
    guard = make_guard()
    pushed = np.array([LIMITS.box_high[0] + LIMITS.margin + 0.01, 0.0, 0.3, *CENTRE[3:]])
    guard.command(Command(GOAL, None, 0.0), state_at(CENTRE), 0.0)
    guard.watch(state_at(pushed))
    assert guard.mode == "holding" and "pushed beyond the margin: box x" in guard.reason
    guard.command(Command(CENTRE, None, 0.0), state_at(pushed), 0.0)
    guard.watch(state_at(pushed))
    assert guard.mode == "moving"
    assert settle(guard, pushed)[0] < pushed[0]


def test_leaning_over_the_edge_does_not_take_the_brakes_away() -> None:
    """Guards against a set point that swings past its target because the arm is a hair outside of its box."""
    inside, leaning = CENTRE.copy(), CENTRE.copy()
    inside[0], leaning[0] = LIMITS.box_high[0], LIMITS.box_high[0] + 1e-4
    guard, goal = make_guard(pose=inside), inside + np.array([0, 0, 0.03, 0, 0, 0, 0])
    guard.command(Command(goal, None, 0.0), state_at(inside), 0.0)
    heights = [inside[2]]
    for _ in range(60):
        state = state_at(leaning if heights[-1] > goal[2] - 0.002 else inside)  # in the middle of braking
        guard.watch(state)
        target = guard.target(state, 0.0)
        assert target is not None
        heights.append(target[0][2])
    assert max(heights) <= goal[2] + 1e-9 and heights[-1] == goal[2]


JOINTS = JointLimits((-1.0,) * 7, (1.0,) * 7, (2.0,) * 7, (10.0,) * 7)


def arm_at(q: float, dq: float = 0.0) -> RobotState:
    """Joint 1 moves the TCP along x, one to one."""
    return replace(state_at(CENTRE), q=np.array([q, *[0.0] * 6]), dq=np.array([dq, *[0.0] * 6]), jacobian=np.eye(6, 7))


def test_commands_stop_short_of_a_joints_end() -> None:
    """Guards against targets in the box that the arm can only reach through the end of a joint."""
    guard = Guard(LIMITS, JOINTS, 100.0)
    guard.start(arm_at(0.99))
    applied = guard.command(Command(GOAL, None, 0.0), arm_at(0.99), 0.0)
    assert applied.pose[0] == pytest.approx(0.51, abs=1e-3), "1 cm is left for 5 cm"
    assert [bend.limit for bend in applied.bends] == ["joint 1"]
    assert applied.bends[0].value == pytest.approx(1.04, abs=1e-3) and applied.bends[0].bound == 1.0
    back, bends = bend_joints(np.array([-0.05, 0, 0, 0, 0, 0]), arm_at(1.2), JOINTS)
    assert back == 1.0 and bends == (), "the way back into the range is open"


def test_the_pace_keeps_joints_below_their_speed() -> None:
    """Guards against a slow TCP motion for which a joint near a singularity has to race."""
    stretched = replace(arm_at(0.0), jacobian=np.diag([0.1, 1, 1, 1, 1, 1, 0])[:6])
    along, aside = np.array([0.01, 0, 0, 0, 0, 0]), np.array([0, 0.01, 0, 0, 0, 0])
    quick = replace(JOINTS, acceleration=(1e3,) * 7)
    assert joint_pace(aside, stretched, quick, LIMITS) == (1.0, 1.0)
    speed, acceleration = joint_pace(along, stretched, quick, LIMITS)
    assert speed == pytest.approx(2.0 / 5.0, rel=0.15) and acceleration == 1.0
    turn = np.array([1e-4, 0, 0, 0, 0, 0.1])
    assert joint_pace(turn, stretched, quick, LIMITS)[0] == 1.0, "a turn with hardly any translation is not held up"
    assert joint_pace(np.zeros(6), stretched, JOINTS, LIMITS) == (1.0, 1.0)


def test_the_pace_keeps_joints_below_their_acceleration() -> None:
    """Guards against a set point that leaves so fast that a joint cannot follow without a reflex."""
    lazy = replace(JOINTS, acceleration=(LIMITS.acceleration / 4,) * 7)  # of what the limits would ask of joint 1
    assert joint_pace(np.array([0.01, 0, 0, 0, 0, 0]), arm_at(0.0), lazy, LIMITS)[1] == pytest.approx(0.25, rel=0.01)
    guard = Guard(LIMITS, lazy, 100.0)
    guard.start(arm_at(0.0))
    guard.end_soft()
    guard.command(Command(GOAL, None, 0.0), arm_at(0.0), 0.0)
    path = [guard.target(arm_at(0.0), 0.0) for _ in range(30)]
    x = np.array([target[0][0] for target in path if target is not None])
    assert np.abs(np.diff(x, 2)).max() * 100.0**2 <= LIMITS.acceleration / 4 * 1.01


@pytest.mark.parametrize(("state", "why"), [(arm_at(1.1), "joint 1 is at 1.10 rad"), (arm_at(0.0, 2.5), "too fast")])
def test_joints_out_of_range_or_too_fast_hold(state: RobotState, why: str) -> None:
    """Guards against joints that nobody watches."""
    guard = Guard(LIMITS, JOINTS, 100.0)
    guard.start(arm_at(0.0))
    guard.command(Command(GOAL, None, 0.0), arm_at(0.0), 0.0)
    guard.watch(state)
    assert guard.mode == "holding" and why in guard.reason


def test_the_beginning_is_soft() -> None:
    """Guards against an arm that jumps at full stiffness and speed the moment a server starts."""
    driver = FakeDriver()
    robot = GuardedRobot(driver)
    robot.connect()
    full = robot.metadata.compliance
    assert driver.compliance.translational_stiffness == pytest.approx(0.1 * full.translational_stiffness)
    assert robot.status().soft
    stiffness = []
    for _ in range(12):
        robot.advance(0.1)
        stiffness.append(driver.compliance.translational_stiffness)
    assert stiffness == sorted(stiffness) and driver.compliance == full
    assert not robot.status().soft and robot.state().time >= SOFT_START
