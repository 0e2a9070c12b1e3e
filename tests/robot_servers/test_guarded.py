"""The guarded robot: cycles, resets, faults, on both clocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guard_parts import recorded

from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver, image_count
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import (
    AskPerson,
    Command,
    CommandRefused,
    Compliance,
    JointReset,
    MoveTo,
    PlaceObjects,
    ResetStep,
    RobotError,
    SetCompliance,
    SetGripper,
)
from robot_servers.safety import SOFT_PACE, SOFT_START

DOWN = (1.0, 0.0, 0.0, 0.0)


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(cameras=("front",))


@pytest.fixture
def robot(driver: FakeDriver) -> Iterator[GuardedRobot]:
    robot = GuardedRobot(driver)
    robot.connect()
    yield robot
    robot.close()


def go(robot: GuardedRobot, dx: float = 0.05, gripper: float | None = None) -> Any:
    state = robot.state()
    pose = state.pose.copy()
    pose[0] += dx
    return robot.command(Command(pose, gripper, state.time))


def finish(robot: GuardedRobot, plan: tuple[ResetStep, ...], seconds: float = 30.0) -> float:
    """Run a plan to its end; the simulated time it took."""
    robot.reset(plan)
    begun = robot.state().time
    while robot.status().mode == "resetting":
        robot.advance(0.05)
        assert robot.state().time - begun < seconds
    return robot.state().time - begun


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


# ── cycles ──


def test_every_cycle_is_counted_once(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against cycles lost or repeated between the clock, the driver, its states and its images."""
    for expected in range(10, 101, 10):
        robot.advance(0.1)
        assert robot.state().q[0] == expected == driver.count
        frame = robot.frames()["front"]
        assert frame.number == image_count(frame.image) == expected and frame.time == robot.state().time


def test_calls_before_connect_say_what_to_do(driver: FakeDriver) -> None:
    """Guards against a crash deep in a driver that nobody connected."""
    with pytest.raises(RobotError, match="connect"):
        GuardedRobot(driver).state()


def test_the_arm_goes_where_it_is_told(robot: GuardedRobot) -> None:
    """Guards against targets that never reach the driver."""
    robot.advance(SOFT_START)
    applied = go(robot, 0.05, gripper=0.0)
    robot.advance(0.25)
    assert robot.state().pose == pytest.approx(applied.pose, abs=1e-3) and robot.state().gripper == 0.0
    assert robot.status().mode == "moving"


def test_silence_leads_to_a_hold_in_simulated_time(robot: GuardedRobot) -> None:
    """Guards against a motion that goes on after its client died; in lockstep only simulated time counts."""
    go(robot)
    robot.advance(LIMITS.watchdog)
    assert robot.status().mode == "moving"
    robot.advance(0.1)
    assert robot.status().mode == "holding"
    held = robot.state().pose
    robot.advance(1.0)
    assert robot.state().pose == pytest.approx(held, abs=1e-3)
    go(robot)
    assert robot.status().mode == "moving"


# ── resets ──


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


# ── faults ──


