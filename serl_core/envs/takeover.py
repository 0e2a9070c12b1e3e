"""A person may take over at any step: when that begins and ends, and what is then handed to the robot.

**What is recorded.** Replay learns from the action that was executed, with whatever the hand-over made of it; the
policy's proposal stands beside it. A step is the operator's from the moment they take over until the policy acts again,
eased steps and the moments before the release included. While the device is lost the arm stands still and the step is
nobody's: it belongs to the takeover, but teaches nobody what a person would have done. Of several arms a step has one
owner: with ``hands="each"`` it is the operator's as soon as one hand leads, and what the policy does with the other arm
is then learned from as if a person had done it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from robot_servers.interface import Array
from serl_core.config import ConfigError, Task
from serl_core.envs.actions import join_actions, split_action
from serl_core.envs.frames import axis_indices
from serl_core.envs.takeover_machine import TakeoverConfig, TakeoverMachine, hand_of
from serl_core.pairs import AnyTask
from serl_core.teleop.device import CLOSE, OPEN, Device, Reading
from serl_core.types import Who

log = logging.getLogger(__name__)

Action = npt.NDArray[np.float32]


# ── actions ──────────────────────────────────────────────────────────────────────────────────────


def device_action(task: AnyTask, reading: Reading, config: TakeoverConfig | None = None) -> Action:
    """What a person's hands mean as an action (A,): the controlled axes of each twist, and the gripper buttons."""
    return join_actions(task, _hand_actions(task, reading, config or TakeoverConfig()))


def _hand_actions(task: AnyTask, reading: Reading, config: TakeoverConfig) -> list[Action]:
    hands = [hand_of(reading, number, len(task.arms)) for number in range(len(task.arms))]
    return [_arm_action(arm, *hand, config) for arm, hand in zip(task.arms, hands, strict=True)]


def _arm_action(task: Task, twist: Array, buttons: Sequence[bool], config: TakeoverConfig) -> Action:
    action = np.zeros(task.action_dim, np.float32)
    axes = axis_indices(task.axes)
    action[: len(task.axes)] = np.clip(twist[axes] * np.array(config.gains)[axes], -1.0, 1.0)
    if task.gripper:
        opens, closes = (number != config.clutch and buttons[number] for number in (OPEN, CLOSE))
        action[-1] = float(opens) - float(closes)
    return action


@final
class Easing:
    """Of one arm: who comes eases in over ``steps`` steps, so that the arm does not jump.

    Each axis starts at 0, or at what the other did if that points the same way, and never beyond what is wanted:
    nothing of the one who goes is executed against the one who comes. Grippers are not eased.
    """

    def __init__(self, task: Task, steps: int) -> None:
        self._motions = len(task.axes)
        self._steps = steps
        self.reset()

    def reset(self) -> None:
        """An episode begins: whoever leads it begins at once."""
        self._who: Who | None = None
        self._since = self._steps  # steps since somebody else led
        self._before = np.zeros(self._motions, np.float32)

    def step(self, wanted: Action, who: Who) -> Action:
        """What is executed (A,) of what ``who``, who leads this step, wants."""
        self._since = 0 if self._who not in (None, who) else self._since + 1
        self._who = who
        eased = wanted.copy()
        if self._since < self._steps:
            motion = wanted[: self._motions]
            start = np.clip(self._before, np.minimum(motion, 0.0), np.maximum(motion, 0.0))
            share = np.float32((self._since + 1) / (self._steps + 1))
            eased[: self._motions] = start + share * (motion - start)
        self._before = eased[: self._motions].copy()
        return eased


# ── the environment ──────────────────────────────────────────────────────────────────────────────


