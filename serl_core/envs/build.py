"""One place where the environment is put together, so that training and evaluation cannot differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from robot_servers.interface import Robot
from serl_core.clock import Clock
from serl_core.config import ConfigError, Observation, Task, Truth
from serl_core.envs.goals import EpisodeGoal, WithGoal
from serl_core.envs.pair_env import Local, PairEnv, same_clock
from serl_core.envs.rewards import Judge, Judged
from serl_core.envs.robot_env import RobotEnv
from serl_core.envs.takeover import Takeover
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.envs.wrappers import GraspPenalty
from serl_core.pairs import AnyTask
from serl_core.teleop.device import Device


def build_env(
    task: AnyTask,
    robot: Robot,
    *partners: Robot,
    obs: Observation,
    clock: Clock,
    truth: Callable[[], Truth] | None = None,
    judge: Judge | None = None,
    device: Device | None = None,
    takeover: TakeoverConfig | None = None,
    ask: Callable[[str], None] | None = None,
    goal: EpisodeGoal | None = None,
    local: Sequence[Local] = (),
    stop: Callable[[], bool] = lambda: False,
) -> gym.Env[Any, Any]:
    """The task on a connected robot: robot, goal if it has one, gripper penalty, takeover with a device, judge.

    ``partners``: the robots of a task's further arms; ``local`` as of `PairEnv`, by default they share a clock.
    ``truth`` enters observations only if ``obs`` is "state" and the task has privileged entries; it is needed then
    (`ConfigError`). ``stop`` ends the waits of a reset.
    """
    robots = (robot, *partners)
    if len(robots) != len(task.arms):
        raise ConfigError(f"the task {task.name} is one of {len(task.arms)} arms, not of {len(robots)}")
    env: gym.Env[Any, Any]
    if isinstance(task, Task):
        env = RobotEnv(robot, task, clock, obs, truth, ask, stop)
    else:
        env = PairEnv(robots, task, clock, obs, truth, ask, local or (same_clock, same_clock), stop)
    if goal is not None:
        env = WithGoal(env, goal)
    if task.grippers:
        penalties = [arm.grasp_penalty for arm in task.arms]
        env = GraspPenalty(env, penalties if len(penalties) > 1 else penalties[0])
    if device is not None:
        env = Takeover(env, device, task, takeover, waits=lambda: _wait(robots, clock, stop))
    return Judged(env, judge)


def _wait(robots: Sequence[Robot], clock: Clock, stop: Callable[[], bool]) -> bool:
    """One period without a command, and whether to wait on. Silence would give the robots to whoever comes."""
    for robot in robots:
        robot.status()
    clock.tick()
    return not stop()
