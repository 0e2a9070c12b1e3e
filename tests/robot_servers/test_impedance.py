import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.geometry import quat_mul, rotvec_to_quat
from robot_servers.impedance import TORQUE_LIMITS, Impedance
from robot_servers.interface import Compliance, RobotError

HERE = np.array([0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0])
REST = np.zeros(7)
JACOBIAN = np.eye(6, 7)


def shifted(translation=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)):
    return np.concatenate([HERE[:3] + translation, quat_mul(rotvec_to_quat(np.array(turn)), HERE[3:])])


def settled_torque(law, pose, ticks=3000):
    for _ in range(ticks):
        tau = law.torque(pose, REST, REST, JACOBIAN, REST)
    return tau


def law_at(pose, dt=0.001, **parameters):
    law = Impedance(dt, Compliance(**{"nullspace_stiffness": 0.0, **parameters}))
    law.start(pose, REST)
    return law


def test_at_rest_on_the_target_there_is_no_torque():
    """Guards against an arm that jumps when the controller starts."""
    assert np.abs(law_at(HERE).torque(HERE, REST, REST, JACOBIAN, REST)).max() == 0.0


def test_translational_clip_bounds_the_downward_push_and_its_negative_the_upward_one():
    """Guards against swapped signs: an arm held above its target pushes down with stiffness × clip."""
    law = law_at(HERE, translational_clip=(0.01, 0.01, 0.004), translational_clip_neg=(0.01, 0.01, 0.007))
    assert settled_torque(law, shifted((0, 0, 0.05)))[2] == pytest.approx(-2000 * 0.004)
    assert settled_torque(law, shifted((0, 0, -0.05)))[2] == pytest.approx(2000 * 0.007)


@given(st.tuples(*[st.floats(-0.09, 0.09)] * 3))
def test_rotational_error_is_the_half_angle_in_the_base_frame(turn):
    """Guards against a full-angle or a body-frame error, which would double or rotate the stiffness."""
    law = law_at(HERE, rotational_clip=(0.1,) * 3, rotational_clip_neg=(0.1,) * 3)
    np.testing.assert_allclose(law.error(shifted(turn=turn))[3:], np.array(turn) / 2, atol=1e-4)


def test_both_signs_of_a_quaternion_are_the_same_target():
    """Guards against a full turn when a client sends −q for q."""
    law = law_at(HERE)
    law.set_target(np.concatenate([HERE[:3], -HERE[3:]]))
    assert np.abs(settled_torque(law, HERE)).max() < 1e-9


@pytest.mark.parametrize("dt", [0.001, 0.002, 0.004])
def test_target_filter_has_the_time_constant_of_the_original_at_every_tick_length(dt):
    """Guards against a controller that becomes faster or slower with the physics rate."""
    law = law_at(HERE, dt, translational_clip=(1,) * 3, translational_clip_neg=(1,) * 3)
    target = shifted((0.1, 0, 0), (0, 0, 0.4))
    law.set_target(target)
    for _ in range(round(0.2 / dt)):
        law.torque(HERE, REST, REST, JACOBIAN, REST)
    remaining = (1 - 0.005) ** 200
    assert law.error(HERE)[0] == pytest.approx(-0.1 * (1 - remaining), rel=1e-6)
    half_way = shifted(turn=(0, 0, 0.4 * (1 - remaining)))
    assert abs(law._rotation @ half_way[3:]) == pytest.approx(1.0, abs=1e-9)


def test_gains_follow_the_filter_but_clips_act_at_once():
    """Guards against a jump of the torque when a task switches its stiffness."""
    law = law_at(HERE, translational_stiffness=1000.0)
    push = shifted((0.01, 0, 0))
    assert settled_torque(law, push)[0] == pytest.approx(-10.0)
    law.set_compliance(Compliance(translational_stiffness=2000.0, nullspace_stiffness=0.0))
    assert -10.2 < law.torque(push, REST, REST, JACOBIAN, REST)[0] < -10.0
    assert settled_torque(law, push)[0] == pytest.approx(-20.0)
    law.set_compliance(
        Compliance(translational_stiffness=2000.0, translational_clip=(0.001,) * 3, nullspace_stiffness=0.0)
    )
    assert law.error(push)[0] == 0.001


@pytest.mark.parametrize("dt", [0.001, 0.002])
def test_torque_changes_by_at_most_one_newton_metre_per_millisecond(dt):
    """Guards against a step of torque, which a real arm answers with a reflex stop."""
    law = law_at(HERE, dt)
    taus = [law.torque(shifted((0.05, -0.05, 0.05)), REST, REST, JACOBIAN, REST).copy() for _ in range(30)]
    assert np.abs(np.diff(taus, axis=0, prepend=0)).max() == pytest.approx(1000 * dt)


def test_torques_stay_within_the_motors_limits():
    """Guards against commands that a real arm refuses."""
    stiff = dict(translational_stiffness=1e5, rotational_stiffness=1e5)
    tau = settled_torque(law_at(HERE, **stiff), shifted((0.05, 0.05, 0.05), (0.3, 0.3, 0.3)))
    assert np.all(np.abs(tau) <= TORQUE_LIMITS)
    assert np.any(np.abs(tau) == TORQUE_LIMITS)


def test_torques_that_are_not_finite_are_an_error():
    """Guards against NaN passing the limits, which compare, and reaching the motors."""
    law = law_at(HERE)
    with pytest.raises(RobotError, match="not finite"):
        law.torque(HERE, REST, np.full(7, np.nan), JACOBIAN, REST)


def test_integral_is_bounded_and_forgotten_at_a_new_target():
    """Guards against wind-up while the arm is pressed against something."""
    law = law_at(HERE, translational_stiffness=0.0, translational_damping=0.0, translational_ki=50.0)
    push = shifted((0.004, 0, 0))
    assert settled_torque(law, push)[0] == pytest.approx(-50.0 * 0.1)
    law.set_target(shifted((0, 0.001, 0)))
    law.set_target(HERE)
    assert law._integral.tolist() == [0.0] * 6


def test_posture_pulls_only_in_the_null_space_and_harder_at_joint_one():
    """Guards against a posture task that pushes the TCP off its target."""
    law = Impedance(0.001, Compliance(nullspace_stiffness=0.2, joint1_nullspace_stiffness=100.0))
    law.start(HERE, REST)
    jacobian = np.random.default_rng(0).normal(size=(6, 7))
    bent = np.full(7, 0.3)
    for _ in range(100):
        tau = law.torque(HERE, bent, REST, jacobian, REST)
    pull = -0.2 * bent * np.array([100, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(
        tau, pull - jacobian.T @ np.linalg.solve(jacobian @ jacobian.T, jacobian @ pull), atol=1e-3
    )
    assert np.abs(np.linalg.pinv(jacobian.T) @ tau).max() < 1e-3


def test_coriolis_is_passed_through():
    """Guards against an arm that is slowed down or sped up by its own motion."""
    coriolis = np.full(7, 0.5)
    np.testing.assert_array_equal(law_at(HERE).torque(HERE, REST, REST, JACOBIAN, coriolis), coriolis)
