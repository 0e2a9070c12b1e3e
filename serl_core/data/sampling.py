"""From a `Table` to minibatches, as pure functions for the learner's compiled call.

`plan` draws transitions and says which rows of which frames they need; `fetch` collects those rows. On a device that
holds the frames both run inside the compiled call; where the host holds them, it fetches in between.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from serl_core.data.table import Members, Table

Batch = dict[str, Any]
OPERATOR = 1  # of a table's "hands"


@dataclass(frozen=True)
class Sampling:
    """How minibatches are drawn. Raises ValueError for values that cannot work."""

    discount: float
    batch: int = 256
    demo_ratio: float = 0.5  # share of each minibatch from "demos" (RLPD, arXiv 2302.02948)
    n_step: int = 1  # steps of a window, which ends with the episode and where control changes hands
    cameras: tuple[str, ...] = ()
    views: int = 1  # versions of each camera's frame, of which every sample draws one
    chunk: int = 0  # with actions of so many consecutive steps instead of one
    stack: int = 1  # frames of each camera: with those before it in its episode, the first standing for those before

    def __post_init__(self) -> None:
        if min(self.n_step, self.batch, self.stack) < 1 or not 0 <= self.discount <= 1 or not 0 <= self.demo_ratio <= 1:
            raise ValueError(f"sampling: n_step, batch, stack ≥ 1, discount and demo_ratio within [0, 1], not {self}")


@struct.dataclass
class Frames:
    """Which frames: ``slots`` (…) int32, and of each camera which view of them (…) int32.

    ``stacks``: the slots (…, stack) whose frames belong together, the oldest first; (…) without stacking.
    """

    slots: jax.Array
    stacks: jax.Array
    views: dict[str, jax.Array]

    def rows(self, name: str) -> Any:
        """What to index a ring with: a camera's (N, views, …), or any other (N, …)."""
        if name not in self.views:
            return self.slots
        view = self.views[name]
        return self.stacks, view.reshape(*view.shape, *(1,) * (self.stacks.ndim - view.ndim))


@struct.dataclass
class Plan:
    """What a batch is made of: the frames that it needs, and everything of it that is no frame."""

    frames: dict[str, Frames]  # of "obs" and "next_obs"
    facts: Batch


def draw(sets: Mapping[str, Members], key: jax.Array, spec: Sampling, updates: int) -> jax.Array:
    """Slots (updates, batch) int32: demonstrations first, then online ones; an empty set is replaced by the other."""
    demos, online = sets["demos"], sets["online"]
    wanted = jnp.arange(spec.batch) < round(spec.batch * spec.demo_ratio)
    from_demos = (wanted | (online.size == 0)) & (demos.size > 0)
    sizes = jnp.maximum(jnp.where(from_demos, demos.size, online.size), 1)
    places = jax.random.randint(key, (updates, spec.batch), 0, sizes)
    return jnp.where(from_demos, demos.items[places], online.items[places])


def plan(table: Table, key: jax.Array, spec: Sampling, updates: int) -> Plan:
    """``updates`` minibatches of transitions drawn from both sets. One of them must not be empty."""
    slot_key, view_key = jax.random.split(key)
    return plan_of(table, draw(table.sets, slot_key, spec, updates), view_key, spec)


def plan_of(table: Table, slots: jax.Array, key: jax.Array, spec: Sampling) -> Plan:
    """The transitions, n-step windows or chunks that begin at ``slots``.

    Facts of a batch are "action", "reward", "grasp_penalty", "human" and "discount" as `serl_core.agents.sac` lists
    them. With ``spec.chunk`` "action" is (…, chunk, A), and "valid" (…, chunk) says which of its rows were done within
    the window; further rows repeat the last.
    """
    reward, penalty, discount, last, visited = _windows(table.facts, slots, spec.chunk or spec.n_step, spec.discount)
    obs_key, next_key = jax.random.split(key)
    human = table.facts["hands"][slots] == OPERATOR
    facts = {"reward": reward, "grasp_penalty": penalty, "human": human, "discount": discount}
    if spec.chunk:
        changed = visited[..., 1:] != visited[..., :-1]
        facts["valid"] = jnp.concatenate([jnp.ones_like(changed[..., :1]), changed], axis=-1)
        facts["action"] = table.facts["action"][visited]
    else:
        facts["action"] = table.facts["action"][slots]
    before = table.facts["previous"]
    frames = {"obs": _frames(slots, before, obs_key, spec), "next_obs": _frames(last, before, next_key, spec)}
    return Plan(frames, facts)


