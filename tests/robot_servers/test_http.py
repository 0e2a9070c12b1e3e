"""The HTTP face: every route of SERL's servers, on the guarded robot, in real time."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from http_site import site, wait_for
from hypothesis import given
from hypothesis import strategies as st
from serl_script import ScriptEnv

from robot_servers.client import RobotClient
from robot_servers.drivers.fake import HOME, LIMITS, FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.geometry import quat_to_euler
from robot_servers.http import pose_of
from robot_servers.http_face import Face
from robot_servers.interface import (
    Command,
    CommandRefused,
    Compliance,
    Health,
    Metadata,
    NotOwner,
    RobotError,
    RobotState,
    Status,
)
from robot_servers.serl_dialect import NAMES, GripperNumbers, to_params

ASIDE = [0.5, 0.05, 0.3, 1.0, 0.0, 0.0, 0.0]
FAR = [0.6, -0.25, 0.45, 1.0, 0.0, 0.0, 0.0]


# ── getters ──────────────────────────────────────────────────────────────────────────────────────


def test_every_getter_answers_with_its_name_and_shape(calm):
    """Guards against a renamed key or another shape, on which scripts fail in the middle of a run."""
    state = calm.get("getstate")
    shapes = {"pose": (7,), "vel": (6,), "force": (3,), "torque": (3,), "q": (7,), "dq": (7,), "jacobian": (6, 7)}
    assert {name: np.shape(value) for name, value in state.items()} == {**shapes, "gripper_pos": ()}
    for route, name, shape in [
        ("getpos", "pose", (7,)),
        ("getpos_euler", "pose", (6,)),
        ("getvel", "vel", (6,)),
        ("getforce", "force", (3,)),
        ("gettorque", "torque", (3,)),
        ("getq", "q", (7,)),
        ("getdq", "dq", (7,)),
        ("getjacobian", "jacobian", (6, 7)),
        ("get_gripper", "gripper", ()),
    ]:
        answer = calm.get(route)
        assert (list(answer), np.shape(answer[name])) == ([name], shape)


def test_the_simulated_arm_reports_what_it_measures():
    """Guards against swapped fields, units, or a quaternion in another order."""
    with site(MujocoDriver("pick_cube", clock="realtime")) as found:
        measured, answer = found.robot.state(), found.get("getstate")
        for name in ("pose", "q"):
            assert answer[name] == pytest.approx(getattr(measured, name).tolist(), abs=5e-3)
        assert np.asarray(answer["jacobian"]) == pytest.approx(measured.jacobian, abs=1e-2)
        euler = found.get("getpos_euler")["pose"]
        assert euler[:3] == pytest.approx(measured.pose[:3].tolist(), abs=5e-3)
        assert np.cos(euler[3:]) == pytest.approx(np.cos(quat_to_euler(measured.pose[3:])), abs=5e-3)


@given(st.integers(0, 3), st.sampled_from([-1.0, 1.0]), st.lists(st.floats(-0.4, 0.4), min_size=4, max_size=4))
def test_the_sign_of_the_quaternion_is_the_one_scripts_expect(largest, sign, quat):
    """Guards against a reported −q: scripts interpolate from it to q, through an orientation that is none."""
    quat[largest] = sign
    zero = np.zeros(7)
    measured = RobotState(
        0.0, np.array([0.1, 0.2, 0.3, *quat]), zero[:6], zero[:3], zero[:3], zero, zero, np.eye(6, 7), 0
    )
    reported = pose_of(measured)
    assert reported[3 + largest] == 1.0
    assert reported[3:] == pytest.approx(sign * np.array(quat))
    assert reported[:3].tolist() == [0.1, 0.2, 0.3]


# ── moving ───────────────────────────────────────────────────────────────────────────────────────


def test_a_far_pose_posted_once_is_slewed_and_reached_while_the_lease_lasts(fake):
    """Guards against a far pose that ends at the first step, or at the watchdog 0.3 s after its only post."""
    assert fake.do("pose", {"arr": FAR}) == "Moved"
    wait_for(lambda: fake.get("getpos") and fake.near(FAR), "the arrival")  # as scripts do: each request renews
    assert fake.robot.status().bent > 0


def test_the_simulated_arm_arrives_too():
    """Guards against goals that only a massless arm reaches."""
    with site(MujocoDriver("pick_cube", clock="realtime")) as found:
        goal = found.robot.state().pose + np.array([0.0, 0.08, -0.05, 0.0, 0.0, 0.0, 0.0])
        found.do("pose", {"arr": goal.astype(np.float32).tolist()})
        wait_for(lambda: found.get("getpos") and found.near(goal, 0.01), "the arrival")


def test_when_requests_stop_the_arm_holds_and_the_robot_is_free(fake):
    """Guards against a script that died and leaves the arm on its way, or the robot owned for ever."""
    fake.driver.blocked = True  # it never arrives by itself
    fake.do("pose", {"arr": FAR})
    assert fake.robot.status().mode == "moving"
    wait_for(lambda: fake.robot.status().mode == "holding", "the hold")
    with RobotClient(fake.address) as other:
        other.command(Command(np.array(HOME), None, other.state().time))


def test_after_a_pause_the_next_pose_goes_on(fake):
    """Guards against a script that sleeps for longer than the lease and never moves again."""
    fake.do("pose", {"arr": ASIDE})
    wait_for(lambda: fake.robot.status().mode == "holding", "the hold")
    fake.do("pose", {"arr": FAR})
    wait_for(lambda: fake.get("getpos") and fake.near(FAR), "the arrival")


def test_a_script_and_another_client_never_both_command(fake):
    """Guards against two owners: whoever came first keeps the robot, the other is told who has it."""
    with RobotClient(fake.address) as other:
        other.tighten(LIMITS)
        status, said = fake.refused("pose", {"arr": ASIDE})
        assert status == 409 and "in the hands of" in said
        assert fake.robot.status().commands == 0
    fake.do("pose", {"arr": ASIDE})
    with RobotClient(fake.address) as other, pytest.raises(NotOwner, match="in the hands of"):
        other.command(Command(np.array(HOME), None, other.state().time))


def test_quaternions_are_taken_by_their_direction(fake):
    """Guards against refusing what scripts send: interpolated component by component, in single precision."""
    turned = [0.5, 0.0, 0.3, 0.9, 0.02, 0.0, 0.0]
    fake.do("pose", {"arr": np.array(turned, np.float32).tolist()})
    wait_for(lambda: fake.get("getpos") and abs(fake.robot.state().pose[4]) > 0.02, "the turn")


def test_hold_and_resume(fake):
    """Guards against /stopimp that the thread behind the goal undoes, and against poses after it."""
    fake.do("pose", {"arr": FAR})
    assert fake.do("stopimp") == "Stopped impedance"
    status, said = fake.refused("pose", {"arr": FAR})
    assert status == 409 and "/startimp" in said
    assert fake.robot.status().mode == "holding"
    assert fake.do("startimp") == "Started impedance"
    fake.do("pose", {"arr": ASIDE})
    wait_for(lambda: fake.get("getpos") and fake.near(ASIDE), "the arrival")


def test_a_joint_reset_answers_when_the_arm_is_home(fake):
    """Guards against scripts that go on while the arm still moves, and against a goal that survives the reset."""
    fake.do("pose", {"arr": ASIDE})
    wait_for(lambda: fake.get("getpos") and fake.near(ASIDE), "the arrival")
    assert fake.do("jointreset") == "Reset Joint"
    assert fake.near(HOME)
    time.sleep(0.2)
    assert fake.near(HOME)


# ── the gripper ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("numbers", "closed", "open_", "close_to"),
    [
        (GripperNumbers("serl", "robotiq"), 255.0, 0.0, 255),
        (GripperNumbers("serl", "hand"), 0.0, 0.08, 0),
        (GripperNumbers("hil-serl", "robotiq"), 0.0, 1.0, 255),
        (GripperNumbers("hil-serl", "hand"), 0.0, 1.0, 0),
    ],
)
def test_the_gripper_in_each_dialect(numbers, closed, open_, close_to):
    """Guards against a gripper that opens when it is told to close: open → close → open, by every route."""

    def reports(value: float) -> bool:
        return found.get("get_gripper")["gripper"] == pytest.approx(value, abs=1e-6)

    with site(FakeDriver(clock="realtime"), gripper=numbers) as found:
        assert reports(open_)
        for route, body, text, value in [
            ("close_gripper", None, "Closed", closed),
            ("open_gripper", None, "Opened", open_),
            ("move_gripper", {"gripper_pos": close_to}, "Moved Gripper", closed),
            ("move_gripper", {"gripper_pos": 255 - close_to}, "Moved Gripper", open_),
            ("close_gripper_slow", None, "Closed", closed),
        ]:
            assert found.do(route, body) == text
            wait_for(lambda value=value: reports(value), route)
        assert found.get("getstate")["gripper_pos"] == pytest.approx(closed)
        assert found.near(HOME)
        assert (found.do("activate_gripper"), found.do("reset_gripper")) == ("Activated", "Reset")


def test_the_gripper_moves_on_the_way(fake):
    """Guards against a gripper command that ends the motion."""
    fake.do("pose", {"arr": FAR})
    fake.do("close_gripper")
    wait_for(lambda: fake.get("getpos") and fake.near(FAR), "the arrival")
    wait_for(lambda: fake.get("get_gripper")["gripper"] == pytest.approx(0.0), "the closing")


# ── parameters ───────────────────────────────────────────────────────────────────────────────────


def test_parameters_are_updated_partially_and_outlive_the_lease(fake):
    """Guards against a precise reset that runs with the soft parameters after a pause, and against full resets."""
    before = Compliance()
    fake.do("pose", {"arr": FAR})
    body = {"rotational_stiffness": 250, "rotational_damping": 9, "translational_clip_x": 0.5}
    assert fake.do("update_param", body) == "Updated compliance parameters"
    wanted = replace(before, rotational_stiffness=250.0, rotational_damping=9.0, translational_clip=(0.1, 0.01, 0.01))
    wait_for(lambda: fake.get("getpos") and fake.driver.compliance == wanted, "the end of the soft start")
    wait_for(lambda: fake.get("getpos") and fake.near(FAR), "the arrival")  # the goal has survived
    wait_for(lambda: fake.driver.compliance == before, "the end of the lease")
    fake.do("pose", {"arr": ASIDE})
    wait_for(lambda: fake.driver.compliance == wanted, "the parameters of before")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"translational_stiffnes": 1.0}, 400, 'did you mean "translational_stiffness"'),
        ({"translational_stiffness": "stiff"}, 400, "finite number"),
        ({"translational_stiffness": 1e6}, 409, "must lie between 0 and 4000"),
        ({"translational_damping": 0.0}, 409, "rings"),
        ({"translational_clip_x": -1.0}, 409, "must lie between 0 and"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(calm, body, status, words):
    """Guards against an arm that rings or presses because of a typing error."""
    resets = calm.robot.status().resets
    found, said = calm.refused("update_param", body)
    assert found == status and words in said
    assert calm.robot.status().resets == resets


def test_all_parameters_can_be_set_at_once(calm):
    """Guards against scripts whose whole parameter set is refused."""
    assert set(to_params(Compliance())) == set(NAMES)
    calm.do("update_param", to_params(Compliance()))


def test_the_load_is_a_fact_of_the_robots_server(calm):
    """Guards against a load that is taken silently and never set."""
    body = {"mass": 0.0, "F_x_center_load": [0.0, 0.0, 0.0], "load_inertia": [0.0] * 9}
    assert calm.do("set_load", body) == "Set Load"
    status, said = calm.refused("set_load", {**body, "mass": 0.7})
    assert status == 409 and "start the server again" in said
    assert calm.refused("set_load", {"mass": 0.0})[0] == 400


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


class Troubled:
    """A robot whose status a test sets; counts what it is asked to do. ``at`` is the clock of the face."""

    def __init__(self, status: Status) -> None:
        self.found = status
        self.recovered = 0
        self.at = 0.0
        self.metadata: Metadata | None = None

    def connect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def status(self) -> Status:
        return self.found

    def recover(self) -> None:
        self.recovered += 1


def troubled(**status: object) -> tuple[Troubled, Face]:
    robot = Troubled(Status(**{"mode": "fault", "time": 0.0, **status}))
    return robot, Face(lambda: robot, now=lambda: robot.at)


def test_clearing_without_a_fault_does_nothing():
    """Guards against what SERL's clients do before every pose: clear errors, whatever they are."""
    robot, face = troubled(mode="holding")
    for _ in range(100):
        face.clear_error()
    assert robot.recovered == 0


