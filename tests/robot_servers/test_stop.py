"""What ends every motion, and what it takes to go on: STOP, the arm's own faults, guiding."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import (
    Command,
    CommandRefused,
    Compliance,
    Frame,
    Health,
    MoveTo,
    RobotError,
    SetCompliance,
)
from robot_servers.recovery import HOLD, PER_HOUR, SelfRecovery

COMMUNICATION = Health("communication", "communication_constraints_violation")
COLLISION = Health("reflex", "cartesian_reflex")


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(cameras=("front",))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def robot(driver: FakeDriver, clock: Clock) -> Iterator[GuardedRobot]:
    robot = GuardedRobot(driver, now=clock)
    robot.connect()
    robot.advance(1.5)
    yield robot
    robot.close()


def go(robot: GuardedRobot, dx: float = 0.05) -> Any:
    state = robot.state()
    pose = state.pose.copy()
    pose[0] += dx
    return robot.command(Command(pose, None, state.time))


def assert_nothing_moves(robot: GuardedRobot, tolerance: float = 1e-9) -> None:
    before = robot.state().pose
    robot.advance(1.0)
    assert robot.state().pose == pytest.approx(before, abs=tolerance)


# ── STOP ──


def test_after_stop_nothing_moves_until_a_person_recovers(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a STOP that the next command, reset or hold of a program ends."""
    go(robot)
    robot.advance(0.1)
    robot.stop("a hand is in the way")
    assert robot.status().mode == "stopped" and driver.stops == 1
    for attempt in (lambda: go(robot), lambda: robot.reset(()), lambda: robot.guide(True)):
        with pytest.raises(CommandRefused, match="a hand is in the way; a person ends it with recover"):
            attempt()
    robot.hold("a client asks")
    robot.abandon()
    assert robot.status().mode == "stopped"
    assert_nothing_moves(robot)
    robot.recover()
    assert robot.status().mode == "holding" and robot.status().soft
    assert_nothing_moves(robot)
    go(robot)
    robot.advance(0.2)
    assert robot.status().mode == "moving"


def test_stop_reaches_a_driver_that_hangs() -> None:
    """Guards against a STOP that waits in a queue behind what has gone wrong."""
    driver = FakeDriver(clock="realtime")
    robot = GuardedRobot(driver)
    robot.connect()
    driver.running.clear()
    time.sleep(0.05)
    robot.stop("it hangs")
    assert driver.stops == 1 and robot.status().mode == "stopped"
    driver.running.set()
    robot.close()