def fetch(rings: Mapping[str, Any], frames: Frames) -> dict[str, Any]:
    """The observations, as far as their rings are here; a stacked camera's are (…, stack, …)."""
    return {name: features(ring[frames.rows(name)]) for name, ring in rings.items()}


def features(stored: Any) -> Any:
    """What was stored as bits (`serl_core.data.table.bits`) as numbers; pixels as they are."""
    return jax.lax.bitcast_convert_type(stored, jnp.float16) if stored.dtype == np.uint16 else stored


def held(table: Table, chosen: Plan) -> dict[str, dict[str, Any]]:
    """Those frames of a plan that the table holds, for "obs" and "next_obs"."""
    return {when: fetch(table.frames, frames) for when, frames in chosen.frames.items()}


def sample(table: Table, key: jax.Array, spec: Sampling, updates: int) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """A plan for ``updates`` minibatches, and those of its frames that the table holds."""
    chosen = plan(table, key, spec, updates)
    return chosen, held(table, chosen)


@functools.partial(jax.jit, static_argnums=3)
def gather(table: Table, slots: jax.Array, key: jax.Array, spec: Sampling) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """The same for given ``slots`` (…)."""
    chosen = plan_of(table, slots, key, spec)
    return chosen, held(table, chosen)


def assemble(chosen: Plan, frames: Mapping[str, Mapping[str, Any]]) -> Batch:
    """A batch from its parts."""
    return {**{when: dict(obs) for when, obs in frames.items()}, **chosen.facts}


def _frames(slots: jax.Array, before: jax.Array, key: jax.Array, spec: Sampling) -> Frames:
    """Each camera draws its views by itself, one for a whole stack."""
    keys = jax.random.split(key, max(1, len(spec.cameras)))
    views = {
        name: jax.random.randint(k, slots.shape, 0, spec.views) for name, k in zip(spec.cameras, keys, strict=False)
    }
    return Frames(slots, slots if spec.stack == 1 else _stacks(slots, before, spec.stack), views)


def _stacks(slots: jax.Array, before: jax.Array, length: int) -> jax.Array:
    """Slots (…, length), each with the one before it in its episode; the first one is repeated."""
    found = [slots]
    for _ in range(length - 1):
        previous = before[found[-1]]
        found.append(jnp.where(previous < 0, found[-1], previous))
    return jnp.stack(found[::-1], axis=-1)


def _windows(
    facts: Mapping[str, Any], slots: jax.Array, length: int, gamma: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Discounted reward and penalty sums, bootstrap discounts, last frames, and the steps (…, length)."""
    current, last = slots, facts["next"][slots]
    reward, penalty = facts["reward"][slots], facts["penalty"][slots]
    power, visited = jnp.full(slots.shape, gamma, jnp.float32), [slots]
    for _ in range(length - 1):
        ends = facts["terminated"][current] | (facts["next"][last] < 0) | facts["withheld"][last]
        going = ~ends & (facts["hands"][last] == facts["hands"][current])
        reward += jnp.where(going, power * facts["reward"][last], 0.0)
        penalty += jnp.where(going, power * facts["penalty"][last], 0.0)
        power = jnp.where(going, power * gamma, power)
        current = jnp.where(going, last, current)
        last = facts["next"][current]
        visited.append(current)
    discount = jnp.where(facts["terminated"][current], 0.0, power)
    return reward, penalty, discount, last, jnp.stack(visited, axis=-1)