def test_a_late_message_is_left_to_the_guard():
    """Guards the guard's budget of recoveries against a second one, of a script that clears ten times a second."""
    fault = Health("communication", "communication_constraints_violation")
    robot, face = troubled(health=fault, reason=f"{fault.text}: goes on by itself after 2 s of hold")
    for _ in range(10):
        with pytest.raises(CommandRefused, match="violation: goes on by itself"):
            face.clear_error()
        robot.at += 2.5
    assert robot.recovered == 0


@pytest.mark.parametrize(
    "status",
    [
        {"health": Health("reflex", "cartesian_reflex")},
        {"health": Health("protective", "protective stop")},
        {"mode": "user-stopped", "health": Health("user-stop", "pressed")},
        {"mode": "stopped", "reason": "STOP"},
        {"mode": "fault", "reason": "the driver failed"},
    ],
)
def test_everything_else_needs_a_person(status, caplog):
    """Guards against a collision that a script clears; it is said once, not ten times a second."""
    robot, face = troubled(**status)
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            with pytest.raises(RobotError, match="a person at the arm"):
                face.clear_error()
    assert robot.recovered == 0
    assert len(caplog.records) == 1


def test_no_old_goal_moves_the_arm_after_a_fault(fake):
    """Guards against an arm that goes on to where it was going as soon as the fault is gone."""
    fake.do("pose", {"arr": FAR})
    fake.driver.failure = RuntimeError("broken")
    wait_for(lambda: fake.robot.status().mode == "fault", "the fault")
    assert fake.refused("pose", {"arr": FAR})[0] in (409, 503)
    assert fake.refused("clearerr")[0] == 409


# ── an environment written for SERL ──────────────────────────────────────────────────────────────


def test_an_environment_written_for_serl_drives_the_simulated_arm_unchanged():
    """Guards the whole face: resets, interpolated and far moves, parameters and gripper, as such scripts do them."""
    with site(MujocoDriver("pick_cube", clock="realtime")) as found:
        env = ScriptEnv(found.url)
        start = np.array([0.5, 0.06, 0.2, *found.get("getpos")["pose"][3:]])
        env.reset(start)
        assert np.linalg.norm(env.pose[:3] - start[:3]) < 0.03
        for _ in range(15):
            env.step(np.array([0.0, -0.015, 0.0]), "close_gripper")
        assert env.pose[1] < start[1] - 0.06
        assert env.gripper < 0.1
        env.send(start)  # 12 cm back in one command
        wait_for(lambda: env.update() or float(np.linalg.norm(env.pose[:3] - start[:3])) < 0.01, "the return")
        env.step(np.zeros(3), "open_gripper")
        wait_for(lambda: env.update() or env.gripper > 0.9, "the opening")
        euler = json.loads(env.post("getpos_euler"))["pose"][3:]
        assert abs(abs(euler[0]) - math.pi) < 0.1
        assert env.statuses == {200}
