import mujoco
import numpy as np
import pytest

from robot_servers.scenes import load_scene
from robot_servers.scenes.base import set_free_pose

SCENE = load_scene("handover")
RIGHT_TCP = np.array([0.62, 0.0, 0.2])  # m, world frame, both arms at home
GRIP = 0.085  # m from the bar's centre to either grip
CLOSED, OPEN = 0.0, 0.04  # m, each finger's way


def at_home(below: float, right: float):
    """Both arms at home and weightless, the bar's right grip ``below`` m below the right TCP, and its gripper told."""
    model = SCENE.build()
    model.opt.gravity[:] = 0.0
    data = mujoco.MjData(model)
    for mount in SCENE.mounts.values():
        first = model.joint(f"{mount.prefix}joint1").qposadr[0]
        data.qpos[first : first + 7] = SCENE.home_q
        for side in ("left", "right"):
            data.qpos[model.joint(f"{mount.prefix}{side}_finger").qposadr[0]] = OPEN
        data.ctrl[model.actuator(f"{mount.prefix}gripper").id] = OPEN
    set_free_pose(model, data, "bar", RIGHT_TCP - [GRIP, 0.0, below], 0.0)
    data.ctrl[model.actuator("right_gripper").id] = right
    mujoco.mj_step(model, data, 250)
    return model, data


@pytest.mark.parametrize("below", [-0.033, 0.0, 0.005, 0.02])
def test_a_bar_between_the_right_fingers_has_been_passed(below):
    """Guards success against asking for the very middle of the grip: a bar held beside it was once never a success,
    and neither the policy nor its operator could do anything about it any more."""
    model, data = at_home(below, CLOSED)
    truth = SCENE.ground_truth(model, data)
    assert truth["right_holds"] is True and truth["left_holds"] is False and truth["success"] is True


def test_fingers_that_close_above_a_bar_do_not_hold_it():
    """Guards what the scripted person counts on: from so far above, closing fingers must be opened again."""
    truth = SCENE.ground_truth(*at_home(0.025, CLOSED))
    assert truth["right_holds"] is False


def test_a_bar_that_nobody_holds_has_not_been_passed():
    """Guards against a success while the bar falls past open fingers."""
    model, data = at_home(0.0, OPEN)
    truth = SCENE.ground_truth(model, data)
    assert truth["right_holds"] is False and truth["success"] is False


def test_a_bar_that_the_left_hand_still_holds_has_not_been_passed():
    """Guards against a success before the left hand lets go, wherever along the bar it holds it."""
    model, data = at_home(0.0, CLOSED)
    set_free_pose(model, data, "bar", np.array([0.5, 0.0, 0.2]), 0.0)  # both TCPs are 12 cm from its middle
    data.ctrl[:] = [CLOSED if "gripper" in model.actuator(i).name else 0.0 for i in range(model.nu)]
    for side in ("left", "right"):
        data.qpos[model.joint(f"right_{side}_finger").qposadr[0]] = OPEN
    mujoco.mj_step(model, data, 250)
    truth = SCENE.ground_truth(model, data)
    assert truth["left_holds"] is True and truth["right_holds"] is True and truth["success"] is False
