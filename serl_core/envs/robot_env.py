"""A robot as a Gymnasium environment: one step is one control period.

The environment gives no reward and never terminates: a judge does (`serl_core.envs.rewards`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from robot_servers.interface import Applied, NotOwner, Robot, RobotError, RobotState
from serl_core.clock import Clock
from serl_core.config import ConfigError, Observation, Task, Truth
from serl_core.envs.actions import check_action, labelled
from serl_core.envs.arm import IMAGE, PROPRIOCEPTION, Arm
from serl_core.envs.resetting import Resetter
from serl_core.pairs import AnyTask

log = logging.getLogger(__name__)


def observation_space(task: AnyTask, obs: Observation) -> spaces.Dict:
    """What the environment of a task observes; needs no robot.

    "state" (n,) float32 is, for each arm, `serl_core.envs.arm.proprioception`, then its last gripper command where
    it is learned (1 open, 0 closed); then the task's privileged entries if ``obs`` is "state". With "pixels" there
    is one (128, 128, 3) uint8 RGB picture per camera of the task beside it, of two arms e.g. "left_wrist".
    """
    size = PROPRIOCEPTION * len(task.arms) + task.grippers + (task.privileged_dim if obs == "state" else 0)
    boxes: dict[str, spaces.Space[Any]] = {"state": spaces.Box(-np.inf, np.inf, (size,), np.float32)}
    if obs == "pixels":
        for name, arm in zip(task.names, task.arms, strict=True):
            boxes |= {labelled(name, camera, "_"): spaces.Box(0, 255, IMAGE, np.uint8) for camera in arm.cameras}
    return spaces.Dict(boxes)


def action_space(task: AnyTask) -> spaces.Box:
    """(A,) float32 in [−1, 1]: one entry per controlled axis of the TCP twist, then the gripper if it is learned.

    Of two arms the grippers follow the axes of both, see `serl_core.envs.actions`.
    """
    return spaces.Box(-1.0, 1.0, (task.action_dim,), np.float32)


def check_truth(task: AnyTask, obs: Observation, truth: Callable[[], Any] | None) -> None:
    """Raises `ConfigError` where observations of kind state would lack their privileged entries."""
    if obs == "state" and truth is None and task.privileged is not None:
        raise ConfigError(
            f"task {task.name}: observations of kind state hold the objects' true poses: "
            "give the simulation's ground truth, or use pixels"
        )


class RobotEnv(gym.Env[Any, Any]):
    """One task on one robot, which must be connected. ``truth`` is read only if ``obs`` is "state".

    ``ask`` is told once of every question that a reset puts to a person; without it the question is
    logged. Somebody then calls `Robot.confirm`. ``stop`` ends a reset's waits: it returns where the robot is.

    ``info`` of a step: "target" (7,) the TCP target the guard sent; "bent": whether one of the task's
    limits changed it; "bends": those limits, each with the value asked for and the bound; "time" s of the
    observation; "state": the `RobotState`; "gripper": the last command, 1 open, 0 closed; "sent", "accepted" and
    "frame_age" as of `Arm`; and "abort", the reason, if the robot refused or failed. An aborted step holds the robot,
    unless it is somebody else's by now, and truncates the episode; its observation is the one before it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium's own declaration is a mutable class attribute

    def __init__(
        self,
        robot: Robot,
        task: Task,
        clock: Clock,
        obs: Observation,
        truth: Callable[[], Truth] | None = None,
        ask: Callable[[str], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        check_truth(task, obs, truth)
        self.observation_space = observation_space(task, obs)
        self.action_space = action_space(task)
        self._task = task
        self._clock = clock
        self._obs: Observation = obs
        self._truth = truth if obs == "state" else None
        self._arm = Arm(robot, task)
        self._resetter = Resetter((self._arm,), clock, ask, stop)
        self._steps = 0
        self._observation: dict[str, npt.NDArray[Any]] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Reset scene and arm, as `Resetter.reset` says. Raises RobotError if the robot does not get there."""
        super().reset(seed=seed)
        self._resetter.reset(self.np_random)
        self._steps = 0
        state = self._arm.measure()
        self._arm.begin(state)
        self._observe(state)
        return self._observation, self._info(Applied(state.pose, None))

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Command, let one control period pass, observe. Raises ValueError for an action that cannot be meant."""
        if self._arm.state is None:
            raise RobotError("step before the first reset: call reset()")
        check_action(self._task, action)
        self._steps += 1
        try:
            applied = self._arm.command(action)
            self._clock.tick()
            self._observe(self._arm.measure())
        except RobotError as error:
            return self._aborted(error)
        return self._observation, 0.0, False, self._steps >= self._task.max_steps, self._info(applied)

    def _aborted(self, error: RobotError) -> tuple[dict[str, npt.NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """The end of an episode that cannot go on: the robot holds, the last observation stands."""
        assert self._arm.state is not None
        reason = str(error)
        self._arm.lost = isinstance(error, NotOwner)
        self._arm.hold(f"episode aborted: {reason}")
        log.warning("episode aborted after %d steps: %s", self._steps, reason)
        info = {**self._info(Applied(self._arm.state.pose, None)), "bent": True, "abort": reason}
        return self._observation, 0.0, False, True, info

    def _observe(self, state: RobotState) -> None:
        parts = self._arm.seen(state)
        if self._truth is not None and self._task.privileged is not None:
            parts.append(self._task.privileged(state, self._truth()))
        pictures = self._arm.pictures(state.time) if self._obs == "pixels" else {}
        self._observation = {"state": np.concatenate(parts).astype(np.float32), **pictures}
        self._arm.state = state

    def _info(self, applied: Applied) -> dict[str, Any]:
        assert self._arm.state is not None
        return {
            "target": applied.pose,
            "bent": bool(applied.bends),
            "bends": [[bend.limit, bend.value, bend.bound] for bend in applied.bends],
            "time": self._arm.state.time,
            "state": self._arm.state,
            "gripper": self._arm.gripper,
            "sent": self._arm.sent,
            "accepted": self._arm.accepted,
            "frame_age": self._arm.frame_age,
        }
