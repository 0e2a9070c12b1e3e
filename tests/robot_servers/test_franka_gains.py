import numpy as np
import pytest

from robot_servers.drivers.franka_gains import TargetFilter, check, tracker_gains
from robot_servers.drivers.franka_model import FRANKA_HAND, HOME_Q, tcp_pose
from robot_servers.geometry import apply_delta, quat_conj, quat_mul, quat_to_rotvec
from robot_servers.impedance import Impedance
from robot_servers.interface import Array, Compliance, RobotError

POSE = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])


def ahead(x: float) -> Array:
    return POSE + np.array([x, 0, 0, 0, 0, 0, 0])


def franky_wrench(target: Array, pose: Array, compliance: Compliance) -> Array:
    """What franky's tracker pulls with at rest: stiffness times position and rotation-vector error, (6,) N, Nm."""
    turn = quat_to_rotvec(quat_mul(target[3:], quat_conj(pose[3:])))
    return tracker_gains(compliance).stiffness * np.concatenate([target[:3] - pose[:3], turn])


def test_at_rest_it_pulls_like_serls_law():
    """Guards parity: halved rotational stiffness, half-angle clips and the sign of asymmetric ones."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high, turn_low, turn_high = rng.uniform(0.002, 0.02, 3), rng.uniform(0.002, 0.02, 3), 0.03, 0.05
        compliance = Compliance(
            translational_clip=tuple(high),
            translational_clip_neg=tuple(low),
            rotational_clip=(turn_high,) * 3,
            rotational_clip_neg=(turn_low,) * 3,
        )
        goal = apply_delta(POSE, rng.uniform(-1, 1, 6) * np.repeat([0.03, 0.15], 3))
        law, ours = Impedance(0.001, compliance), TargetFilter()
        law.start(goal, np.zeros(7))
        ours.start(goal)
        ours.set_clips(compliance)
        stiffness = np.repeat([compliance.translational_stiffness, compliance.rotational_stiffness], 3)
        expected = -stiffness * law.error(POSE)
        np.testing.assert_allclose(
            franky_wrench(ours.step(0.005, POSE), POSE, compliance), expected, rtol=0.01, atol=0.02
        )


def test_a_target_is_followed_with_serls_time_constant():
    """Guards against a jump: a policy's target of one step is reached by about 40 %, at any rate of the cycle."""
    wide = Compliance(translational_clip=(1.0,) * 3, translational_clip_neg=(1.0,) * 3)
    for hz in (100, 200, 500):
        ours = TargetFilter()
        ours.start(POSE)
        ours.set_clips(wide)
        ours.set_goal(ahead(0.1))
        reached = [ours.step(1 / hz, POSE) for _ in range(hz // 10)][-1]
        assert (reached[0] - POSE[0]) / 0.1 == pytest.approx(0.394, abs=0.001)


def test_a_cycle_that_was_held_up_does_not_jump():
    """Guards against a target that moves in one step as far as the pause was long."""
    ours = TargetFilter()
    ours.start(POSE)
    ours.set_goal(ahead(0.01))
    assert ours.step(10.0, POSE)[0] - POSE[0] < 0.003


def test_within_the_clips_the_measurement_is_not_fed_back():
    """Guards against the noise of the arm's state coming back as a command."""
    rng, ours = np.random.default_rng(1), TargetFilter()
    ours.start(POSE)
    targets = [ours.step(0.005, apply_delta(POSE, rng.normal(0, 1e-3, 6))) for _ in range(20)]
    assert all(np.array_equal(target, targets[0]) for target in targets)


@pytest.mark.parametrize("name", ["translational_ki", "rotational_ki"])
def test_an_integral_gain_is_refused(name):
    """Guards against a gain that is accepted and does nothing."""
    with pytest.raises(RobotError, match=f"{name} 3.*no integral"):
        check(Compliance(**{name: 3.0}))


def test_our_kinematics_are_the_makers():
    """Guards the home pose that clients are told: the hand points down, half a metre ahead."""
    np.testing.assert_allclose(tcp_pose(HOME_Q, FRANKA_HAND), POSE, atol=1e-9)
