"""A person may take over at any step: when that begins and ends, and what is then handed to the robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from robot_servers.interface import Array
from serl_core.config import ConfigError, Task
from serl_core.envs.actions import join_actions
from serl_core.envs.frames import axis_indices
from serl_core.pairs import AnyTask
from serl_core.teleop.device import BUTTONS, CLOSE, OPEN, TWIST, Device, Reading


@dataclass(frozen=True)
class TakeoverConfig:
    """When a takeover begins and ends. The gap between the two thresholds keeps it from flickering."""

    engage: float = 0.15  # |twist| from which a person has taken over; a pressed button does it too
    release: float = 0.08  # |twist| below which a person may have let go
    release_delay: int = 3  # steps below it before the policy acts again
    max_age: float = 0.3  # s; an older reading is as good as none

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.engage:
            raise ConfigError(f"takeover: release {self.release} must be positive and at most engage {self.engage}")


class TakeoverMachine:
    """The state of a takeover, as pure logic: readings in, number of the takeover out.

    ``takeover`` is the number of the running takeover or −1; numbers count up and are never reused.
    ``device`` says what was wrong with the last reading: "ok", "disconnected" or "stale". Without a
    usable reading nobody drives, so a running takeover ends at once.
    """

    def __init__(self, config: TakeoverConfig | None = None) -> None:
        self.takeover = -1
        self.device = "ok"
        self._config = config or TakeoverConfig()
        self._begun = 0  # takeovers so far
        self._quiet = 0  # steps since the person last pushed

    def reset(self) -> None:
        """An episode begins: a takeover does not reach over the reset."""
        self.takeover = -1

    def update(self, reading: Reading) -> int:
        """The number of the takeover in which this step happens, −1 outside of one."""
        self.device = self._condition(reading)
        if self.device != "ok":
            self.takeover = -1
        elif self.takeover < 0:
            self._engage(reading)
        else:
            self._continue(reading)
        return self.takeover

    def _condition(self, reading: Reading) -> str:
        if not reading.connected:
            return "disconnected"
        if reading.age > self._config.max_age or not np.isfinite(reading.twist).all():
            return "stale"
        return "ok"

    def _engage(self, reading: Reading) -> None:
        if _push(reading) >= self._config.engage or any(reading.buttons):
            self.takeover = self._begun
            self._begun += 1
            self._quiet = 0

    def _continue(self, reading: Reading) -> None:
        resting = _push(reading) < self._config.release and not any(reading.buttons)
        self._quiet = self._quiet + 1 if resting else 0
        if self._quiet > self._config.release_delay:
            self.takeover = -1


def _push(reading: Reading) -> float:
    return float(np.linalg.norm(reading.twist))


def device_action(task: AnyTask, reading: Reading) -> npt.NDArray[np.float32]:
    """What a person's hands mean as an action (A,): the controlled axes of each twist, and the gripper buttons."""
    parts = []
    for number, arm in enumerate(task.arms):
        twist = reading.twist[TWIST * number : TWIST * (number + 1)]
        parts.append(_arm_action(arm, twist, reading.buttons[BUTTONS * number : BUTTONS * (number + 1)]))
    return join_actions(task, parts)


def _arm_action(task: Task, twist: Array, buttons: tuple[bool, ...]) -> npt.NDArray[np.float32]:
    action = np.zeros(task.action_dim, np.float32)
    action[: len(task.axes)] = np.clip(twist[axis_indices(task.axes)], -1.0, 1.0)
    if task.gripper:
        action[-1] = float(buttons[OPEN]) - float(buttons[CLOSE])
    return action


class Takeover(gym.Wrapper[Any, Any, Any, Any]):
    """Lets a device replace the policy's action; two arms are taken over and given back together.

    ``info`` gets "executed" (A,) float32, exactly what was handed to the environment; "proposal" (A,)
    float32, what the policy wanted; "who" ("policy" or "operator"); "takeover", its number or −1; and
    "device" ("ok", "disconnected" or "stale").
    """

    def __init__(
        self, env: gym.Env[Any, Any], device: Device, task: AnyTask, config: TakeoverConfig | None = None
    ) -> None:
        super().__init__(env)
        self._device = device
        self._task = task
        self._machine = TakeoverMachine(config)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._machine.reset()
        self._device.reset()
        return obs, info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        proposal = np.array(action, np.float32)
        reading = self._device.read()
        takeover = self._machine.update(reading)
        executed = device_action(self._task, reading) if takeover >= 0 else proposal
        obs, reward, terminated, truncated, info = self.env.step(executed)
        kept = {
            "executed": executed.copy(),
            "proposal": proposal,
            "who": "operator" if takeover >= 0 else "policy",
            "takeover": takeover,
            "device": self._machine.device,
        }
        return obs, reward, terminated, truncated, {**info, **kept}
