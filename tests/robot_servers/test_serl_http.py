"""The driver for a lab's own SERL server: against a plain one, which checks nothing, and against our own face."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import numpy as np
import pytest
from http_site import site, wait_for

from robot_servers.drivers.fake import FakeDriver
from robot_servers.drivers.serl_http import SerlHttpDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import (
    Command,
    CommandRefused,
    Compliance,
    Driver,
    JointReset,
    MoveTo,
    RobotError,
    SetCompliance,
    SetGripper,
)
from robot_servers.scenes import load_scene
from robot_servers.serl_dialect import to_params

SCENE = load_scene("pick_cube")
LIMITS = SCENE.limits
PRECISE = Compliance(translational_clip=(0.03, 0.02, 0.01), rotational_stiffness=250.0, rotational_damping=9.0)


def driver(url: str, **options: object) -> SerlHttpDriver:
    return SerlHttpDriver(url, LIMITS, home_q=SCENE.home_q, **options)


@contextlib.contextmanager
def guarded(arm: Driver) -> Iterator[GuardedRobot]:
    robot = GuardedRobot(arm)
    robot.connect()
    with contextlib.closing(robot):
        yield robot


def ask(robot: GuardedRobot, pose: np.ndarray) -> None:
    """Command a pose as an actor would."""
    with contextlib.suppress(CommandRefused):  # e.g. stale, on a loaded machine
        robot.command(Command(pose, None, robot.state().time))


def go(robot: GuardedRobot, pose: np.ndarray) -> None:
    """Command a pose until the arm is there."""

    def there() -> bool:
        ask(robot, pose)
        return float(np.linalg.norm(robot.state().pose[:3] - pose[:3])) < 0.006

    wait_for(there, "the arrival")


def reset(robot: GuardedRobot, *plan: object) -> None:
    robot.reset(plan)
    wait_for(lambda: robot.status().mode != "resetting", "the end of the reset")
    assert robot.status().mode == "idle", robot.status().reason


# ── the round trip ───────────────────────────────────────────────────────────────────────────────


def test_every_function_reaches_the_arm_and_comes_back(peer):
    """Guards the whole driver: pose, gripper, parameters, joint reset and state, through the guard."""
    with guarded(driver(peer.url)) as robot:
        assert robot.metadata.limits_enforced == "client"
        assert peer.calls[:3] == ["stopimp", "clearerr", "startimp"]
        goal = robot.state().pose + np.array([0.03, 0.05, -0.04, 0.0, 0.0, 0.0, 0.0])
        go(robot, goal)
        assert peer.arm.state().pose[:3] == pytest.approx(goal[:3], abs=0.01)
        reset(robot, SetGripper(0.0))
        assert robot.state().gripper == pytest.approx(0.0, abs=0.05)
        reset(robot, SetGripper(0.5))
        assert robot.state().gripper == pytest.approx(0.5, abs=0.05)
        reset(robot, SetGripper(1.0), SetCompliance(PRECISE), JointReset())
        wait_for(lambda: peer.params == to_params(PRECISE), "the parameters")
        assert robot.state().q == pytest.approx(SCENE.home_q, abs=0.05)
        assert {"close_gripper", "move_gripper", "open_gripper", "update_param", "jointreset"} <= set(peer.calls)
        reset(robot, MoveTo((*goal[:3].tolist(), *SCENE.limits.orientation)))
        assert robot.state().pose[:3] == pytest.approx(goal[:3], abs=0.01)


def test_poses_are_sent_only_when_the_target_is_a_new_one(peer):
    """Guards the lab's controller, whose integral starts anew with each pose, against fifty of them a second."""
    with guarded(driver(peer.url)) as robot:
        go(robot, robot.state().pose + np.array([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0]))
        robot.hold("enough")
        cycles = robot.status().cycles
        wait_for(lambda: robot.status().cycles > cycles + 10, "some cycles")
        before = len(peer.poses)
        wait_for(lambda: robot.status().cycles > cycles + 40, "more cycles")
        assert len(peer.poses) == before


