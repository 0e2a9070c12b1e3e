"""The learner's hot path: drawing, gathering, augmenting, UTD critic updates and the actor's, as one compiled call.

Nothing goes between host and device but what arrived since the last call. Where replay keeps its frames on the host,
the call is in two parts, and the frames for the next one are collected while this one runs: new transitions are drawn
one call later. What else changes meanwhile does not wait: after a verdict, say, the next call is collected anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from serl_core.data.replay import Replay
from serl_core.data.sampling import Batch, Plan, Sampling, assemble, sample
from serl_core.data.table import Table
from serl_core.nets.sight import Sight

State = Any  # what the agent keeps; donated from call to call
Metrics = dict[str, jax.Array]
AXIS = "data"  # of the devices that share each minibatch
DRAWING = 1 << 31  # sets the keys of calls apart from the agent's: JAX splits a key as it folds small numbers into it


class Agent(Protocol):
    """What can be trained: pure functions on minibatches (updates, batch, …); see `serl_core.agents.sac`."""

    def update(self, state: State, batches: Batch, see: Any) -> tuple[State, Metrics]: ...


def data_parallel(devices: Sequence[Any], batch: int) -> NamedSharding | None:
    """How state and replay lie on several devices: whole on each; minibatches are divided. None for a single one.

    As many of them are used as ``batch`` can be divided among.
    """
    used = max(count for count in range(1, len(devices) + 1) if batch % count == 0)
    if used < 2:
        return None
    mesh = jax.make_mesh((used,), (AXIS,), (AxisType.Auto,), devices=devices[:used])
    return NamedSharding(mesh, PartitionSpec())


@dataclass(frozen=True)
class _Ahead:
    """A plan with all its frames, and replay's revision when it was drawn."""

    revision: int
    chosen: Plan
    frames: Batch


@final
class Engine:
    """Trains an agent on a replay; ``updates`` critic updates per call. Holds no state of the training itself.

    ``sight``: what the networks see of stored frames. ``sharding`` is replay's, from `data_parallel`.
    """

    def __init__(
        self,
        agent: Agent,
        replay: Replay,
        spec: Sampling,
        updates: int,
        sight: Sight,
        seed: int = 0,
        sharding: NamedSharding | None = None,
    ) -> None:
        self._replay, self._updates = replay, updates
        self._learners = {True: agent.update, False: getattr(agent, "update_critic", agent.update)}
        self.spec = replay.sampling(spec)
        self._sight, self._sharding = sight, sharding
        self._shares = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec(None, AXIS))
        key = jax.random.fold_in(jax.random.key(seed), DRAWING)
        self._key = jax.device_put(jax.random.key_data(key), sharding)
        self._frozen = jax.device_put(sight.params, sharding)
        self.traces = 0  # how often a part of the call was compiled
        self._ahead: dict[int, _Ahead] = {}  # by the number of the call
        self._whole = jax.jit(self._whole_impl, static_argnums=0, donate_argnums=1)
        self._plan = jax.jit(self._plan_impl)
        self._learn = jax.jit(self._learn_impl, static_argnums=0, donate_argnums=1)

    def placed(self, state: State) -> State:
        """A state, fresh or from a checkpoint, where it is trained."""
        return jax.device_put(state, self._sharding)

    def update(self, state: State, call: int) -> tuple[State, Metrics]:
        """One call: the critic updates, then one of the actor. Donates ``state``; ``call`` numbers what is drawn."""
        return self._run(True, state, call)

    def update_critic(self, state: State, call: int) -> tuple[State, Metrics]:
        """The critic updates only; of an agent without a critic, all there is."""
        return self._run(False, state, call)

    def _run(self, actor: bool, state: State, call: int) -> tuple[State, Metrics]:
        with jax.transfer_guard("disallow"):
            if not self._replay.on_host:
                return self._whole(actor, state, self._replay.table(), self._frozen, self._key, self._number(call))
            chosen, frames = self._collected(call) or self._collect(*self._draw(call))
            revision = self._replay.revisions.now
            following = self._draw(call + 1)  # now: behind this call it would wait until the device has learnt
            learnt = self._learn(actor, state, chosen, frames, self._frozen)
            # Now, before anything that arrives takes a frame's place.
            self._ahead = {call + 1: _Ahead(revision, *self._collect(*following))}
            return learnt

    def _collected(self, call: int) -> tuple[Plan, Batch] | None:
        """What was collected ahead for a call, unless replay has changed by more than new transitions since then.

        The price of a change, mostly one verdict per episode: a call that is drawn and collected twice, and whose
        frames are fetched while the device waits.
        """
        ahead = self._ahead.pop(call, None)
        if ahead is None or not self._replay.revisions.stand(ahead.chosen.frames, ahead.revision):
            return None
        return ahead.chosen, ahead.frames

    def _collect(self, chosen: Plan, frames: Batch) -> tuple[Plan, Batch]:
        """The frames that the host keeps, to those of a plan that the device holds."""
        kept = {when: self._replay.fetch(wanted) for when, wanted in chosen.frames.items()}
        return chosen, {when: {**frames[when], **jax.device_put(kept[when], self._shares)} for when in kept}

    def _draw(self, call: int) -> tuple[Plan, Batch]:
        return self._plan(self._replay.table(), self._key, self._number(call))

    def _number(self, call: int) -> jax.Array:
        return jax.device_put(np.uint32(call), self._sharding)

    def _plan_impl(self, table: Table, key: jax.Array, call: jax.Array) -> tuple[Plan, Batch]:
        """What to draw, and those frames of it that the device holds."""
        self.traces += 1
        return sample(table, jax.random.fold_in(key, call), self.spec, self._updates)

    def _whole_impl(
        self, actor: bool, state: Any, table: Table, frozen: Any, key: jax.Array, call: jax.Array
    ) -> tuple[Any, Metrics]:
        chosen, frames = sample(table, jax.random.fold_in(key, call), self.spec, self._updates)
        return self._learn_impl(actor, state, chosen, frames, frozen)

    def _learn_impl(self, actor: bool, state: Any, chosen: Plan, frames: Batch, frozen: Any) -> tuple[Any, Metrics]:
        self.traces += 1
        batches = self._divided(assemble(chosen, frames))

        def see(batch: Mapping[str, Any], key: jax.Array) -> Mapping[str, Any]:
            return self._sight.see(frozen, batch, key)

        return self._learners[actor](state, batches, see)

    def _divided(self, batches: Batch) -> Batch:
        """Each device takes its share of every minibatch."""
        if self._shares is None:
            return batches
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self._shares), batches)
