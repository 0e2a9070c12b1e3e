from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from env_parts import REACH, Arm
from gymnasium.utils.env_checker import check_env

from robot_servers.interface import AskPerson, NotOwner, RobotError
from serl_core.config import ConfigError
from serl_core.envs.robot_env import RobotEnv, action_space, observation_space

MOVING = ("time", "state", "sent", "accepted")  # what info says of the time
STAY = np.zeros(4, np.float32)


def make(arm: Arm, task=REACH, obs="state", **options) -> RobotEnv:
    return RobotEnv(arm.robot, task, arm.clock(task), obs, arm.truth if obs == "state" else None, **options)


class Timeless(gym.Wrapper):
    """Hides the robot's clock, which never goes back, from a checker that wants everything to repeat."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, {k: v for k, v in info.items() if k not in MOVING}


@pytest.mark.filterwarnings("ignore:.*(infinity|different from the unwrapped).*")
def test_gymnasium_accepts_the_environment():
    """Guards the contract with every library that speaks Gymnasium: spaces, dtypes, seeding."""
    env = make(Arm(lag=1e-4))  # no lag: the same seed gives exactly the same episode …
    check_env(Timeless(env), skip_render_check=True)


def test_spaces_are_known_without_a_robot():
    """Guards the learner's start: it builds its networks before any robot is there."""
    assert observation_space(REACH, "state")["state"].shape == (26,)
    assert observation_space(REACH, "pixels")["state"].shape == (23,)
    assert observation_space(REACH, "pixels")["front"].shape == (128, 128, 3)
    assert action_space(REACH).shape == (4,)
    assert observation_space(replace(REACH, gripper=False), "state")["state"].shape == (25,)


def test_pictures_need_no_ground_truth_and_states_do():
    """Guards against privileged knowledge in a pixel policy, and against a state policy that silently lacks it."""
    arm = Arm(("front",))
    env = make(arm, obs="pixels")
    obs, info = env.reset(seed=0)
    assert obs in env.observation_space and "truth" not in info
    with pytest.raises(ConfigError, match="ground truth"):
        RobotEnv(arm.robot, REACH, arm.clock(), "state")


def test_a_missing_camera_ends_the_reset_with_its_name():
    """Guards against a crash far from its cause when a camera is not plugged in."""
    with pytest.raises(RobotError, match="camera front"):
        make(Arm(), obs="pixels").reset(seed=0)


def test_the_time_limit_truncates():
    """Guards bootstrapping: a time limit is not a failure."""
    env = make(Arm(), replace(REACH, max_steps=3))
    env.reset(seed=0)
    ends = [env.step(STAY)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_the_target_is_the_measured_pose_plus_the_scaled_delta():
    """Guards the bound on the pressing force: targets never pile up on targets."""
    env = make(Arm())
    _, before = env.reset(seed=0)
    for _ in range(5):
        _, _, _, _, info = env.step(np.array([1, 0, 0, 0], np.float32))
        ahead = np.array([REACH.step_translation, 0, 0])  # for a hand that points down, x is x of the base
        np.testing.assert_allclose(info["target"][:3], before["state"].pose[:3] + ahead, atol=1e-6)
        before = info


def test_observations_begin_at_the_origin_of_the_episode():
    """Guards the relative frame and the order of entries that policies are trained with."""
    env = make(Arm())
    obs, _ = env.reset(seed=0)
    np.testing.assert_allclose(obs["state"][:9], [0, 0, 0, 1, 0, 0, 0, 1, 0], atol=1e-6)
    for _ in range(5):
        obs, *_ = env.step(np.array([0, 0, 1, -1], np.float32))
    assert obs["state"][2] > 0.02 and abs(obs["state"][0]) < 1e-3  # z of the TCP points down
    assert obs["state"][11] > 0.02  # so does its velocity
    assert obs["state"][22] == 0.0 and obs["state"][21] < 0.5  # gripper: commanded and measured


def test_the_same_seed_gives_the_same_start():
    """Guards repeatability: evaluation episodes are named by their seeds."""
    env = make(Arm())
    first, again, other = (env.reset(seed=seed)[0]["state"] for seed in (3, 3, 4))
    np.testing.assert_allclose(first, again, atol=0.01)  # as near as this arm's reset motion ends
    assert np.abs(first - other)[-3:].max() > 0.01


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, np.nan, 0, 0], r"action\[1\] \(y\) is nan"),
        ([0, 0, 0, np.inf], r"action\[3\] \(gripper\) is inf"),
        ([1.5, 0, 0, 0], r"action\[0\] \(x\) is 1.5"),
        ([0, 0, 0], r"shape \(3,\)"),
    ],
)
def test_an_action_that_cannot_be_meant_is_an_error_and_moves_nothing(action, message):
    """Guards the arm against a diverged policy."""
    arm = Arm()
    env = make(arm)
    env.reset(seed=0)
    commands = arm.robot.status().commands
    with pytest.raises(ValueError, match=message):
        env.step(np.array(action, np.float32))
    assert arm.robot.status().commands == commands


