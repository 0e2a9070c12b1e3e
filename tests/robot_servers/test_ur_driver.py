"""The UR driver with the real ur_rtde, against a controller emulated on loopback."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ur_emulator import EmulatedUr

from robot_servers.drivers.ur import HOME_Q, UrDriver
from robot_servers.drivers.ur_kinematics import ARMS
from robot_servers.drivers.ur_worker import WATCHDOG_HZ
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Command, Health, JointReset, Limits, RobotError, Tool

TCP = (0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0)
TOOL = Tool(tcp=TCP)
AWAY = (0.2, -1.4, 1.4, -1.5, -1.5, 0.1)  # rad, about 10 cm from home
DOWN = tuple(ARMS["ur5e"].tcp(np.array(HOME_Q), np.array(TCP))[3:].tolist())
LIMITS = Limits((-0.8, -0.5, 0.1), (-0.2, 0.3, 0.8), DOWN, tilt=1.0, force=60.0)
ATTEMPTS = 5
PATIENCE = 20.0  # s; generous, for busy machines
QUIET = 2.0  # s that a busy machine may keep a package back


class Bench:
    """A driver and its arm; `run` does the guard's part. ``skip`` s are added to the driver's clock."""

    def __init__(self, ur: EmulatedUr, **options: Any) -> None:
        self.ur = ur
        self.skip = 0.0
        self.late = 0.0  # s, the longest time between two cycles
        self._last = time.monotonic()
        self.driver = UrDriver(ur.address, LIMITS, model="ur5", tool=TOOL, silence=QUIET, now=self.now, **options)

    def now(self) -> float:
        return time.monotonic() + self.skip

    def run(self, until: Callable[[], bool], what: str) -> None:
        """Cycles at the arm's rate until then."""
        begun = due = time.monotonic()
        while not until():
            assert time.monotonic() - begun < PATIENCE, what
            self.driver.cycle()
            self.late, self._last = max(self.late, time.monotonic() - self._last), time.monotonic()
            due = max(due + 1.0 / self.driver.cycle_hz, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    def undisturbed(self, story: Callable[[], None]) -> None:
        """Tell it again if the busy machine kept a cycle back for longer than the robot's own watchdog waits."""
        for _ in range(ATTEMPTS):
            self.late, self._last = 0.0, time.monotonic()
            try:
                return story()
            except AssertionError:
                if self.late < 0.8 / WATCHDOG_HZ:
                    raise
            self.driver.recover()
        pytest.fail(f"this machine kept cycles back in {ATTEMPTS} attempts, by up to {self.late:.2f} s")

    def fault(self) -> str:
        return self.driver.health().fault

    def cycles(self, count: int) -> None:
        rest = iter(range(count))
        self.run(lambda: next(rest, None) is None, "cycles")

    def still(self) -> bool:
        """Whether the arm rests; measured at the arm, not through the driver."""
        return max(map(abs, self.ur.get("dq"))) < 1e-9


@pytest.fixture(scope="module")
def controller() -> Iterator[EmulatedUr]:
    """A CB arm, whose 125 Hz a busy machine keeps."""
    pytest.importorskip("rtde_receive", reason="needs ur-rtde, which has wheels for Linux on x86_64 only")
    with EmulatedUr(AWAY, TCP, model="ur5") as ur:
        yield ur


@pytest.fixture
def ur(controller: EmulatedUr) -> EmulatedUr:
    """As it was switched on."""
    controller.get("reset")
    controller.set(patience=8.0)
    return controller


@pytest.fixture
def bench(ur: EmulatedUr) -> Iterator[Bench]:
    bench = Bench(ur)
    bench.driver.connect()
    yield bench
    bench.driver.close()


def test_follows_a_target_and_measures_in_the_right_frames(bench: Bench):
    """The whole way: package, law, force mode, arm; a swapped frame or sign never arrives."""
    assert bench.ur.get("calls")[0] == "zeroFtSensor"
    goal = bench.driver.state().pose
    goal[:3] += (0.03, -0.02, 0.02)
    bench.driver.track(goal, None)
    bench.run(lambda: np.linalg.norm(bench.driver.state().pose[:3] - goal[:3]) < 1e-3, "it did not arrive")
    bench.ur.set(push=(0.0, 0.0, 10.0, 0.0, 0.0, 0.0))  # lifted from below
    bench.run(lambda: abs(bench.driver.state().force[2]) > 9.0, "the push was not measured")
    state = bench.driver.state()
    assert state.force[2] == pytest.approx(-10.0, abs=0.6)  # the tool points down: along its −z
    assert np.allclose(state.jacobian @ state.dq, state.vel, atol=1e-3)
    assert state.gripper == 1.0 and state.grip == "none"


def test_presses_no_harder_than_stiffness_times_clip(bench: Bench):
    """Reference limiting is what makes contact safe: a target deep in the table must not mean a deep push."""
    goal = bench.driver.state().pose
    bench.ur.set(wall=goal[2] - 0.01)
    goal[2] -= 0.1
    bench.driver.track(goal, None)
    seen: list[float] = []

    def pressing() -> bool:
        seen.append(float(np.linalg.norm(bench.driver.state().force)))
        return len(seen) > 100 and abs(seen[-1] - 20.0) < 1.0

    bench.run(pressing, "it did not come to rest on the table")
    assert max(seen) < 35.0  # 2000 N/m times 1 cm, and what an emulated arm without dynamics overshoots


def test_dead_client_stops_the_arm_by_the_robots_own_watchdog(bench: Bench):
    """Force mode goes on with the last wrench for ever; only the robot itself can know that nobody leads it."""

    def story() -> None:
        goal = bench.driver.state().pose
        goal[0] += 0.2
        bench.driver.track(goal, None)
        bench.cycles(20)
        assert not bench.still()
        begun = time.monotonic()
        while bench.ur.get("running"):  # nobody calls the driver
            assert time.monotonic() - begun < PATIENCE
        assert time.monotonic() - begun >= 0.5 / WATCHDOG_HZ and bench.still()
        bench.cycles(1)
        assert bench.fault() == "communication" and "watchdog" in bench.driver.health().text
        bench.driver.recover()
        assert bench.fault() == "" and bench.ur.get("running")
        here = bench.driver.state().pose
        bench.cycles(30)
        assert np.linalg.norm(bench.driver.state().pose[:3] - here[:3]) < 2e-3  # the old target is forgotten

    bench.undisturbed(story)


def test_protective_stop_needs_a_person_and_five_seconds(bench: Bench):
    """Unlocked in a loop, ten times a second, an arm presses again and again on what stopped it."""
    bench.ur.set(safety_mode=3)
    bench.run(lambda: bench.fault() == "protective", "the stop was not reported")
    with pytest.raises(RobotError, match="can be unlocked in 5 s"):
        bench.driver.recover()
    assert "unlock protective stop" not in bench.ur.get("asked")
    bench.skip += 6.0
    bench.driver.recover()
    assert "unlock protective stop" in bench.ur.get("asked")
    assert bench.fault() == "" and bench.ur.get("running")


def test_stop_cleared_at_the_pendant_does_not_resume_by_itself(bench: Bench):
    """The program of before the stop still holds a wrench: it must be over when somebody unlocks the arm."""
    goal = bench.driver.state().pose
    goal[0] += 0.2
    bench.driver.track(goal, None)
    bench.cycles(10)
    bench.ur.set(safety_mode=3)
    bench.run(lambda: not bench.ur.get("running"), "the program was left running")
    bench.ur.get("unlock")
    bench.cycles(20)
    assert bench.fault() == "protective" and bench.still()
    bench.driver.recover()
    assert bench.fault() == ""


@pytest.mark.parametrize(("mode", "kind"), [(7, "user-stop"), (5, "user-stop"), (8, "other"), (9, "other")])
def test_stops_that_a_person_must_clear_at_the_arm(bench: Bench, mode: int, kind: str):
    """An emergency stop that a program can end is none."""
    bench.ur.set(safety_mode=mode)
    bench.run(lambda: bench.fault() == kind, f"safety mode {mode} was not reported")
    with pytest.raises(RobotError, match=r"pendant|there"):
        bench.driver.recover()
    bench.ur.set(safety_mode=1, robot_mode=5)
    bench.run(lambda: "brakes locked" in bench.driver.health().text, "the locked brakes were not reported")
    with pytest.raises(RobotError, match="brakes locked"):
        bench.driver.recover()
    bench.ur.set(robot_mode=7)
    bench.run(lambda: "brakes locked" not in bench.driver.health().text, "the released brakes were not noticed")
    bench.driver.recover()
    assert bench.fault() == ""


def test_program_ended_at_the_pendant_is_a_user_stop(bench: Bench):
    """Taken for a lost message it would be started again by itself, against the person who stopped it."""

    def story() -> None:
        bench.cycles(5)
        bench.ur.get("end_program")
        bench.run(lambda: bench.fault() != "", "the end of the program was not noticed")
        assert bench.fault() == "user-stop"

    bench.undisturbed(story)


def test_stop_from_another_thread_is_final(bench: Bench):
    """STOP comes while a cycle is under way: what that cycle still sends must not start the motion again."""
    goal = bench.driver.state().pose
    goal[0] += 0.3
    bench.driver.track(goal, None)
    bench.cycles(10)
    stopper = threading.Timer(0.05, bench.driver.stop)
    stopper.start()
    bench.run(lambda: not bench.ur.get("running"), "it was not stopped")
    stopper.join()
    assert bench.ur.get("calls")[-2:] == ["forceModeStop", "stopScript"]
    where = bench.ur.get("q")
    bench.driver.track(goal, None)
    assert not bench.driver.joint_reset()
    bench.driver.guide(True)
    bench.cycles(20)
    assert bench.ur.get("q") == where and bench.fault() == ""
    bench.driver.recover()
    bench.driver.track(goal, None)
    bench.run(lambda: not bench.still(), "it does not move after recover")


def test_stop_reaches_a_program_that_does_not_listen(bench: Bench):
    """ur_rtde waits for minutes for a script that hangs; a stop must not."""
    bench.cycles(5)
    bench.ur.set(stuck=True)
    begun = time.monotonic()
    bench.driver.stop()
    assert time.monotonic() - begun < PATIENCE / 2
    assert not bench.ur.get("running") and bench.ur.get("asked")[-1] == "stop"


def test_silent_robot_never_blocks_and_is_a_fault(bench: Bench):
    """A pulled cable must not freeze the control cycle, nor the time in which the guard counts."""
    bench.cycles(5)
    before = bench.driver.state()
    bench.ur.set(frozen=True)
    bench.run(lambda: bench.fault() == "communication", "the silence was not noticed")
    late = bench.driver.state()
    assert late.time > before.time and np.allclose(late.q, before.q, atol=1e-3)
    bench.ur.set(frozen=False)
    bench.cycles(2)
    assert bench.fault() == "communication"  # until somebody recovers
    bench.driver.recover()
    assert bench.fault() == ""


def test_lost_connection_is_made_again_by_recover(bench: Bench):
    """A switch that was off for a moment must not need a restart of the server."""
    bench.ur.get("cut")
    bench.run(lambda: bench.fault() == "communication", "the lost connection was not noticed")
    bench.driver.recover()
    here = bench.driver.state().pose
    here[2] += 0.02
    bench.driver.track(here, None)
    bench.run(lambda: abs(bench.driver.state().pose[2] - here[2]) < 1e-3, "it does not move after recover")


def test_crash_of_the_library_is_a_fault_that_recover_mends(bench: Bench):
    """ur_rtde crashes with a segmentation fault when it loses its connection: the server must outlive that."""
    bench.cycles(5)
    worker = bench.driver._link._worker  # type: ignore[attr-defined]
    os.kill(worker.pid, signal.SIGSEGV)
    bench.run(lambda: bench.fault() == "communication", "the crash was not noticed")
    bench.skip += 2.0 * QUIET
    bench.driver.recover()
    bench.cycles(5)
    assert bench.fault() == "" and bench.ur.get("running")


def test_joint_reset_ends_at_home_with_a_zeroed_sensor(bench: Bench):
    """What was zeroed under load in the last episode would be a force that is not there in the next one."""
    bench.cycles(5)
    bench.run(bench.driver.joint_reset, "it did not come home")
    assert np.allclose(bench.driver.state().q, HOME_Q, atol=0.02)
    calls = bench.ur.get("calls")
    assert calls.index("moveJ") < len(calls) - 1 - calls[::-1].index("zeroFtSensor")
    assert np.allclose(bench.driver.home_pose, ARMS["ur5"].tcp(np.array(HOME_Q), np.array(TCP)))


def test_track_ends_a_joint_reset(bench: Bench):
    """A hold during a reset must stop the joints, not wait for them."""
    bench.cycles(5)
    assert not bench.driver.joint_reset()
    bench.cycles(10)
    bench.driver.track(bench.driver.state().pose, None)
    bench.run(lambda: bench.ur.get("calls")[-1] == "forceMode", "it does not hold")
    assert bench.ur.get("calls")[-3:] == ["moveJ", "stopJ", "forceMode"]
    assert not np.allclose(bench.driver.state().q, HOME_Q, atol=0.02), "it came home before it was held"


def test_guided_by_hand_and_held_where_it_was_left(bench: Bench):
    """When guiding ends, a target from before it would pull the arm out of the person's hands."""
    old = bench.driver.state().pose
    bench.driver.track(old, None)
    bench.cycles(5)
    bench.driver.guide(True)
    bench.ur.set(push=(0.0, 20.0, 0.0, 0.0, 0.0, 0.0))
    bench.run(lambda: bench.driver.state().pose[1] - old[1] > 0.03, "it cannot be led by hand")
    bench.ur.set(push=(0.0,) * 6)
    bench.cycles(3)
    bench.driver.guide(False)
    left = bench.driver.state().pose
    bench.cycles(30)
    assert np.linalg.norm(bench.driver.state().pose[:3] - left[:3]) < 2e-3
    assert bench.ur.get("calls")[-3:] == ["teachMode", "endTeachMode", "forceMode"]


def test_free_space_mode_stops_at_the_first_contact(ur: EmulatedUr):
    """servol pushes on with all its strength: it must end before that, and say why."""
    bench = Bench(ur, free_space=True)
    bench.driver.connect()
    goal = bench.driver.state().pose
    goal[2] += 0.02
    bench.driver.track(goal, None)
    bench.run(lambda: abs(bench.driver.state().pose[2] - goal[2]) < 2e-3, "it did not arrive")
    assert "forceMode" not in ur.get("calls")
    ur.set(push=(30.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    bench.run(lambda: bench.fault() == "reflex", "the contact was not noticed")
    bench.run(lambda: not ur.get("running"), "it was not stopped")
    bench.driver.close()


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"payload": 1.2}, "payload at the robot 1.20 kg"),
        ({"tool": [0.0, 0.0, 0.15, 0.0, 0.0, 0.0, 1.0]}, "flange to TCP at the robot"),
        ({"remote": "false"}, "remote control"),
        ({"version": "URSoftware 5.4.2.76197 (Aug 20 2019)"}, "PolyScope 3.15 or 5.11"),
        ({"robot_mode": 5}, "brakes locked"),
        ({"safety_mode": 7}, "emergency stop"),
    ],
)
def test_arm_that_is_not_ready_is_refused_with_the_reason(ur: EmulatedUr, facts: dict[str, Any], match: str):
    """A wrong payload drifts, a wrong TCP turns every limit into another one: found before anything moves."""
    ur.set(**facts)
    driver = Bench(ur).driver
    with pytest.raises(RobotError, match=match):
        driver.connect()
    driver.close()
    assert ur.get("calls") == []


