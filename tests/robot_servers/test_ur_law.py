"""What the UR driver computes: kinematics, the law of its wrench, the robot's clock on ours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_servers.drivers.ur import HOME_Q
from robot_servers.drivers.ur_checks import RobotClock
from robot_servers.drivers.ur_kinematics import ARMS
from robot_servers.drivers.ur_law import WrenchLaw
from robot_servers.geometry import delta_between, quat_normalise, quat_rotate
from robot_servers.impedance import Impedance
from robot_servers.interface import Compliance

DOWN = tuple(ARMS["ur5e"].tcp(np.array(HOME_Q), np.array((0.0, 0.0, 0.1, 0.0, 0.0, 0.0, 1.0)))[3:].tolist())


@pytest.mark.parametrize("model", ARMS)
def test_jacobian_is_the_derivative_of_the_pose(model: str):
    """A wrong sign or a forgotten tool makes every Cartesian limit of the guard a limit of something else."""
    arm, tool, rng = ARMS[model], np.array((0.02, -0.01, 0.15, 0.0, 0.6, 0.0, 0.8)), np.random.default_rng(0)
    for q in rng.uniform(-3.0, 3.0, (5, 6)):
        jacobian, here = arm.jacobian(q, tool), arm.tcp(q, tool)
        for joint in range(6):
            there = arm.tcp(q + 1e-6 * np.eye(6)[joint], tool)
            linear = (there[:3] - here[:3]) / 1e-6
            spin = quat_rotate(here[3:], delta_between(here, there)[3:]) / 1e-6  # from the TCP's axes to the base's
            assert np.allclose(jacobian[:3, joint], linear, atol=1e-5)
            assert np.allclose(jacobian[3:, joint], spin, atol=1e-5)


def test_flange_of_a_stretched_arm():
    """All joints at zero: the links add up along −x, the wrist's offsets along −y, as in the maker's drawing."""
    arm = ARMS["ur5e"]
    flange = arm.flange(np.zeros(6))
    assert np.allclose(flange[:3], (-0.425 - 0.3922, -0.1333 - 0.0996, 0.1625 - 0.0997))
    assert ARMS["ur5"].rate == 125.0 and arm.rate == 500.0


def law() -> WrenchLaw:
    out = WrenchLaw(0.002, force=60.0, torque=20.0)
    out.start(np.array((0.0, 0.0, 0.5, *DOWN)))
    return out


def test_push_is_stiffness_times_clip_towards_the_target():
    """A wrong sign runs away from the target; a missing clip presses with all the arm's strength."""
    spring, here = law(), np.array((0.0, 0.0, 0.5, *DOWN))
    assert np.allclose(spring.wrench(here, np.zeros(6)), 0.0)
    spring.set_target(here + np.array((0.3, 0.0, -0.3, 0.0, 0.0, 0.0, 0.0)))
    for _ in range(2000):
        wrench = spring.wrench(here, np.zeros(6))
    assert np.allclose(wrench[:3], (2000.0 * 0.01, 0.0, -2000.0 * 0.01), atol=1e-6)
    assert np.allclose(wrench[3:], 0.0, atol=1e-9)


def test_damping_opposes_the_motion():
    """Damping of the wrong sign is an oscillator."""
    wrench = law().wrench(np.array((0.0, 0.0, 0.5, *DOWN)), np.full(6, 0.1))
    assert np.allclose(wrench, [-8.9] * 3 + [-0.7] * 3, atol=1e-6)


def test_error_is_that_of_the_torque_law():
    """Two laws of one name that differ would make a policy's stiffness depend on the arm."""
    compliance = replace(Compliance(), translational_clip=(0.02, 0.01, 0.005), rotational_clip_neg=(0.1, 0.05, 0.1))
    here = np.array((0.0, 0.0, 0.5, *DOWN))
    goal = np.array((0.015, -0.004, 0.51, *quat_normalise(np.add(DOWN, (0.02, -0.01, 0.03, 0.02)))))
    torque, wrench = Impedance(0.002, compliance), law()
    wrench.set_compliance(compliance)
    torque.start(here, np.zeros(7))
    torque.set_target(goal)
    wrench.set_target(goal)
    for _ in range(60):
        torque.torque(here, np.zeros(7), np.zeros(7), np.eye(6, 7), np.zeros(7))
        wrench.advance()
        assert np.allclose(torque.error(here), wrench.error(here), atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=7, max_size=7),
    st.lists(st.floats(-100, 100), min_size=6, max_size=6),
    st.floats(0, 1e5),
)
def test_wrench_is_bounded_whatever_is_asked(pose: list[float], vel: list[float], stiffness: float):
    """The arm's own force mode has no other bound."""
    spring = law()
    spring.set_compliance(Compliance(translational_stiffness=stiffness, rotational_stiffness=stiffness))
    quat = np.array(pose[3:]) if np.linalg.norm(pose[3:]) > 0.1 else np.array(DOWN)
    spring.set_target(np.concatenate([pose[:3], quat_normalise(quat)]))
    for _ in range(3):
        wrench = spring.wrench(np.array((0.0, 0.0, 0.5, *DOWN)), np.array(vel))
        assert np.linalg.norm(wrench[:3]) <= 60.0 + 1e-9 and np.linalg.norm(wrench[3:]) <= 20.0 + 1e-9


def test_time_of_measurements_runs_with_the_robot_and_never_back():
    """Times that jitter with the network make velocities of nothing; times that go back stop the guard."""
    clock, rng = RobotClock(), np.random.default_rng(1)
    stamps = 100.0 + 0.002 * np.arange(1000)
    times = [clock.time(stamp, 7.0 + 0.002 * i + rng.exponential(0.003)) for i, stamp in enumerate(stamps)]
    assert (np.diff(times) > 0.0).all()
    settled = np.diff(times[200:])
    assert np.abs(settled - 0.002).max() < 1e-3 and abs(times[-1] - (7.0 + 0.002 * 999)) < 1e-3
    assert clock.time(stamps[-1], 99.0) == times[-1]  # the same package, asked again
    assert clock.time(1.0, 100.0) == 100.0  # the controller was restarted