def test_a_refused_command_truncates_and_holds():
    """Guards the actor's loop: a refusal ends the episode, not the program, and the arm stays where it is."""
    arm = Arm()
    env = make(arm)
    env.reset(seed=0)
    arm.robot.advance(1.0)  # the observation is too old by now
    _, reward, terminated, truncated, info = env.step(np.ones(4, np.float32))
    assert (reward, terminated, truncated) == (0.0, False, True) and "stale" in info["abort"]
    assert arm.robot.status().mode == "holding"
    env.reset(seed=1)
    assert "abort" not in env.step(STAY)[4]


def test_an_actor_that_lost_the_robot_leaves_the_new_owner_alone():
    """Guards the next program: a hold is open to everyone, and would stop it."""

    def lost(command):
        raise NotOwner("the robot is in the hands of host:7")

    arm = Arm()
    env = make(arm)
    env.reset(seed=0)
    arm.robot.command = lost
    _, _, _, truncated, info = env.step(STAY)
    assert truncated and "host:7" in info["abort"]
    assert arm.robot.status().mode == "idle"


@pytest.mark.parametrize(
    ("interruption", "mode"), [(KeyboardInterrupt(), "holding"), (NotOwner("somebody else's"), "resetting")]
)
def test_a_wait_for_the_reset_that_is_interrupted_ends_the_reset(interruption, mode):
    """Guards against an arm that drives on in a reset after Ctrl-C, and against ending the new owner's reset."""

    def interrupted(seconds):
        raise interruption

    arm = Arm()
    arm.robot.advance = interrupted
    env = make(arm)
    with pytest.raises(type(interruption)):
        env.reset(seed=0)
    assert arm.robot.status().mode == mode


def test_a_driver_that_fails_truncates_and_the_next_reset_says_why():
    """Guards against an endless loop on a broken robot."""
    arm = Arm()
    env = make(arm)
    env.reset(seed=0)
    arm.driver.failure = OSError("cable unplugged")
    _, _, terminated, truncated, info = env.step(STAY)
    assert truncated and not terminated and "cable unplugged" in info["abort"]
    with pytest.raises(RobotError, match="cable unplugged"):
        env.reset(seed=1)


def test_after_a_stop_the_next_episode_waits_for_a_person():
    """Guards both ways: an actor that gives up for the day, and one that drives on without being allowed to."""
    arm, questions = Arm(), []

    def ask(question: str) -> None:
        questions.append(question)
        arm.robot.recover()

    env = RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth, ask)
    env.reset(seed=0)
    arm.robot.stop("a hand is in the way")
    _, _, terminated, truncated, info = env.step(STAY)
    assert truncated and not terminated and "a hand is in the way" in info["abort"]
    env.reset(seed=1)
    assert questions == ["the robot is in mode stopped: a hand is in the way; when it is safe: serl recover"]
    assert "abort" not in env.step(STAY)[4]


def test_a_question_of_the_reset_reaches_the_person_once():
    """Guards resets that need a person: asked once, waited for, and not against the time limit."""

    arm, questions = Arm(), []
    reset = arm.robot.reset
    arm.robot.reset = lambda plan: reset((AskPerson("put the peg back"), *plan))

    def ask(question: str) -> None:
        questions.append(question)
        arm.robot.confirm()

    RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth, ask).reset(seed=0)
    assert questions == ["put the peg back"]


def test_a_target_outside_of_the_task_is_bent_and_said_so():
    """Guards the task's own workspace, which is smaller than what the robot's guard allows."""
    low = replace(
        REACH, limits=replace(REACH.limits, box_low=(0.25, -0.4, 0.39)), start=replace(REACH.start, noise=(0,) * 3)
    )
    env = make(Arm(), low)
    env.reset(seed=0)
    info = env.step(np.array([0, 0, 1, 0], np.float32))[4]
    assert info["bent"] and info["target"][2] == pytest.approx(0.39)
    assert [limit for limit, _, _ in info["bends"]] == ["box z"]
    assert info["bends"][0][1] < 0.39 == info["bends"][0][2]
