"""One training run of the study, in this process: the rollout's own loop, replay, limiter and agent, no sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from serl_core.agents.policy import Act, Agent
from serl_core.data.labels import confirmed
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine
from serl_core.limiter import UpdateLimiter
from serl_core.nets.encoders import fit_normaliser
from serl_core.nets.sight import as_stored
from serl_core.rollout import Decision, Identity, rollout
from serl_core.summary import Tally
from serl_core.types import DEMONSTRATOR, Obs, Record, Step

TRAINING_SEEDS, DEMONSTRATION_SEEDS, EVALUATION_SEEDS = 2_000_000, 1_000_000, 10_000  # of episodes: apart
START_AFTER = 100  # transitions before training starts
PUBLISH_EVERY = 10  # transitions between two versions of the policy that acts


@dataclass(frozen=True)
class Recipe:
    """What is learnt with, and how much."""

    agent: Agent
    act: Act
    sampling: Sampling
    utd: int  # updates per transition
    pretrain: int = 0  # updates on the demonstrations before the first step
    encode: Callable[[Obs], Obs] = dict  # what the policy acts on, of an observation


class Trainee:
    """Acts, and learns what is due after every record: a policy and a subscriber of the same rollout.

    ``replay`` holds the demonstrations already. Raises FloatingPointError when something became infinite.
    """

    def __init__(self, recipe: Recipe, replay: Replay, seed: int) -> None:
        self.recipe = recipe
        self.replay = replay
        self.limiter = UpdateLimiter(recipe.utd, recipe.utd, lockstep=True, start_after=START_AFTER)
        normaliser = fit_normaliser(*replay.state_statistics("demos"))
        self.state = recipe.agent.init(jax.random.key(seed), normaliser)
        self._engine = Engine(recipe.agent, replay, recipe.sampling, recipe.utd, as_stored(), seed)
        self._calls = 0
        self._key = jax.random.key(seed + 1)
        for _ in range(recipe.pretrain // recipe.utd):
            self._update()
        self._params = recipe.agent.policy(self.state)

    def __call__(self, record: Record) -> None:
        """A subscriber of the rollout."""
        stored = insert(self.replay, record)
        self.limiter.insert(stored)
        while self.limiter.grants():
            self._update()
            self.limiter.done()
        if stored and self.limiter.stored % PUBLISH_EVERY == 0:
            self._params = self.recipe.agent.policy(self.state)

    def policy(self, obs: Obs) -> Decision:
        """Explores with the newest published weights."""
        self._key, key = jax.random.split(self._key)
        return Decision(self.recipe.act(self._params, self.recipe.encode(obs), key, True))

    @property
    def updates(self) -> int:
        """Updates so far, those before the first step included."""
        return self._calls * self.recipe.utd

    def _update(self) -> None:
        self.state, metrics = self._engine.update(self.state, self._calls)
        self._calls += 1
        if self.limiter.updates % 1000 == 0 and not bool(jax.device_get(metrics["finite"])):
            raise FloatingPointError(f"a loss or gradient became infinite or NaN after {self.limiter.updates} updates")

    def final_policy(self) -> Callable[[Obs], Decision]:
        """Acts without exploring, with the averaged weights of now."""
        params, key = self.recipe.agent.averaged_policy(self.state), jax.random.key(0)
        return lambda obs: Decision(self.recipe.act(params, self.recipe.encode(obs), key, False))


def insert(replay: Replay, record: Record) -> bool:
    """Whether this stored an online transition. A success that was confirmed late counts where it began."""
    stored = replay.insert(record)
    label = confirmed(record, wall_time=0.0) if isinstance(record, Step) else None
    if label is not None:
        replay.relabel(label)
    return stored


class Episodes:
    """Keeps every record."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, record: Record) -> None:
        self.records.append(record)


def demonstrate(
    env: gym.Env[Any, Any], action_dim: int, episodes: int, seed: int, first_episode: int = 0
) -> list[Record]:
    """Episodes of an env whose operator always drives, successful or not, numbered from ``first_episode`` on."""
    kept = Episodes()
    rest = Decision(np.zeros(action_dim, np.float32))
    first = DEMONSTRATION_SEEDS + 10_000 * seed + first_episode
    identity = Identity(DEMONSTRATOR, first_episode, source="demo")
    rollout(env, lambda obs: rest, [kept], identity=identity, seeds=range(first, first + episodes))
    return kept.records


def demonstrate_to(env: gym.Env[Any, Any], action_dim: int, episodes: int, first: int) -> Tally:
    """The same, counted and not kept, with the seeds from ``first`` on."""
    rest = Decision(np.zeros(action_dim, np.float32))
    return score(env, lambda obs: rest, episodes, first)


def successful(records: Sequence[Record]) -> list[Record]:
    """The records of those episodes that ended in success."""
    succeeded = {record.episode for record in records if isinstance(record, Step) and record.success}
    return [record for record in records if record.episode in succeeded]


def train(env: gym.Env[Any, Any], trainee: Trainee, steps: int, seed: int, others: Sequence[Callable] = ()) -> Tally:
    """``steps`` steps of training; returns what happened."""
    tally = Tally()
    rollout(
        env,
        trainee.policy,
        [trainee, tally, *others],
        identity=Identity("study"),
        seeds=_from(TRAINING_SEEDS + 100_000 * seed),
        budget=steps,
    )
    return tally


def _from(first: int) -> Iterable[int]:
    return range(first, first + 10**6)


def score(env: gym.Env[Any, Any], policy: Callable[[Obs], Decision], episodes: int, first: int) -> Tally:
    """Episodes of a policy alone, with the seeds from ``first`` on."""
    tally = Tally()
    rollout(env, policy, [tally], identity=Identity("eval"), seeds=range(first, first + episodes))
    return tally
