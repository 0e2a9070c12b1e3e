import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from franka_sim import LIMITS, PATIENCE, cycle_for, cycle_until, driver, emulated, fci, old_firmware, silence

from robot_servers.client import RobotClient
from robot_servers.drivers.franka import AT_HOME, FrankaDriver
from robot_servers.drivers.franka_check import load_to_add
from robot_servers.drivers.franka_model import FRANKA_HAND, tcp_pose
from robot_servers.grippers.none import NoGripper
from robot_servers.interface import Compliance, RobotError, Tool
from serl_core.franka_sim.launch import free_host
from serl_core.processes import Child

KINEMATICS = 2e-3  # m between the TCP that the arm reports and the one of its joints and our tool
STIFF = Compliance(translational_clip=(0.05,) * 3, translational_clip_neg=(0.05,) * 3)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Iterator[tuple[str, Child]]:
    with emulated(tmp_path_factory.mktemp("franka")) as arm:
        yield arm


@pytest.fixture
def arm(emulator) -> Iterator[FrankaDriver]:
    robot = driver(emulator[0])
    robot.connect()
    robot.set_compliance(STIFF)
    yield robot
    robot.close()


def aside(pose: np.ndarray, y: float) -> np.ndarray:
    return pose + np.array([0, y, 0, 0, 0, 0, 0])


def far(arm: FrankaDriver, target: np.ndarray) -> float:
    return float(np.linalg.norm(arm.state().pose[:3] - target[:3]))


# ── what it says without an arm ──


@pytest.mark.parametrize(
    "limits, tool, text", [(None, FRANKA_HAND, "--limits FILE, or --task"), (LIMITS, None, "--tool")]
)
def test_nothing_starts_without_limits_and_tool(limits, tool, text):
    """Guards against a default box: nobody but the lab knows its table and what is on the flange."""
    with pytest.raises(RobotError, match=text):
        FrankaDriver("127.0.0.1", NoGripper(), limits, tool)


def test_an_arm_that_is_off_is_a_clear_error():
    """Guards the commonest first error: wrong address, arm off, FCI not activated."""
    with pytest.raises(RobotError, match=r"no Franka arm at .*FCI activated in Desk"):
        driver(free_host(), NoGripper()).connect()


def test_an_arm_that_never_answers_does_not_hang_the_server():
    """Guards against libfranka's own patience, a minute per attempt."""
    begun = time.monotonic()
    with fci(silence) as host, pytest.raises(RobotError, match="has not answered for 4 s"):
        driver(host, NoGripper()).connect()
    assert time.monotonic() - begun < PATIENCE


def test_another_version_names_the_wheel():
    """Guards owners of a Panda, whose firmware needs another libfranka: the error says what to install."""
    with fci(old_firmware) as host, pytest.raises(RobotError, match=r"franky-control.*by-robot-server-version/5/"):
        driver(host, NoGripper()).connect()


@pytest.mark.parametrize("desk, load", [(0.0, 0.73), (0.72, 0.0)])
def test_the_tool_is_told_to_the_arm_once(desk, load):
    """Guards against a tool that Desk knows already and that would be added as a load too."""
    assert load_to_add(SimpleNamespace(m_ee=desk), FRANKA_HAND).mass == load  # type: ignore[arg-type]


def test_another_tool_in_desk_is_refused():
    """Guards against an arm that drifts under a weight it was not told of."""
    with pytest.raises(RobotError, match=r"1\.50 kg, our tool weighs 0\.73 kg"):
        load_to_add(SimpleNamespace(m_ee=1.5), FRANKA_HAND)  # type: ignore[arg-type]


# ── with the emulated arm and the real libfranka ──


def test_state_and_preflight(arm):
    """Guards frames and units: the arm's TCP is where its joints put our tool's, and the arm agrees with our tool."""
    state = arm.state()
    np.testing.assert_allclose(state.pose[:3], tcp_pose(state.q, arm.tool)[:3], atol=KINEMATICS)
    assert state.jacobian.shape == (6, 7) and np.isfinite(state.jacobian).all()
    assert [check.name for check in arm.preflight() if not check.ok] == []
    assert {"connection", "mode", "TCP", "mass", "self-test"} <= {check.name for check in arm.preflight()}