def test_preflight_of_an_arm_that_is_ready(ur: EmulatedUr):
    """A preflight that cannot pass is switched off by the first person who needs the arm."""
    checks = Bench(ur).driver.preflight()
    assert {check.name for check in checks} >= {"software", "remote control", "payload", "TCP"}
    assert all(check.ok for check in checks)


def test_behind_the_guard(ur: EmulatedUr):
    """What the guard expects of a driver, on its own thread and clock: connect, command, joint reset, stop, recover."""
    robot = GuardedRobot(UrDriver(ur.address, LIMITS, model="ur5", tool=TOOL, silence=QUIET))
    robot.connect()
    try:
        goal = robot.state().pose.copy()
        goal[2] += 0.01

        def arrived() -> bool:
            state = robot.state()
            robot.command(Command(goal, None, state.time))
            return abs(state.pose[2] - goal[2]) < 2e-3

        _wait(arrived, "the command was not carried out")
        robot.reset((JointReset(),))
        _wait(lambda: robot.status().mode != "resetting", "the reset does not end")
        assert robot.status().health == Health() and np.allclose(robot.state().q, HOME_Q, atol=0.05)
        robot.stop("test")
        assert not ur.get("running") and robot.status().mode == "stopped"
        robot.recover()
        assert ur.get("running") and robot.status().mode == "holding"
    finally:
        robot.close()


def _wait(condition: Callable[[], bool], what: str) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < PATIENCE, what
        time.sleep(0.02)
