"""Reset plans behind the guard: in order, at their speed, with a person, and how they end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from guard_parts import finish, go, recorded

from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import (
    AskPerson,
    CommandRefused,
    Compliance,
    JointReset,
    MoveTo,
    PlaceObjects,
    ResetStep,
    SetCompliance,
    SetGripper,
)
from robot_servers.safety import SOFT_PACE

DOWN = (1.0, 0.0, 0.0, 0.0)


def test_reset_plan_runs_in_order(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against steps that are skipped, or that begin before the one before has ended."""
    precise = replace(Compliance(), rotational_stiffness=250.0)
    goal = (0.6, 0.1, 0.2, *DOWN)
    finish(robot, (SetCompliance(precise), PlaceObjects(5), JointReset(), SetGripper(0.0), MoveTo(goal)))
    assert driver.compliance == precise
    assert robot.state().pose[:3] == pytest.approx(goal[:3], abs=0.005) and robot.state().gripper == 0.0
    assert robot.status().mode == "idle" and robot.status().resets == 1
    robot.advance(1.0)
    assert robot.state().pose[:3] == pytest.approx(goal[:3], abs=0.001), "the last target of a plan stays"


def test_same_seed_same_objects(robot: GuardedRobot) -> None:
    """Guards against randomness that ignores the seed."""
    objects = []
    for seed in (3, 4, 3):
        finish(robot, (PlaceObjects(seed),))
        objects.append(robot.ground_truth()["object"])
    assert np.array_equal(objects[0], objects[2]) and not np.array_equal(objects[0], objects[1])


def test_motion_is_a_straight_line_at_its_speed() -> None:
    """Guards against resets that jump, or that swing through the table."""
    driver = FakeDriver()
    seen = recorded(driver)
    robot = GuardedRobot(driver)
    robot.connect()
    goal = np.array([0.6, 0.2, 0.2, *DOWN])
    took = finish(robot, (MoveTo(tuple(goal.tolist()), speed=0.1),))
    length = float(np.linalg.norm(goal[:3] - HOME[:3]))
    assert length / 0.1 <= took <= length / 0.1 + 1.0
    direction = (goal[:3] - HOME[:3]) / length
    path = np.array([target[:3] for target, _ in seen]) - HOME[:3]
    assert np.abs(path - np.outer(path @ direction, direction)).max() < 1e-9
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() <= 0.1 / driver.cycle_hz + 1e-9


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (MoveTo((0.9, 0.0, 0.3, *DOWN)), "box x = 0.900"),
        (MoveTo((0.5, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0)), "tilt"),
        (MoveTo((0.5, 0.0, 0.3)), "7 finite numbers"),
        (MoveTo((0.5, 0.0, float("nan"), *DOWN)), "7 finite numbers"),
        (MoveTo((0.5, 0.0, 0.3, 1.0, 1.0, 0.0, 0.0)), "norm"),
        (MoveTo((*HOME,), speed=3.0), "speed"),
        (MoveTo((*HOME,), speed=float("nan")), "speed"),
        (MoveTo((*HOME,), speed=1e-4), "speed"),
        (PlaceObjects(-1), "seed -1"),
        (MoveTo((*HOME,), tolerance=0.0), "tolerance"),
        (SetGripper(255.0), "width"),
        (JointReset(0), "every"),
        (SetCompliance(Compliance(translational_stiffness=float("inf"))), "translational_stiffness inf"),
        (SetCompliance(Compliance(translational_stiffness=1e6)), "between 0 and 4000"),
        (SetCompliance(Compliance(rotational_stiffness=1e308)), "between 0 and 400"),
        (SetCompliance(Compliance(rotational_damping=-1.0)), "rotational_damping"),
        (SetCompliance(Compliance(translational_ki=float("nan"))), "translational_ki nan"),
        (SetCompliance(Compliance(translational_clip=(0.01, 0.01, 0.2))), "translational_clip"),
        (SetCompliance(Compliance(translational_clip_neg=(0.01, 0.01))), "as many values"),  # type: ignore[arg-type]
        (SetCompliance(Compliance(translational_damping=0.0)), "arm rings"),
        (SetCompliance(Compliance(rotational_damping=0.0)), "arm rings"),
    ],
)
def test_plans_outside_the_limits_are_refused_up_front(robot: GuardedRobot, step: ResetStep, fault: str) -> None:
    """Guards against half a reset being run before its bad step is found."""
    with pytest.raises(CommandRefused, match=f"step 2.*{fault}"):
        robot.reset((SetGripper(1.0), step))
    assert robot.status().mode == "idle" and robot.status().resets == 0