def test_driver_failure_is_a_fault_that_stays(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against faults that are cleared in a loop, and against a dead driver that still gets commands."""
    driver.failure = RuntimeError("the cable broke")
    with pytest.raises(RobotError, match="the cable broke"):
        robot.advance(0.1)
    driver.failure = None
    with pytest.raises(RobotError, match="start the server again"):
        robot.advance(0.1)
    with pytest.raises(CommandRefused, match="the cable broke"):
        go(robot)
    assert robot.status().mode == "fault" and robot.state().q[0] == 0


def test_a_failed_arm_is_told_once_to_stay(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against "held" being said of an arm that still moves to its last target."""
    driver.failure = RuntimeError("one bad measurement")
    for _ in range(3):
        with pytest.raises(RobotError):
            robot.advance(0.1)
    assert driver.stops == 1
    robot.close()
    assert driver.stops == 2


def test_a_driver_that_cannot_even_stop_is_still_a_fault(
    robot: GuardedRobot, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a second failure that hides the first one, or ends the cycle without a word."""
    monkeypatch.delattr(FakeDriver, "stop")  # calling it raises
    driver.failure = RuntimeError("the cable broke")
    with pytest.raises(RobotError, match="the cable broke"):
        robot.advance(0.1)
    assert robot.status().mode == "fault"


def test_closed_is_closed(robot: GuardedRobot) -> None:
    """Guards against "already connected" as the answer to a connect after close."""
    robot.close()
    with pytest.raises(RobotError, match="make a new GuardedRobot"):
        robot.connect()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"pose": np.full(7, np.nan)}, "not finite: pose"),
        ({"force": np.full(3, np.inf)}, "not finite: force"),
        ({"jacobian": np.full((6, 7), np.nan)}, "not finite: jacobian"),
        ({"gripper": float("nan")}, "not finite: gripper"),
        ({"q": np.zeros(6)}, r"q has shape \(6,\)"),
        ({"pose": np.array([0.5, 0, 0.3, 1.5, 0, 0, 0])}, "norm 1.500"),
    ],
)
def test_states_that_cannot_be_are_a_fault(
    robot: GuardedRobot, driver: FakeDriver, wrong: dict[str, Any], why: str
) -> None:
    """Guards against NaN from a driver in targets and training data, and an orientation that switches limits off."""
    state = driver.state
    driver.state = lambda: replace(state(), **wrong)  # type: ignore[method-assign]
    with pytest.raises(RobotError, match=why):
        robot.advance(0.1)
    assert np.isfinite(robot.state().pose).all() and robot.status().mode == "fault"


def test_frozen_states_are_a_fault(robot: GuardedRobot, driver: FakeDriver) -> None:
    """Guards against a driver that repeats its last state for ever: the watchdog would never see time pass."""
    frozen = driver.state()
    driver.state = lambda: frozen  # type: ignore[method-assign]
    with pytest.raises(RobotError, match="stood still"):
        robot.advance(1.0)


def test_looser_limits_are_refused(driver: FakeDriver) -> None:
    """Guards against a task that widens what the robot allows."""
    with pytest.raises(RobotError, match="never loosened"):
        GuardedRobot(driver, replace(LIMITS, step=1.0))
    assert GuardedRobot(driver, replace(LIMITS, step=0.01)) is not None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e9])
def test_advance_is_bounded(robot: GuardedRobot, seconds: float) -> None:
    """Guards against one call that keeps the server busy for ever."""
    with pytest.raises(RobotError, match="cannot advance"):
        robot.advance(seconds)


# ── real time ──


@pytest.fixture
def live() -> Iterator[tuple[GuardedRobot, FakeDriver]]:
    driver = FakeDriver(clock="realtime", cameras=("front",))
    robot = GuardedRobot(driver)
    robot.connect()
    yield robot, driver
    driver.running.set()
    robot.close()


def test_realtime_cycles_run_by_themselves(live: tuple[GuardedRobot, FakeDriver]) -> None:
    """Guards against a cycle that only runs when a client calls."""
    robot, _ = live
    wait_for(lambda: robot.state().q[0] > 10)
    with pytest.raises(RobotError, match="lockstep"):
        robot.advance(0.1)
    assert robot.frames()["front"].number > 10 and robot.ground_truth()["count"] > 10


def test_a_hung_caller_ends_in_a_hold(live: tuple[GuardedRobot, FakeDriver]) -> None:
    """Guards against an arm that goes on when the thread that serves it hangs: the cycle holds by itself."""
    robot, driver = live
    go(robot)
    hung = threading.Event()
    server = threading.Thread(target=hung.wait, daemon=True)  # the thread that sent the command never comes back
    server.start()
    seen = recorded(driver)
    wait_for(lambda: robot.status().mode == "holding")
    count = len(seen)
    wait_for(lambda: len(seen) > count + 5)
    assert np.array_equal(seen[-1][0], seen[-2][0])
    hung.set()


def test_a_hung_driver_blocks_nobody(live: tuple[GuardedRobot, FakeDriver]) -> None:
    """Guards against state and status hanging with the driver; commands are refused, since nothing carries them out."""
    robot, driver = live
    driver.running.clear()
    wait_for(lambda: "hangs" in robot.status().reason)
    with pytest.raises(CommandRefused, match="has not come round"):
        go(robot)
    with pytest.raises(RobotError, match="has not finished its cycle"):
        robot.ground_truth()
    assert robot.state().pose.shape == (7,)
    driver.running.set()
    wait_for(lambda: robot.status().reason == "")
    go(robot)


def test_a_failing_driver_stops_the_realtime_cycle(live: tuple[GuardedRobot, FakeDriver]) -> None:
    """Guards against an exception that ends the cycle silently while the server still accepts commands."""
    robot, driver = live
    driver.failure = OSError("no route to the arm")
    wait_for(lambda: robot.status().mode == "fault")
    assert "no route to the arm" in robot.status().reason
    with pytest.raises(CommandRefused, match="no route"):
        go(robot)


def test_cycles_keep_an_absolute_schedule() -> None:
    """Guards against drift: the n-th cycle is due at start + n periods, however long each took."""
    clock = {"now": 0.0}
    starts: list[float] = []
    driver = FakeDriver(clock="realtime", now=lambda: clock["now"])
    robot = GuardedRobot(driver, now=lambda: clock["now"], sleep=lambda s: clock.update(now=clock["now"] + s))
    cycle = driver.cycle

    def slow_cycle() -> None:
        starts.append(clock["now"])
        clock["now"] += 0.004
        cycle()
        if len(starts) == 50:
            driver.failure = RuntimeError("enough")

    driver.cycle = slow_cycle  # type: ignore[method-assign]
    robot.connect()
    wait_for(lambda: robot.status().mode == "fault")
    robot.close()
    assert np.allclose(starts[:50], np.arange(50) * 0.01, atol=1e-9)