def test_a_stop_while_the_arm_recovers_is_not_lost(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards the moment in which a person has second thoughts: recovering takes seconds on real arms."""
    recover = driver.recover

    def hasty() -> None:
        recover()
        robot.stop("no, wait")

    robot.stop("a hand is in the way")
    driver.recover = hasty  # type: ignore[method-assign]
    with pytest.raises(RobotError, match="STOP was called while the arm recovered"):
        robot.recover()
    assert robot.status().mode == "stopped" and driver.off
    with pytest.raises(CommandRefused, match="stopped"):
        go(robot)


def test_closing_stops_an_arm_whose_driver_hangs() -> None:
    """Guards against a server that ends while the arm goes on with what it was told last."""
    driver = FakeDriver(clock="realtime")
    robot = GuardedRobot(driver)
    robot.connect()
    driver.running.clear()
    time.sleep(0.05)
    robot.close()
    assert driver.stops == 1
    driver.running.set()


def test_a_stopped_arm_does_not_drive_its_joints_home() -> None:
    """Guards the moment between the guard's look at a reset and the driver's step of it."""
    driver = MujocoDriver("reach")
    robot = GuardedRobot(driver)
    robot.connect()
    robot.advance(1.2)
    state = robot.state()
    robot.command(Command(state.pose + np.array([0.08, 0.08, 0, 0, 0, 0, 0]), None, state.time))
    robot.advance(0.3)
    robot.stop("STOP")
    robot.advance(0.2)
    q = robot.state().q
    assert not driver.joint_reset() and driver.state().q == pytest.approx(q, abs=1e-9)
    robot.close()


def random_call(rng: np.random.Generator, robot: GuardedRobot) -> None:
    state = robot.state()
    pose = state.pose + np.append(rng.normal(size=3) * 10 ** rng.uniform(-3, 2), np.zeros(4))
    calls: list[Any] = [
        lambda: robot.command(Command(pose, float(rng.uniform()), state.time)),
        lambda: robot.command(Command(pose * np.nan, None, state.time)),
        lambda: robot.command(Command(pose, None, state.time - rng.uniform(-1, 1))),
        lambda: robot.reset((MoveTo(HOME),)),
        lambda: robot.hold("x"),
        robot.abandon,
        robot.confirm,
        lambda: robot.guide(False),
        lambda: robot.tighten(robot.metadata.limits),
    ]
    with contextlib.suppress(CommandRefused):
        calls[rng.integers(len(calls))]()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nothing_that_a_program_says_moves_a_stopped_arm(seed: int) -> None:
    """Guards against any of 10 000 calls that would lead out of STOP."""
    rng = np.random.default_rng(seed)
    robot = GuardedRobot(FakeDriver())
    robot.connect()
    robot.advance(0.3)
    go(robot)
    robot.advance(0.1)
    robot.stop("STOP")
    robot.advance(0.1)
    here = robot.state().pose
    for _ in range(250):
        random_call(rng, robot)
    robot.advance(0.5)
    assert robot.status().mode == "stopped" and robot.state().pose == pytest.approx(here, abs=1e-9)


def test_a_stopped_simulated_arm_brakes_and_stays() -> None:
    """Guards against a simulated STOP that drops the arm, or lets it swing on."""
    robot = GuardedRobot(MujocoDriver("reach"))
    robot.connect()
    robot.advance(1.2)
    for _ in range(5):
        state = robot.state()
        robot.command(Command(state.pose + np.array([0.05, 0.05, 0, 0, 0, 0, 0]), None, state.time))
        robot.advance(0.1)
    assert np.linalg.norm(robot.state().vel[:3]) > 0.05, "it is moving"
    begun = robot.state().pose
    robot.stop("STOP")
    robot.advance(0.5)
    stopped = robot.state().pose
    assert np.linalg.norm(stopped[:3] - begun[:3]) < 0.03
    robot.advance(2.0)
    assert robot.state().pose[:3] == pytest.approx(stopped[:3], abs=2e-3)
    robot.recover()
    robot.advance(1.5)
    assert robot.state().pose[:3] == pytest.approx(stopped[:3], abs=5e-3)
    robot.close()


# ── the arm's own faults ──


def test_a_collision_needs_a_person(robot: GuardedRobot, driver: FakeDriver, clock: Clock) -> None:
    """Guards against reflexes that are cleared in a loop: whatever was hit is still there."""
    go(robot)
    driver.trouble = COLLISION
    robot.advance(0.1)
    clock.now += 3600.0
    robot.advance(1.0)
    status = robot.status()
    assert status.mode == "fault" and "cartesian_reflex: look at the arm, then recover" in status.reason
    assert status.health == COLLISION
    with pytest.raises(CommandRefused, match="cartesian_reflex"):
        go(robot)
    robot.recover()
    assert robot.status().mode == "holding" and robot.status().health == Health()
    go(robot)


def test_a_late_message_is_recovered_from_three_times_an_hour(
    robot: GuardedRobot, driver: FakeDriver, clock: Clock
) -> None:
    """Guards against an overnight run that ends at the first lost packet, and one that hides a broken network."""
    for _ in range(PER_HOUR):
        go(robot)
        driver.trouble = COMMUNICATION
        robot.advance(0.1)
        assert robot.status().mode == "fault" and "goes on by itself" in robot.status().reason
        clock.now += HOLD + 0.1
        robot.advance(0.1)
        assert robot.status().mode == "holding" and robot.status().soft
    driver.trouble = COMMUNICATION
    robot.advance(0.1)
    clock.now += 10 * HOLD
    robot.advance(0.1)
    assert robot.status().mode == "fault" and "too often" in robot.status().reason
    robot.recover()
    go(robot)


def test_recovering_by_itself_is_not_a_persons_consent(robot: GuardedRobot, driver: FakeDriver, clock: Clock) -> None:
    """Guards somebody in the cell, who asked the arm to hold, against a lost packet that ends the hold."""
    robot.hold("somebody is in the cell")
    driver.trouble = COMMUNICATION
    robot.advance(0.1)
    clock.now += HOLD + 0.1
    robot.advance(0.1)
    assert robot.status().mode == "holding" and robot.status().reason == "somebody is in the cell"
    with pytest.raises(CommandRefused, match="held: somebody is in the cell"):
        go(robot)


def test_recoveries_are_forgotten_after_an_hour() -> None:
    """Guards against a budget that never comes back."""
    recovery = SelfRecovery()
    for now in (0.0, 10.0, 20.0, 30.0):
        recovery.explain(COMMUNICATION, now)
        assert recovery.due(now + HOLD) == (now < 30.0)
    recovery.explain(COMMUNICATION, 3700.0)
    assert not recovery.due(3700.0 + HOLD - 0.1) and recovery.due(3700.0 + HOLD)


def test_the_arms_own_stop_button_needs_a_person(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a robot that drives on by itself when somebody lets go of its button."""
    go(robot)
    driver.trouble = Health("user-stop", "the user stop is pressed")
    robot.advance(0.1)
    assert robot.status().mode == "user-stopped"
    driver.trouble = Health()
    robot.advance(1.0)
    assert robot.status().mode == "user-stopped" and robot.status().health == Health()
    with pytest.raises(CommandRefused, match="user-stopped"):
        robot.reset(())
    robot.recover()
    robot.advance(0.1)
    assert robot.status().mode == "holding"


def test_what_cannot_be_recovered_says_so(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a recover that reports success while the arm is still stopped."""

    def refuse() -> None:
        raise RobotError("release the emergency stop first")

    driver.trouble = COLLISION
    robot.advance(0.1)
    driver.recover = refuse  # type: ignore[method-assign]
    with pytest.raises(RobotError, match="release the emergency stop first"):
        robot.recover()
    assert robot.status().mode == "fault"


def test_a_compliance_that_the_arm_cannot_have_is_a_fault_that_recovers(
    robot: GuardedRobot, driver: FakeDriver
) -> None:
    """Guards against a server that has to be started again because a task asked for an integral gain."""
    set_compliance = driver.set_compliance

    def without_integral(compliance: Compliance) -> None:
        if compliance.translational_ki:
            raise RobotError("no integral gain on this arm: set translational_ki to 0")
        set_compliance(compliance)

    driver.set_compliance = without_integral  # type: ignore[method-assign]
    robot.reset((SetCompliance(Compliance(translational_ki=5.0)),))
    robot.advance(0.1)
    assert robot.status().mode == "fault" and "no integral gain" in robot.status().reason
    robot.abandon()
    robot.recover()
    robot.advance(1.5)
    assert robot.status().mode == "holding" and driver.compliance == robot.metadata.compliance


def test_recover_without_a_fault_changes_nothing(robot: GuardedRobot) -> None:
    """Guards against clients that clear errors before every command, as some do."""
    go(robot)
    robot.recover()
    assert robot.status().mode == "moving"


# ── guiding ──


def test_a_guided_arm_is_led_by_hand_and_held_afterwards(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against commands that fight the person's hand, and an arm that springs back when guiding ends."""
    go(robot)
    robot.guide(True)
    robot.advance(0.1)
    assert robot.status().mode == "guiding" and driver.guided
    with pytest.raises(CommandRefused, match="guiding"):
        go(robot)
    robot.advance(5.0)
    assert robot.status().mode == "guiding", "no watchdog while a person leads"
    robot.guide(False)
    robot.advance(0.1)
    assert robot.status().mode == "holding" and not driver.guided and robot.status().soft
    assert_nothing_moves(robot)


def test_guiding_ends_with_its_owner(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against an arm without stiffness that nobody is responsible for."""
    robot.guide(True)
    robot.advance(0.1)
    robot.abandon()
    robot.advance(0.1)
    assert robot.status().mode == "holding" and not driver.guided


def test_a_simulated_arm_can_be_guided() -> None:
    """Guards against a guiding mode in which the arm falls down or stays stiff."""
    robot = GuardedRobot(MujocoDriver("reach"))
    robot.connect()
    robot.advance(1.2)
    before = robot.state().pose
    robot.guide(True)
    robot.advance(1.0)
    assert robot.state().pose[:3] == pytest.approx(before[:3], abs=0.02)
    robot.close()


# ── frames ──


def test_frames_carry_the_pose_at_their_capture(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against pictures that are paired with the pose of another moment."""
    go(robot)
    robot.advance(0.05)
    state = robot.state()
    frame = robot.frames()["front"]
    assert frame.pose is not None and frame.pose == pytest.approx(state.pose)
    robot.advance(0.05)
    image, when = frame.image, state.time + 0.025
    driver.frames = lambda: {"front": Frame(image, when, 1), "old": Frame(image, -1.0, 1)}  # type: ignore[method-assign]
    frames = robot.frames()
    paired = frames["front"].pose
    assert paired is not None and state.pose[0] < paired[0] < robot.state().pose[0]
    assert frames["old"].pose is None
    assert LIMITS.box_low[0] < paired[0]
