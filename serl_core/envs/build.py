"""One place where the environment is put together, so that training and evaluation cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from robot_servers.interface import Robot
from serl_core.clock import Clock
from serl_core.config import Observation, Task, Truth
from serl_core.envs.goals import EpisodeGoal, WithGoal
from serl_core.envs.rewards import Judge, Judged
from serl_core.envs.robot_env import RobotEnv
from serl_core.envs.takeover import Takeover, TakeoverConfig
from serl_core.envs.wrappers import GraspPenalty
from serl_core.teleop.device import Device


def build_env(
    task: Task,
    robot: Robot,
    *,
    obs: Observation,
    clock: Clock,
    truth: Callable[[], Truth] | None = None,
    judge: Judge | None = None,
    device: Device | None = None,
    takeover: TakeoverConfig | None = None,
    ask: Callable[[str], None] | None = None,
    goal: EpisodeGoal | None = None,
) -> gym.Env[Any, Any]:
    """The task on a connected robot: robot, goal if it has one, gripper penalty, takeover with a device, judge.

    ``truth`` enters observations only if ``obs`` is "state" and the task has privileged entries; it is needed then
    (`ConfigError`).
    """
    env: gym.Env[Any, Any] = RobotEnv(robot, task, clock, obs, truth, ask)
    if goal is not None:
        env = WithGoal(env, goal)
    if task.gripper:
        env = GraspPenalty(env, task.grasp_penalty)
    if device is not None:
        env = Takeover(env, device, task, takeover)
    return Judged(env, judge)
