from types import SimpleNamespace

import numpy as np
import pytest
from env_parts import REACH, Arm

from robot_servers.geometry import apply_delta
from serl_core.envs.build import build_env
from serl_core.envs.goals import EpisodeGoal
from serl_core.envs.rewards import PoseJudge
from serl_core.tasks import load_task

GOAL = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])


def draw(rng: np.random.Generator) -> np.ndarray:
    return apply_delta(GOAL, np.append(rng.uniform(-0.1, 0.1, 3), np.zeros(3)))


@pytest.mark.parametrize(
    "delta, success",
    [
        ((0.009, 0, 0, 0, 0, 0), True),
        ((0, -0.011, 0, 0, 0, 0), False),
        ((0, 0, 0, 0, 0.09, 0), True),
        ((0, 0, 0, 0, 0, 0.11), False),
    ],
)
def test_near_enough_in_place_and_in_turn_is_success(delta, success):
    """Guards the measure: both count, and a success ends the episode with reward 1."""
    judge = PoseJudge(lambda: GOAL, distance=0.01, angle=0.1)
    pose = apply_delta(GOAL, np.array(delta, float))
    verdict = judge.judge({}, {"state": SimpleNamespace(pose=pose)})
    assert (verdict.success, verdict.terminated, verdict.reward) == (success, success, float(success))


def test_a_quaternion_and_its_negative_are_the_same_goal():
    """Guards an arm that points down, where measured quaternions change their sign."""
    judge = PoseJudge(lambda: GOAL, distance=0.01, angle=0.1)
    pose = np.append(GOAL[:3], -GOAL[3:])
    assert judge.judge({}, {"state": SimpleNamespace(pose=pose)}).success


def test_the_seed_decides_the_goal_before_the_first_observation():
    """Guards evaluations: the same seed, the same goal, and the first observation already belongs to it."""
    arm, goal = Arm(), EpisodeGoal(draw)
    seen = []

    def truth():
        seen.append(goal.pose().copy())
        return {**arm.truth(), **goal.truth()}

    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=truth, goal=goal)
    firsts = []
    for seed in (1, 2, 1):
        seen.clear()
        env.reset(seed=seed)
        firsts.append(goal.pose().copy())
        assert np.array_equal(seen[0], goal.pose())
    np.testing.assert_array_equal(firsts[0], firsts[2])
    assert not np.array_equal(firsts[0], firsts[1])


def test_every_goal_of_reach_lies_within_its_limits():
    """Guards against goals that the guard keeps the arm away from."""
    task, rng = load_task("reach"), np.random.default_rng(0)
    assert task.goals is not None
    for _ in range(1000):
        pose = task.goals(rng)[:3]
        assert (pose - task.goal_distance > task.limits.box_low).all()
        assert (pose + task.goal_distance < task.limits.box_high).all()