@final
class Takeover(gym.Wrapper[Any, Any, Any, Any]):
    """Lets a device replace the policy's action, for all arms together or for each by its own hand.

    ``info`` gets "executed" (A,) float32, exactly what was handed to the environment; "proposal" (A,) float32, what
    the policy wanted; "who" (`Who`; of several arms the operator's if any arm was theirs); "takeover", its number or
    −1; "hands", the `State` for each arm; and "device" ("ok", "disconnected" or "stale"), whose changes ``say`` tells.

    If the device is lost, neither a step nor a reset moves the arm until it is back; in a takeover, until it is pushed
    again, too.
    A reset waits for that as long as ``waits`` lets a moment pass and returns true; where it gives up, and by default
    nobody waits, the arm is reset and stands still then.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        device: Device,
        task: AnyTask,
        config: TakeoverConfig | None = None,
        say: Callable[[str], None] = log.warning,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(env)
        self._device = device
        self._task = task
        self._config = config or TakeoverConfig()
        self._machine = TakeoverMachine(self._config, len(task.arms))
        self._easings = [Easing(arm, self._config.ease) for arm in task.arms]
        self._say = say
        self._waits = waits
        self._now = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Raises `ConfigError` if the device has no button where the clutch should be."""
        self._check_clutch()  # before anything moves
        self._await_hand()
        obs, info = self.env.reset(seed=seed, options=options)
        self._machine.reset()
        self._device.reset()
        for easing in self._easings:
            easing.reset()
        self._now = info["time"]
        return obs, info

    def step(self, action: Action) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        proposal = np.array(action, np.float32)
        reading = self._device.read()
        takeover = self._update(reading)
        executed = self._executed(proposal, reading)
        obs, reward, terminated, truncated, info = self.env.step(executed)
        self._now = info["time"]
        kept = {
            "executed": executed.copy(),
            "proposal": proposal,
            "who": max(self._machine.leads, key=("policy", "nobody", "operator").index),
            "takeover": takeover,
            "hands": self._machine.states,
            "device": self._machine.device,
        }
        return obs, reward, terminated, truncated, {**info, **kept}

    def _await_hand(self) -> None:
        """Until a device that was lost is back, and has taken over again if it led: nobody expects a motion before."""
        told = False
        while self._machine.lost and self._waits():
            if not told:
                then = " and pushed again" if self._machine.awaits_push else ""
                self._say(f"no reset without the input device: it begins once that is back{then}")
            told = True
            self._update(self._device.read())

    def _update(self, reading: Reading) -> int:
        """The takeover of this step; says so when the device is lost, or is back."""
        before, held = self._machine.device, self._machine.lost
        takeover = self._machine.update(reading, self._now)
        after, holds = self._machine.device, self._machine.lost
        if after not in (before, "ok"):
            pushed = " and pushed again" if self._machine.awaits_push else ""
            then = f": the arm stands still until it is back{pushed}" if holds else ""
            self._say(f"the input device is {after}{then}")
        elif after != before:
            self._say("the input device is back" + (": let go of it, then take over again" if holds else ""))
        elif held and not holds:
            self._say("taken over again")
        return takeover

    def _executed(self, proposal: Action, reading: Reading) -> Action:
        policy = [part.astype(np.float32) for part in split_action(self._task, proposal)]
        led: dict[Who, list[Action]] = {"policy": policy, "nobody": [np.zeros_like(part) for part in policy]}
        if "operator" in self._machine.leads:
            led["operator"] = _hand_actions(self._task, reading, self._config)
        parts = [
            easing.step(led[who][number], who)
            for number, (easing, who) in enumerate(zip(self._easings, self._machine.leads, strict=True))
        ]
        return join_actions(self._task, parts)

    def _check_clutch(self) -> None:
        clutch = self._config.clutch
        if clutch is None:
            return
        buttons = len(self._device.read().buttons) // len(self._task.arms)
        if clutch >= buttons:
            raise ConfigError(
                f"takeover: the clutch is button {clutch}, but each hand of this device has the buttons 0 to "
                f"{buttons - 1}: choose one of them, or take over by pushing (no clutch)"
            )