def test_endless_plans_are_refused(robot: GuardedRobot) -> None:
    """Guards against one request that keeps the robot resetting for hours."""
    with pytest.raises(CommandRefused, match="101 steps"):
        robot.reset((SetGripper(1.0),) * 101)


@pytest.mark.parametrize(
    "plan", [(SetGripper(0.0),), (JointReset(), SetGripper(0.0)), (MoveTo((0.7, 0.1, 0.3, *DOWN)),)]
)
def test_an_arm_that_starts_outside_is_led_in_slowly_once_a_person_agrees(plan: tuple[ResetStep, ...]) -> None:
    """Guards against an arm that jumps into its box when the server starts, or is driven farther out of it."""
    driver = FakeDriver(limits=replace(LIMITS, box_low=(0.53, -0.4, 0.02)))  # home lies 3 cm outside
    seen = recorded(driver)
    robot = GuardedRobot(driver)
    robot.connect()
    robot.advance(0.1)
    assert "outside of its limits (box x" in robot.status().waiting_for
    for attempt in (lambda: go(robot), lambda: robot.reset(plan)):
        with pytest.raises(CommandRefused, match="before a person confirms"):
            attempt()
    assert all(np.array_equal(target[:3], HOME[:3]) for target, _ in seen), "it waits where it is"
    robot.confirm()
    finish(robot, plan)
    path = np.array([target[:3] for target, _ in seen])
    outside = np.minimum(path[:, 0] - 0.53, 0.0)
    assert (np.diff(outside) >= -1e-12).all(), "never farther out"
    inwards = np.linalg.norm(np.diff(path, axis=0), axis=1)[outside[:-1] < 0] * driver.cycle_hz
    assert inwards.max(initial=0.0) <= SOFT_PACE * LIMITS.speed + 1e-9


def test_commands_and_second_resets_are_refused_while_resetting(robot: GuardedRobot) -> None:
    """Guards against a policy that acts into a reset."""
    robot.reset((MoveTo((0.6, 0.1, 0.2, *DOWN)),))
    robot.advance(0.1)
    with pytest.raises(CommandRefused, match="resetting"):
        go(robot)
    with pytest.raises(CommandRefused, match="resetting"):
        robot.reset(())


def test_reset_waits_for_a_person(robot: GuardedRobot) -> None:
    """Guards against resets that go on before the person has done their part."""
    with pytest.raises(CommandRefused, match="nothing to confirm"):
        robot.confirm()
    robot.reset((AskPerson("put the peg back"), SetGripper(0.0)))
    robot.advance(5.0)
    assert robot.status().mode == "resetting" and robot.status().waiting_for == "put the peg back"
    robot.confirm()
    robot.advance(2.0)
    assert robot.status().mode == "idle" and robot.status().waiting_for == "" and robot.state().gripper == 0.0


def test_joint_reset_only_every_nth_time(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against joint resets at every episode, which cost time, or at none."""
    calls: list[int] = []
    joint_reset = driver.joint_reset

    def counted() -> bool:
        calls.append(1)
        return joint_reset()

    driver.joint_reset = counted  # type: ignore[method-assign]
    counts = []
    for _ in range(4):
        finish(robot, (JointReset(every=3),))
        counts.append(len(calls))
    assert counts[0] > 0 and counts[0] == counts[1] == counts[2] < counts[3]


def test_hold_ends_a_reset_and_keeps_what_it_did(robot: GuardedRobot) -> None:
    """Guards against a reset that cannot be stopped, or a hold that closes a gripper the reset had opened."""
    go(robot, 0.0, gripper=0.0)
    robot.advance(0.3)
    robot.reset((SetGripper(1.0), MoveTo((0.7, 0.3, 0.1, *DOWN))))
    robot.advance(1.0)
    robot.hold("a person presses a key")
    held = robot.state().pose
    robot.advance(2.0)
    status = robot.status()
    assert status.mode == "holding" and status.reason == "a person presses a key"
    assert robot.state().pose[:3] == pytest.approx(held[:3], abs=0.02) and robot.state().gripper == 1.0


def test_blocked_motion_ends_in_a_fault(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a reset that waits for ever for an blocked arm, and against its target running away."""
    seen = recorded(driver)
    driver.blocked = True
    robot.reset((MoveTo((0.7, 0.3, 0.1, *DOWN)),))
    robot.advance(20.0)
    status = robot.status()
    assert status.mode == "fault" and "did not come to its end" in status.reason
    assert max(np.linalg.norm(target[:3] - HOME[:3]) for target, _ in seen) <= LIMITS.step + 1e-9
    assert np.array_equal(seen[-1][0][:3], HOME[:3]), "a fault holds at the measured pose"
    for attempt in (lambda: go(robot), lambda: robot.reset(())):
        with pytest.raises(CommandRefused, match="fault"):
            attempt()
