import numpy as np
from env_parts import REACH, Arm

from serl_core.envs.robot_env import RobotEnv
from serl_core.envs.wrappers import GraspPenalty


def test_only_a_toggle_of_the_gripper_costs():
    """Guards the gripper critic: repeating a command or leaving the gripper alone must stay free."""
    arm = Arm()
    env = GraspPenalty(RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth), REACH.grasp_penalty)
    env.reset(seed=0)
    commands = [1.0, 0.0, -1.0, -1.0, 0.2, 1.0, -0.4]
    costs = [env.step(np.array([0, 0, 0, command], np.float32))[4]["grasp_penalty"] for command in commands]
    assert costs == [0.0, 0.0, -0.02, 0.0, 0.0, -0.02, 0.0]


def test_a_new_episode_begins_with_an_open_gripper_for_free():
    """Guards the first step after an episode that ended with the gripper closed."""
    arm = Arm()
    env = GraspPenalty(RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth), REACH.grasp_penalty)
    env.reset(seed=0)
    env.step(np.array([0, 0, 0, -1], np.float32))
    obs, _ = env.reset(seed=1)
    assert obs["state"][22] == 1.0
    assert env.step(np.zeros(4, np.float32))[4]["grasp_penalty"] == 0.0