def test_targets_never_jump_whatever_is_asked_for(peer):
    """Guards an unguarded arm: what is posted goes on at the limits' speed, inside the box."""
    with guarded(driver(peer.url)) as robot:
        for corner in (LIMITS.box_high, (*LIMITS.box_low[:2], 0.3)):
            far, sent = np.array([*(1.5 * np.array(corner)), *robot.state().pose[3:]]), len(peer.poses)
            wait_for(lambda far=far, sent=sent: ask(robot, far) or len(peer.poses) > sent + 50, "some poses")
    poses = np.array(peer.poses)[:, :3]
    assert (poses >= np.array(LIMITS.box_low) - 1e-6).all() and (poses <= np.array(LIMITS.box_high) + 1e-6).all()
    assert np.linalg.norm(np.diff(poses, axis=0), axis=1).max() < 1.5 * LIMITS.speed / 50.0


def test_guiding_is_zero_stiffness_and_ends_where_the_arm_is(peer):
    """Guards against an arm that springs back to where the guiding began."""
    with guarded(driver(peer.url)) as robot:
        robot.guide(True)
        wait_for(lambda: peer.params.get("translational_stiffness") == 0.0, "zero stiffness")
        robot.guide(False)
        wait_for(lambda: (peer.params.get("translational_stiffness") or 0.0) >= 2000.0, "the stiffness of before")
        assert peer.poses[-1] == pytest.approx(peer.arm.state().pose.tolist(), abs=0.01)


def test_stop_ends_the_controller_and_recover_starts_it_again(peer):
    """Guards against a STOP that only stops sending, and against an arm that stays dead after it."""
    with guarded(driver(peer.url)) as robot:
        robot.stop("test")
        assert peer.calls.count("stopimp") == 2  # the first began the connection
        cycles = robot.status().cycles
        wait_for(lambda: robot.status().cycles > cycles + 1, "the end of what was under way")
        sent = len(peer.poses)
        with pytest.raises(CommandRefused, match="recover"):
            robot.command(Command(robot.state().pose, None, robot.state().time))
        wait_for(lambda: robot.status().cycles > cycles + 10, "some cycles")
        assert len(peer.poses) == sent
        robot.recover()
        go(robot, robot.state().pose + np.array([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0]))
    assert peer.calls[-1] == "stopimp"  # nobody leads the arm any more


def test_a_joint_reset_that_is_broken_off_needs_a_person(peer):
    """Guards against a server that drives the joints on while the guard believes that the arm holds."""
    with guarded(driver(peer.url)) as robot:
        peer.slow = 1.5
        robot.reset((JointReset(),))
        wait_for(lambda: "jointreset" in peer.calls, "the joint reset")
        robot.hold("no")
        wait_for(lambda: robot.status().mode == "fault", "the fault")
        assert "broken off" in robot.status().reason
        with pytest.raises(RobotError, match="wait until it rests"):
            robot.recover()
        sent = len(peer.poses)
        wait_for(lambda: _recovers(robot), "the recovery")
        assert len(peer.poses) <= sent + 1
        go(robot, robot.state().pose + np.array([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0]))


def _recovers(robot: GuardedRobot) -> bool:
    try:
        robot.recover()
    except RobotError:
        return False
    return True


def test_our_own_face_is_a_serl_server_too():
    """Guards both ends of the routes against each other."""
    with site(FakeDriver(clock="realtime")) as found:
        limits = found.driver.limits
        with guarded(SerlHttpDriver(found.url, limits)) as robot:
            go(robot, np.array([0.5, 0.1, 0.3, 1.0, 0.0, 0.0, 0.0]))
            assert found.near([0.5, 0.1, 0.3], 0.01)
            reset(robot, SetGripper(0.0), JointReset())
            assert found.near(found.driver.home_pose)
            assert found.robot.state().gripper == pytest.approx(0.0, abs=0.01)


# ── trouble ──────────────────────────────────────────────────────────────────────────────────────


def faulty(robot: GuardedRobot) -> str:
    wait_for(lambda: robot.status().mode == "fault", "the fault")
    return robot.status().reason


def test_a_server_that_dies_is_a_fault(peer):
    """Guards against an arm that is believed to hold, and against a server that hangs with the lab's."""
    with guarded(driver(peer.url)) as robot:
        peer.close()
        assert "is SERL's server running there?" in faulty(robot)
        with pytest.raises(CommandRefused):
            robot.command(Command(robot.state().pose, None, robot.state().time))


def test_a_server_that_hangs_is_a_fault(peer):
    """Guards against a control cycle that waits for ever."""
    with guarded(driver(peer.url, quick=0.3)) as robot:
        peer.running.clear()
        assert re.search("does not answer /(getstate|pose) within 0.3 s", faulty(robot))
        peer.running.set()


