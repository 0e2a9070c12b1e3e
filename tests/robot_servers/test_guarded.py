"""The guarded robot: cycles, resets, faults, on both clocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from guard_parts import go, recorded

from robot_servers.drivers.fake import LIMITS, FakeDriver, image_count
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import CommandRefused, RobotError
from robot_servers.safety import SOFT_START


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
