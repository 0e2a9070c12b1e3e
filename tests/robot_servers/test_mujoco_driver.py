import numpy as np
import pytest

from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.geometry import quat_angle
from robot_servers.impedance import TORQUE_LIMITS
from robot_servers.interface import Compliance, RobotError

DOWN = [1.0, 0.0, 0.0, 0.0]


@pytest.fixture
def connect():
    drivers = []

    def make(scene, **options):
        driver = MujocoDriver(scene, **options)
        driver.connect()
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        driver.close()


def up(metres):
    return np.array([0.0, 0.0, metres])


def move(driver, position, gripper, seconds, watch=None):
    """Lead the TCP on a straight line for 70 % of the time, then wait there."""
    start = driver.state().pose[:3]
    cycles = round(seconds * driver.cycle_hz)
    for number in range(1, cycles + 1):
        part = min(1.0, number / (0.7 * cycles))
        driver.track(np.array([*(start + part * (position - start)), *DOWN]), gripper)
        driver.cycle()
        if watch is not None:
            watch(driver.state())


def episode(driver, seed):
    """Every number that an episode shows, while the arm moves and touches things."""
    driver.place_objects(seed)
    record = []

    def watch(state):
        truth = [value for name, value in driver.ground_truth().items() if name != "success"]
        record.append(np.concatenate([state.pose, state.vel, state.force, state.torque, state.q, state.dq, *truth]))

    move(driver, np.array([0.5, 0.01, 0.07]), 0.0, 0.5, watch)
    return np.array(record)


@pytest.mark.parametrize("scene", ["pick_cube", "peg_insertion"])
def test_the_same_seed_gives_the_same_episode_to_the_last_bit(connect, scene):
    """Guards against state that survives a reset: warm starts, filters, torques, moved bodies, gripper commands."""
    driver = connect(scene)
    first = episode(driver, 3)
    other = episode(driver, 4)
    driver.track(np.array([0.45, 0.1, 0.3, *DOWN]), 0.5)
    for _ in range(7):
        driver.cycle()
    assert np.array_equal(episode(driver, 3), first)
    assert np.array_equal(episode(connect(scene), 3), first)
    assert not np.array_equal(other, first)


def test_time_never_runs_backwards_and_counts_cycles_exactly(connect):
    """Guards against a watchdog that sees negative ages after a reset."""
    driver = connect("reach")
    times = []
    for seed in range(3):
        driver.place_objects(seed)
        times.append(driver.state().time)
        driver.cycle()
        times.append(driver.state().time)
        assert times[-1] - times[-2] == pytest.approx(1 / driver.cycle_hz, abs=1e-12)
    assert np.all(np.diff(times) > 0)


def test_realtime_measurements_carry_the_clock_that_was_passed_in(connect):
    """Guards against simulated time in a state that the guard compares with wall-clock time."""
    driver = connect("reach", clock="realtime", now=lambda: 123.5)
    driver.cycle()
    assert driver.state().time == 123.5


def test_free_motion_is_tracked_and_keeps_its_orientation(connect):
    """Guards against a pure translation that turns the hand (wrong Jacobian rows, wrong error frame)."""
    driver = connect("reach")
    home = driver.state().pose
    turns, sides = [], []

    def watch(state):
        turns.append(quat_angle(state.pose[3:], home[3:]))
        sides.append(np.abs(state.pose[:2] - home[:2]).max())

    move(driver, home[:3] - up(0.1), None, 3.0, watch)
    assert max(turns) < 0.01
    assert max(sides) < 0.001
    assert driver.state().pose[2] == pytest.approx(home[2] - 0.1, abs=0.001)
    assert np.abs(driver.state().force).max() < 0.1
    move(driver, np.array([0.6, 0.1, 0.25]), None, 3.0)
    np.testing.assert_allclose(driver.state().pose[:3], [0.6, 0.1, 0.25], atol=0.001)


def test_a_commanded_rotation_is_reached(connect):
    """Guards against a rotational error of the wrong sign or in the wrong frame."""
    driver = connect("reach")
    pose = driver.state().pose
    turned = np.array([*pose[:3], np.cos(0.15), np.sin(0.15), 0.0, 0.0])  # 0.3 rad about the base's z axis
    driver.track(turned, None)
    for _ in range(300):
        driver.cycle()
    assert quat_angle(driver.state().pose[3:], turned[3:]) < 0.01
    np.testing.assert_allclose(driver.state().pose[:3], pose[:3], atol=0.002)


@pytest.mark.parametrize("clip", [0.004, 0.01])
def test_pressing_on_the_table_never_exceeds_stiffness_times_clip(connect, clip):
    """Guards against reference limiting that does not limit; the force is read in the TCP frame, z down."""
    driver = connect("reach")
    driver.set_compliance(Compliance(translational_clip=(0.01, 0.01, clip)))
    forces = []
    move(driver, np.array([0.5, 0.0, 0.05]), 0.0, 2.0)
    move(driver, np.array([0.5, 0.0, -0.10]), 0.0, 3.0, lambda state: forces.append(state.force))
    assert driver.state().force[2] == pytest.approx(-2000 * clip, rel=0.05)
    assert np.linalg.norm(forces, axis=1)[-50:].max() < 2000 * clip * 1.05


def test_motor_torques_stay_within_limits(connect):
    """Guards against a simulated arm that is stronger than the real one."""
    driver = connect("reach")
    driver.set_compliance(Compliance(translational_stiffness=2e4, translational_clip=(0.1,) * 3))
    driver.track(np.array([0.7, 0.3, 0.1, *DOWN]), None)
    for _ in range(100):
        driver.cycle()
        assert np.all(np.abs(driver.bench.data.actuator_force[:7]) <= TORQUE_LIMITS)