def test_it_goes_on_by_itself_when_the_server_answers_again(peer):
    """Guards against a lab's server that pauses for a moment and costs a night: a late message, as any other."""
    with guarded(driver(peer.url, quick=0.3)) as robot:
        peer.running.clear()
        faulty(robot)
        assert robot.status().health.fault == "communication" and "goes on by itself" in robot.status().reason
        starts = peer.calls.count("startimp")
        peer.running.set()
        wait_for(lambda: robot.status().mode == "holding", "the recovery")
        assert peer.calls.count("startimp") == starts + 1 and not robot.status().health.fault
        go(robot, robot.state().pose + np.array([0.0, 0.0, 0.03, 0.0, 0.0, 0.0, 0.0]))


def test_a_person_recovers_once_the_server_is_back(peer):
    """Guards against a fault that only a restart of our own server would end."""
    with guarded(driver(peer.url, quick=0.05)) as robot:
        peer.running.clear()
        faulty(robot)
        with pytest.raises(RobotError, match="does not answer /getstate"):
            robot.recover()
        peer.running.set()
        wait_for(lambda: _recovers(robot), "a person's recovery")
        assert robot.status().mode == "holding"


def test_silence_during_a_joint_reset_needs_a_person(peer):
    """Guards against a controller that is started beside the one which drives the joints."""
    with guarded(driver(peer.url, quick=0.3)) as robot:
        peer.slow = 3.0
        robot.reset((JointReset(),))
        wait_for(lambda: "jointreset" in peer.calls, "the joint reset")
        peer.running.clear()
        faulty(robot)
        peer.running.set()
        assert robot.status().health.fault == "other" and "recover" in robot.status().reason


def test_a_state_that_is_not_finite_is_a_fault(peer):
    """Guards against a force of NaN, which is below every limit."""
    with guarded(driver(peer.url)) as robot:
        peer.broken = True
        assert "force is not finite" in faulty(robot)
        wait_for(lambda: peer.calls.count("stopimp") == 2, "the last word to the arm")  # the first began it
    last = [number for number, route in enumerate(peer.calls) if route == "stopimp"][1]
    assert set(peer.calls[last:]) <= {"stopimp", "update_param"}  # stiffness may have been under way


def test_a_state_that_stands_still_while_the_arm_should_move_is_a_fault(peer):
    """Guards against a server that has lost its arm and repeats the last thing it heard of it."""
    with guarded(driver(peer.url)) as robot:
        peer.frozen = True
        goal = robot.state().pose + np.array([0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0])

        def fault() -> bool:
            ask(robot, goal)
            return robot.status().mode == "fault"

        wait_for(fault, "the fault")
        assert "stood still" in robot.status().reason


def test_a_parameter_that_is_not_taken_is_a_fault(peer):
    """Guards against an arm that is stiffer than everybody believes."""

    def act(route: str, body: dict) -> None:
        if route == "update_param":
            raise KeyError("no such parameter")

    with guarded(driver(peer.url)) as robot:
        peer.act = act
        robot.reset((SetCompliance(PRECISE),))
        assert "/update_param" in faulty(robot)


def test_without_a_server_connecting_says_what_to_look_at():
    """Guards against a start that hangs, or a traceback."""
    with pytest.raises(RobotError, match="is SERL's server running there"):
        driver("http://127.0.0.1:9/").connect()
    (check,) = driver("http://127.0.0.1:9/").preflight()
    assert not check.ok and "running" in check.text


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5000", "127.0.0.1:5000", "http://", "http://a:b/"])
def test_an_address_that_is_none_is_said_before_anything_connects(url):
    """Guards against a late and dark error about a typing mistake."""
    with pytest.raises(RobotError, match="URL"):
        driver(url)


def test_without_limits_it_refuses_to_start():
    """Guards against a real arm whose table nobody has told."""
    with pytest.raises(RobotError, match="--limits"):
        SerlHttpDriver("http://127.0.0.1:5000", None)


def test_the_preflight_measures_and_moves_nothing(peer):
    """Guards against a check that posts anything but a getter."""
    checks = driver(peer.url).preflight()
    assert [check.name for check in checks] == ["SERL server", "round trip", "inside the box"]
    assert checks[0].ok and checks[2].ok
    assert peer.calls == []