def test_it_follows_a_line(arm):
    """Guards the way from a target to libfranka's loop and back."""
    cycle_for(arm, 0.2)
    start, begun, errors = arm.state().pose, time.monotonic(), []

    def follow() -> None:
        y = 0.03 * np.sin(2 * np.pi * 0.25 * (time.monotonic() - begun))
        arm.track(aside(start, y), None)
        errors.append(far(arm, aside(start, y)))

    cycle_for(arm, 2.0, follow)
    assert not arm.health().fault
    assert np.mean(errors) < 0.015  # the target's filter alone lags by 6 mm


def test_gains_change_while_it_runs(arm):
    """Guards live gains: without stiffness the arm stays, with it the same target is reached."""
    arm.set_compliance(replace(STIFF, translational_stiffness=0.0, rotational_stiffness=0.0))
    cycle_for(arm, 1.5)  # until the gains' filter has arrived
    target = aside(arm.state().pose, 0.04)
    cycle_for(arm, 0.7, lambda: arm.track(target, None))
    assert far(arm, target) > 0.02
    arm.set_compliance(STIFF)
    assert cycle_until(arm, lambda: far(arm, target) < 0.006, lambda: arm.track(target, None))


def test_the_hand_opens_and_closes_by_its_own_numbers(arm):
    """Guards open → close → open, and that hands which met nothing say so."""
    arm.track(arm.state().pose, 0.0)
    assert cycle_until(arm, lambda: arm.state().grip == "lost" and arm.state().gripper < 0.05)
    arm.track(arm.state().pose, 1.0)
    assert cycle_until(arm, lambda: arm.state().grip == "idle" and arm.state().gripper > 0.95)


def test_the_hand_holds_what_is_between_its_fingers(arm, emulator):
    """Guards grasp states: an object is held, not lost, until it is let go; a width in between is no grasp."""
    emulator[1].tell("object 0.032")
    arm.track(arm.state().pose, 0.0)
    assert cycle_until(arm, lambda: arm.state().grip == "holding")
    assert arm.state().gripper == pytest.approx(0.4, abs=0.05)
    arm.stop()
    cycle_for(arm, 0.2)
    assert arm.state().grip == "holding"  # STOP drops nothing
    arm.recover()
    arm.track(arm.state().pose, 0.7)
    assert cycle_until(arm, lambda: arm.state().grip == "idle" and abs(arm.state().gripper - 0.7) < 0.05)
    emulator[1].tell("object 0.0")


def test_stop_from_another_thread_ends_control_until_recover(arm):
    """Guards STOP: from any thread, at once, and no target moves the arm afterwards."""
    cycle_for(arm, 0.2)
    target = aside(arm.state().pose, 0.04)
    stopper = threading.Timer(0.2, arm.stop)
    stopper.start()
    cycle_for(arm, 0.5, lambda: arm.track(target, None))
    stopper.join()
    assert cycle_until(arm, lambda: not arm._arm.running)
    rest = arm.state().pose
    cycle_for(arm, 0.5, lambda: arm.track(aside(rest, -0.04), None))
    assert far(arm, rest) < 0.005
    arm.recover()
    assert cycle_until(arm, lambda: far(arm, target) < 0.006, lambda: arm.track(target, None))


def test_stopped_while_it_recovers_it_stays_stopped(arm, monkeypatch):
    """Guards the race of two people: a STOP that comes during a recovery wins."""
    arm.stop()
    prepare = arm._prepare
    monkeypatch.setattr(arm, "_prepare", lambda: (prepare(), arm.stop()))
    arm.recover()
    cycle_for(arm, 0.3)
    assert not arm._arm.running


def test_a_collision_is_a_reflex_until_somebody_recovers(arm, emulator):
    """Guards against reflexes that are cleared in a loop: the arm holds by itself and says why."""
    emulator[1].tell("collide")
    assert cycle_until(arm, lambda: arm.health().fault == "reflex")
    assert "cartesian_reflex" in arm.health().text
    cycle_for(arm, 0.2)
    assert arm.health().fault == "reflex"
    arm.recover()
    cycle_for(arm, 0.2)
    assert not arm.health().fault and arm._arm.running


