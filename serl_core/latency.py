"""How long an action takes, from the measurement it answers to the moment the robot has accepted it, stage by stage.

========= ======================================================================================
stage     from … to
========= ======================================================================================
capture   the oldest measurement or picture in the observation … the observation in hand
inference the policy is asked … it has answered
command   the command leaves … the robot has accepted it
total     the oldest measurement or picture in the observation … the command that answers it is accepted
========= ======================================================================================

Under the lockstep clock nothing waits for anybody: there only inference and command mean anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import gymnasium as gym
import numpy as np

from serl_core.rollout import Decision, Policy
from serl_core.types import Obs

log = logging.getLogger(__name__)

Stage = Literal["capture", "inference", "command", "total"]
STAGES: tuple[Stage, ...] = ("capture", "inference", "command", "total")


class Latency:
    """Collects the steps of one episode. All times are s of one clock of this process.

    ``period`` s: an action must leave within it, counted from the observation in hand; None under the lockstep clock.
    """

    def __init__(self, period: float | None) -> None:
        self._period = period
        self._took: dict[Stage, list[float]] = {stage: [] for stage in STAGES}
        self._late = 0
        self._captured: float | None = None
        self._in_hand: float | None = None

    def seen(self, now: float, captured: float | None) -> None:
        """An observation is in hand; ``captured``: when its oldest part was measured, None if no clock can tell."""
        self._in_hand, self._captured = now, captured
        if captured is not None:
            self._took["capture"].append(now - captured)

    def decided(self, seconds: float) -> None:
        """The policy has answered."""
        self._took["inference"].append(seconds)

    def commanded(self, sent: float, accepted: float) -> None:
        """The command that answers the observation in hand has been accepted."""
        self._took["command"].append(accepted - sent)
        if self._captured is not None:
            self._took["total"].append(accepted - self._captured)
        if self._period is not None and self._in_hand is not None:
            self._late += sent - self._in_hand > self._period

    def take(self) -> dict[str, float]:
        """The episode's figures, and begin anew: e.g. "inference_ms_p50" and "inference_ms_p99", and "late_actions".

        A stage that was never measured is left out.
        """
        took: dict[Stage, list[float]] = self._took
        self._took = {stage: [] for stage in STAGES}
        late, self._late = self._late, 0
        if late and self._period is not None:
            log.warning(
                "%d of %d actions left more than a control period (%.0f ms) after their observation; inference took up "
                "to %.0f ms: give the actor a core of its own, or a smaller trunk",
                late,
                len(took["command"]),
                1e3 * self._period,
                1e3 * max(took["inference"], default=0.0),
            )
        figures = {
            f"{stage}_ms_p{share}": round(1e3 * float(np.percentile(values, share)), 3)
            for stage, values in took.items()
            if values
            for share in (50, 99)
        }
        return {**figures, "late_actions": late}


def timed(policy: Policy, latency: Latency, now: Callable[[], float] = time.monotonic) -> Policy:
    """``policy``, whose answers are timed."""

    def decide(obs: Obs) -> Decision:
        begun = now()
        decision = policy(obs)
        latency.decided(now() - begun)
        return decision

    return decide


@final
class Timed(gym.Wrapper[Any, Any, Any, Any]):
    """The outermost wrapper: notes when observations come and commands leave, as the environment's ``info`` says.

    ``local`` maps the robot's time to that of ``now``, s; None under the lockstep clock. Aborted steps are not counted.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        latency: Latency,
        local: Callable[[float], float] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(env)
        self._latency = latency
        self._local = local
        self._now = now

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._latency.take()  # what somebody did at the arm before the episode is none of its steps
        self._note(info)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if "abort" not in info:
            self._latency.commanded(info["sent"], info["accepted"])
            self._note(info)
        return obs, reward, terminated, truncated, info

    def _note(self, info: Mapping[str, Any]) -> None:
        captured = None if self._local is None else self._local(info["time"]) - info["frame_age"]
        self._latency.seen(self._now(), captured)
