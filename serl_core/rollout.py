"""The loop that drives the arm: observe, act, apply, tell the subscribers.

The actor, the recorder and the evaluation all run this one loop; they differ in the policy that
acts, the wrappers around the environment and who listens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from serl_core.types import EpisodeStart, Obs, Record, Source, Step


@dataclass(frozen=True)
class Decision:
    """What a policy wants: ``action`` (A,) float32 in [−1, 1], and the version of the weights behind it."""

    action: np.ndarray
    version: int = -1


Policy = Callable[[Obs], Decision]


class Subscriber(Protocol):
    """Told of every record, in order, before the next action is chosen."""

    def __call__(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Identity:
    """Who acts, and which number the first episode gets: together they name every episode."""

    actor: str
    first_episode: int = 0
    source: Source = "online"


def rollout(
    env: gym.Env[Any, Any],
    policy: Policy,
    subscribers: Sequence[Subscriber],
    *,
    identity: Identity,
    seeds: Iterable[int],
    stop: Callable[[], bool] = lambda: False,
    budget: int | None = None,
    meta: Mapping[str, Any] | None = None,
    wall: Callable[[], float] = time.time,
) -> None:
    """Run one episode per seed until the seeds end, ``budget`` steps are done, or ``stop()`` says so between two steps.

    A stop during a reset is followed by no episode.
    """
    tell = _Fanout(subscribers)
    taken = 0
    for episode, seed in zip(count(identity.first_episode), seeds, strict=False):
        if stop() or taken == budget:
            return
        obs, info = env.reset(seed=seed)
        if stop():  # a reset may last long: an episode of one step would be nobody's wish
            return
        about = {**(meta or {}), "seed": seed, "wall_time": wall(), **_wrench(info), **_judge(info)}
        tell(EpisodeStart(identity.actor, episode, obs, identity.source, about))
        for index in count():
            decision = policy(obs)
            obs, reward, terminated, truncated, info = env.step(decision.action)
            taken += 1
            # An episode that is stopped from outside has a future that was not recorded: a truncation.
            truncated = truncated or ((stop() or taken == budget) and not terminated)
            tell(_step(identity.actor, episode, index, decision, obs, float(reward), terminated, truncated, info))
            if terminated or truncated:
                break


def _step(
    actor: str,
    episode: int,
    index: int,
    decision: Decision,
    next_obs: Obs,
    reward: float,
    terminated: bool,
    truncated: bool,
    info: Mapping[str, Any],
) -> Step:
    """Everything that is kept of one step; the wrappers put what they know into ``info``.

    "who" is of all arms together: which hand led which arm ("hands") is not kept.
    """
    return Step(
        actor=actor,
        episode=episode,
        step=index,
        action=np.asarray(info.get("executed", decision.action), np.float32),
        proposal=np.asarray(decision.action, np.float32),
        target=np.asarray(info["target"], np.float64),
        bent=bool(info["bent"]),
        bends=list(info.get("bends", ())),
        next_obs=next_obs,
        reward=reward,
        grasp_penalty=float(info.get("grasp_penalty", 0.0)),
        terminated=bool(terminated),
        truncated=bool(truncated),
        success=bool(info.get("success", False)),
        ago=int(info.get("ago", 0)),
        who=info.get("who", "policy"),
        takeover=int(info.get("takeover", -1)),
        policy_version=decision.version,
        time=float(info["time"]),
        aborted="abort" in info,
    )


def _wrench(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the arm measures before it touches anything: the offset of its tared wrench, N and Nm, TCP frame."""
    state = info.get("state")
    return {} if state is None else {"wrench_at_rest": [*state.force.tolist(), *state.torque.tolist()]}


def _judge(info: Mapping[str, Any]) -> dict[str, Any]:
    """Who says what a success is, and in which version."""
    return {"judge": info["judge"]} if "judge" in info else {}


class _Fanout:
    """Tells every subscriber, in the order given."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = tuple(subscribers)

    def __call__(self, record: Record) -> None:
        for subscriber in self._subscribers:
            subscriber(record)
