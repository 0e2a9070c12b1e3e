from dataclasses import replace

import numpy as np
import pytest

from robot_servers.__main__ import build_all
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import RobotError
from robot_servers.server import ServedRobot
from serl_core.clock import LockstepClock
from serl_core.config import ConfigError
from serl_core.session import Session, make_env, together
from serl_core.tasks import known_tasks, load_task
from serl_core.teleop.scripted import OperatorConfig

mujoco = pytest.importorskip("robot_servers.drivers.mujoco")

TASKS = known_tasks()


@pytest.fixture
def connect():
    """Connects the robots of a task's scene, one for each of its arms."""
    opened = []

    def make(task) -> tuple[ServedRobot, ...]:
        for robot in build_all("mujoco", task.scene, "lockstep", (), None):
            robot.connect()
            opened.append(robot)
        return tuple(opened)

    yield make
    for robot in opened:
        robot.close()


def make(task, robots, operator: OperatorConfig | None = None):
    clock = LockstepClock(1.0 / task.control_hz, robots[0].advance)
    truth = together(task, [robot.ground_truth for robot in robots])
    return make_env(Session(robots[0], clock, truth, robots[1:]), task, "state", operator, seed=0)


def test_an_unknown_task_names_the_nearest():
    """Guards against a stack trace for a typing error."""
    with pytest.raises(ConfigError, match='did you mean "pick_cube"'):
        load_task("pick_cub")
    assert {"pick_cube", "peg_insertion"} <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_the_scripted_person_solves_the_task(name, connect):
    """Guards demonstrations and corrections: scene, way-points, compliance and operator fit together."""
    task = load_task(name)
    env = make(task, connect(task), OperatorConfig("always"))
    for seed in range(5 // len(task.arms)):  # two arms take three times as long
        env.reset(seed=seed)
        ended, info = False, {}
        while not ended:
            *_, terminated, truncated, info = env.step(np.zeros(task.action_dim, np.float32))
            ended = terminated or truncated
        assert info["success"], f"seed {seed}"


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_episode(name, connect):
    """Guards repeatability: bit for bit, whatever happened before."""
    task = load_task(name)
    env = make(task, connect(task))

    def episode(seed: int) -> np.ndarray:
        actions = np.random.default_rng(seed).uniform(-1, 1, (15, task.action_dim)).astype(np.float32)
        seen = [env.reset(seed=seed)[0]["state"]]
        return np.array(seen + [env.step(action)[0]["state"] for action in actions])

    first, other, again = episode(1), episode(2), episode(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("name", TASKS)
def test_no_episode_begins_solved(name, connect):
    """Guards the measure: doing nothing must not count as success."""
    task = replace(load_task(name), max_steps=5)
    env = make(task, connect(task))
    for seed in range(5):
        env.reset(seed=seed)
        assert not any(env.step(np.zeros(task.action_dim, np.float32))[2] for _ in range(5))


@pytest.mark.parametrize("name", TASKS)
def test_the_start_lies_within_the_task(name):
    """Guards resets: no start pose may be one that the guard refuses to drive to."""
    for task in load_task(name).arms:
        centre, noise = np.array(task.start.pose[:3]), np.array(task.start.noise)
        assert np.all(centre - noise > task.limits.box_low) and np.all(centre + noise < task.limits.box_high)


@pytest.mark.parametrize("name", TASKS)
def test_no_action_of_the_task_is_bent_by_its_own_step(name):
    """Guards the meaning of actions: within the box, full speed along a diagonal is what the robot is told."""
    for task in load_task(name).arms:
        moved = sum(axis in ("x", "y", "z") for axis in task.axes)
        turned = len(task.axes) - moved
        assert task.step_translation * moved**0.5 <= task.limits.step
        assert task.step_rotation * turned**0.5 <= task.limits.turn


@pytest.mark.parametrize("name", TASKS)
def test_the_limits_of_the_task_lie_within_the_scene(name, connect):
    """Guards the first minute: a robot refuses a task that is looser than itself."""
    task = load_task(name)
    for arm, robot in zip(task.arms, connect(task), strict=True):
        robot.tighten(arm.limits)


def test_a_robot_that_is_not_connected_says_so():
    """Guards the first error a newcomer meets."""
    task = load_task("pick_cube")
    with pytest.raises(RobotError, match="connect"):
        make(task, (GuardedRobot(mujoco.MujocoDriver(task.scene)),)).reset(seed=0)