def test_the_user_stop_needs_a_person_even_when_released(arm, emulator):
    """Guards the button pressed daily: what it is, what to do, and no motion on its release."""
    emulator[1].tell("press")
    assert cycle_until(arm, lambda: arm.health().fault == "user-stop")
    with pytest.raises(RobotError, match="release it"):
        arm.recover()
    emulator[1].tell("release")
    cycle_for(arm, 0.4)
    assert arm.health().fault == "user-stop" and not arm._arm.running
    arm.recover()
    cycle_for(arm, 0.2)
    assert not arm.health().fault and arm._arm.running


def test_a_joint_reset_is_polled_and_ends_at_home(arm):
    """Guards the cycle: seconds of motion, and no call that waits for them."""
    assert not arm.joint_reset()
    assert cycle_until(arm, arm.joint_reset)
    state = arm.state()
    assert np.abs(state.q - arm.home_q).max() <= AT_HOME
    reach = np.abs(state.jacobian[:3]).sum(axis=1) * AT_HOME  # m, where joints as far off as they may be put the TCP
    assert (np.abs(state.pose[:3] - arm.home_pose[:3]) <= reach + KINEMATICS).all()


def test_a_target_ends_a_joint_reset(arm):
    """Guards a hold in the middle of a reset: the arm stays there, under control."""
    away = np.array([0.3, *arm.home_q[1:]])
    arm.home_q = tuple(away)
    assert not arm.joint_reset()
    cycle_for(arm, 0.7, arm.joint_reset)
    here = arm.state().pose
    assert cycle_until(arm, lambda: arm._phase == "tracking", lambda: arm.track(here, None))
    cycle_for(arm, 0.3, lambda: arm.track(here, None))
    assert np.abs(arm.state().q - away).max() > 0.05 and not arm.health().fault


def test_guiding_lets_go_and_takes_hold_where_it_is(arm):
    """Guards teaching by hand: no stiffness while guided, no jump back afterwards."""
    start = arm.state().pose
    arm.guide(True)
    cycle_for(arm, 0.3, lambda: arm.track(aside(start, 0.04), None))
    assert far(arm, start) < 0.01
    arm.guide(False)
    cycle_for(arm, 0.3)
    assert far(arm, start) < 0.01 and arm._arm.running and not arm.health().fault


def test_the_load_is_set_only_while_stopped(arm):
    """Guards against an arm that jumps because its weight changed under the controller."""
    with pytest.raises(RobotError, match="only while the controller is stopped"):
        arm.set_load(Tool(mass=0.2))
    arm.stop()
    assert cycle_until(arm, lambda: not arm._arm.running)
    arm.set_load(Tool(mass=0.2))
    cycle_for(arm, 0.1)
    assert arm._raw is not None and arm._raw.m_load == pytest.approx(0.2)


def test_a_frozen_server_is_a_communication_fault_that_it_recovers_from(emulator, tmp_path):
    """Guards a robot PC that stalls: the arm's own reflex, seen as what it is, and the arm held before it goes on."""
    limits = tmp_path / "limits.json"
    limits.write_text('{"box_low": [0.2, -0.4, 0.02], "box_high": [0.8, 0.4, 0.8]}')
    options = ("--address", emulator[0], "--tool", "franka-hand", "--limits", str(limits), "--waive-realtime")
    server = Child(
        "server", (sys.executable, "-m", "robot_servers", "franka", *options, "--port", "0"), tmp_path / "log"
    )
    try:
        client = RobotClient(server.ready(PATIENCE)[0])
        client.connect()
        process = server._process.pid
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.4)
        os.kill(process, signal.SIGCONT)
        seen = [client.status()]
        end = time.monotonic() + PATIENCE
        while not (any(s.mode == "fault" for s in seen) and seen[-1].mode == "holding") and time.monotonic() < end:
            time.sleep(0.02)
            seen.append(client.status())
        client.close()
    finally:
        server.stop(grace=5.0)
    fault = next(status for status in seen if status.mode == "fault")
    assert fault.health.fault == "communication" and "communication_constraints_violation" in fault.health.text
    assert seen[-1].mode == "holding" and not seen[-1].health.fault