def test_gripper_closes_and_opens_again_in_its_own_numbers(connect):
    """Guards against a gripper whose 0 and 1 are swapped, or that sticks."""
    driver = connect("reach")
    pose = driver.state().pose
    for wanted in (0.0, 1.0, 0.5, 0.0, 1.0):
        driver.track(pose, wanted)
        for _ in range(100):
            driver.cycle()
        assert driver.state().gripper == pytest.approx(wanted, abs=0.02)
    driver.track(pose, None)
    driver.cycle()
    assert driver.state().gripper == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_the_cube_can_be_grasped_and_lifted(connect, seed):
    """Guards against fingers that slip, and against a success rule that never fires or fires too early."""
    driver = connect("pick_cube")
    driver.place_objects(seed)
    cube = driver.ground_truth()["cube"][:3]
    move(driver, cube + up(0.1), 1.0, 1.5)
    move(driver, cube, 1.0, 1.5)
    move(driver, cube, 0.0, 0.6)
    assert not driver.ground_truth()["success"]
    move(driver, cube + up(0.15), 0.0, 2.0)
    assert driver.ground_truth()["success"]
    move(driver, driver.state().pose[:3], 1.0, 1.0)
    assert not driver.ground_truth()["success"]


@pytest.mark.parametrize("seed", range(3))
def test_the_peg_can_be_inserted(connect, seed):
    """Guards against a hole that cannot be entered, and a success rule that fires outside it."""
    driver = connect("peg_insertion")
    driver.place_objects(seed)
    truth = driver.ground_truth()
    above = truth["hole"][:3] + driver.state().pose[:3] - truth["peg"][:3]
    move(driver, above + up(0.02), 0.0, 1.5)
    assert not driver.ground_truth()["success"]
    move(driver, above - up(0.022), 0.0, 2.5)
    assert driver.ground_truth()["success"]


def test_a_peg_beside_the_hole_is_stopped_and_stays_in_the_hand(connect):
    """Guards against a peg that sinks into the block, slips through the fingers or turns under 20 N."""
    driver = connect("peg_insertion")
    driver.place_objects(3)
    truth = driver.ground_truth()
    grasp = driver.state().pose[:3] - truth["peg"][:3]
    beside = truth["hole"][:3] + grasp + [0.018, 0.0, 0.0]
    move(driver, beside + up(0.01), 0.0, 1.5)
    move(driver, beside - up(0.02), 0.0, 4.0)
    state, truth = driver.state(), driver.ground_truth()
    assert state.force[2] < -10.0
    assert truth["peg"][2] == pytest.approx(truth["hole"][2], abs=0.0005)
    np.testing.assert_allclose(state.pose[:3] - truth["peg"][:3], grasp, atol=0.001)
    assert quat_angle(truth["peg"][3:], np.array([0.0, 0.0, 0.0, 1.0])) < 0.02
    assert not truth["success"]


def test_the_peg_does_not_creep_out_of_the_hand(connect):
    """Guards against the slow slip of soft friction during a long episode."""
    driver = connect("peg_insertion")
    grasp = driver.state().pose[2] - driver.ground_truth()["peg"][2]
    for _ in range(1000):
        driver.cycle()
    assert driver.state().pose[2] - driver.ground_truth()["peg"][2] == pytest.approx(grasp, abs=1e-4)


def test_joint_reset_brings_the_arm_home_and_leaves_a_held_peg_alone(connect):
    """Guards against a reset that drops what the arm holds, or keeps pushing to the old target."""
    driver = connect("peg_insertion")
    driver.place_objects(1)
    peg = driver.ground_truth()["peg"]
    assert driver.joint_reset()
    np.testing.assert_array_equal(driver.ground_truth()["peg"], peg)
    move(driver, np.array([0.45, 0.1, 0.25]), None, 1.0)
    assert driver.joint_reset()
    driver.cycle()
    np.testing.assert_allclose(driver.state().pose, driver.home_pose, atol=1e-4)


@pytest.mark.parametrize("view", ["q", "dq"])
def test_unstable_physics_is_an_error(connect, view, monkeypatch, tmp_path):
    """Guards against MuJoCo starting over by itself: the arm would be home again without a word."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log there
    driver = connect("reach")
    getattr(driver.arm, view)[3] = 1e12
    with pytest.raises(RobotError, match="unstable"):
        driver.cycle()
    driver.place_objects(0)
    driver.cycle()


def test_an_arm_told_to_stop_stays_where_it_is(connect):
    """Guards against an arm that goes on to its last target when nobody leads it any more."""
    driver = connect("reach")
    driver.track(np.array([0.6, 0.2, 0.2, *DOWN]), None)
    for _ in range(20):
        driver.cycle()
    driver.stop()
    here = driver.state().pose[:3]
    for _ in range(200):
        driver.cycle()
    np.testing.assert_allclose(driver.state().pose[:3], here, atol=0.03)


def test_wrong_arguments_are_answered_before_anything_opens():
    """Guards against a bare KeyError deep inside the simulator."""
    with pytest.raises(RobotError, match="did you mean"):
        MujocoDriver("peg_insertoin")
    with pytest.raises(RobotError, match="this scene has: front, wrist"):
        MujocoDriver("reach", cameras=("wirst",))
    with pytest.raises(RobotError, match="multiple of cycle_hz"):
        MujocoDriver("reach", cycle_hz=130.0)
    with pytest.raises(RobotError, match="connect"):
        MujocoDriver("reach").state()
