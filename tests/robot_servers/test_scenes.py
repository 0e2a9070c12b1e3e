import mujoco
import numpy as np
import pytest

from robot_servers.interface import RobotError
from robot_servers.scenes import SCENES, load_scene, peg_insertion

ALL = sorted(SCENES)


@pytest.mark.parametrize("name", ALL)
def test_nothing_moves_the_arm_or_the_objects_but_forces(name):
    """Guards against mocap bodies and welds, which would make grasping and insertion a fiction."""
    model = load_scene(name).build()
    assert model.nmocap == 0
    assert set(model.eq_type.tolist()) == {mujoco.mjtEq.mjEQ_JOINT}  # the two fingers' coupling
    assert model.nmesh == 0


def test_an_unknown_scene_is_answered_with_the_nearest_name():
    """Guards against a bare KeyError after a typing error."""
    with pytest.raises(RobotError, match='unknown scene "pick_cub"; did you mean "pick_cube"'):
        load_scene("pick_cub")
    with pytest.raises(RobotError, match="known: handover, peg_insertion, pick_cube, reach"):
        load_scene("zzz")


def test_forward_kinematics_match_the_published_dimensions():
    """Guards against a wrong Denavit-Hartenberg frame: the ready pose of the real arm is documented."""
    model = load_scene("reach").build()
    data = mujoco.MjData(model)
    data.qpos[:7] = [0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.site("tcp").xpos, [0.30689, 0.0, 0.48688], atol=1e-4)
    np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3), np.diag([1, -1, -1]), atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_home_points_down_inside_the_limits(name):
    """Guards against a home pose that the guard itself would refuse."""
    scene = load_scene(name)
    model = scene.build()
    data = mujoco.MjData(model)
    data.qpos[:7] = scene.home_q
    mujoco.mj_kinematics(model, data)
    position = data.site("tcp").xpos
    assert np.all(position > scene.limits.box_low) and np.all(position < scene.limits.box_high)
    np.testing.assert_allclose(data.body("hand").xquat, [0, 1, 0, 0], atol=1e-9)
    assert np.all(model.jnt_range[:7, 0] < scene.home_q) and np.all(scene.home_q < model.jnt_range[:7, 1])


@pytest.mark.parametrize("seed", range(20))
def test_objects_are_placed_inside_their_field_and_depend_on_the_seed(seed):
    """Guards against a scene that is always the same, or out of reach."""
    scene = load_scene("pick_cube")
    model = scene.build()
    data = mujoco.MjData(model)
    cubes = []
    for number in (seed, seed + 1):
        scene.place(model, data, np.random.default_rng(number))
        mujoco.mj_forward(model, data)
        truth = scene.ground_truth(model, data)
        cubes.append(truth["cube"])
        assert truth["success"] is False
    assert 0.4 <= cubes[0][0] <= 0.6 and -0.1 <= cubes[0][1] <= 0.1 and cubes[0][2] == pytest.approx(0.02)
    assert np.abs(cubes[0][:2] - cubes[1][:2]).max() > 1e-4


def rays_from_the_hole_axis(model, data, height, count=720):
    centre = data.body("hole").xpos + np.array([0.0, 0.0, height])
    geom = np.zeros(1, np.int32)
    angles = np.arange(count) * 2 * np.pi / count
    rays = [np.array([np.cos(a), np.sin(a), 0.0]) for a in angles]
    return np.array([mujoco.mj_ray(model, data, centre, ray, None, 1, -1, geom) for ray in rays])


def test_the_hole_is_17_mm_wide_with_a_chamfer():
    """Guards against a hole that the peg cannot enter, or that is wider than the task says."""
    scene = load_scene("peg_insertion")
    model = scene.build()
    data = mujoco.MjData(model)
    data.qpos[model.joint("peg").qposadr[0] + 2] = 0.5  # out of the way
    mujoco.mj_forward(model, data)
    deep = rays_from_the_hole_axis(model, data, -0.010)
    assert deep.min() == pytest.approx(0.0085, abs=1e-6) and deep.max() < 0.0087
    middle = rays_from_the_hole_axis(model, data, -0.00075)
    assert middle.min() == pytest.approx(0.00925, abs=1e-5)
    assert rays_from_the_hole_axis(model, data, -0.0001).min() == pytest.approx(0.0099, abs=1e-5)
    clearance = 2 * (peg_insertion.HOLE_RADIUS - peg_insertion.PEG_RADIUS)
    assert clearance == pytest.approx(0.001)
