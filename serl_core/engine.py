"""The learner's hot path: drawing, gathering, augmenting, UTD critic updates and the actor's, as one compiled call.

Nothing goes between host and device but what arrived since the last call. Where replay keeps its frames on the host,
the call is in two parts, and the frames for the next one are collected while this one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class Agent(Protocol):
    """What can be trained: pure functions on minibatches (updates, batch, …); see `serl_core.agents.sac`."""

    def update(self, state: State, batches: Batch, see: Any) -> tuple[State, Metrics]: ...


def data_parallel(devices: Sequence[Any]) -> NamedSharding | None:
    """How state and replay lie on several devices: whole on each; minibatches are divided. None for a single one."""
    if len(devices) < 2:
        return None
    mesh = jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)
    return NamedSharding(mesh, PartitionSpec())


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
        self._key = jax.device_put(jax.random.key_data(jax.random.key(seed)), sharding)
        self._frozen = jax.device_put(sight.params, sharding)
        self.traces = 0  # how often a part of the call was compiled
        self._ahead = _Ahead(replay, self._draw) if replay.on_host else None
        self._whole = jax.jit(self._whole_impl, static_argnums=0, donate_argnums=1)
        self._plan = jax.jit(self._plan_impl)
        self._learn = jax.jit(self._learn_impl, static_argnums=0, donate_argnums=1)

    def update(self, state: State, call: int) -> tuple[State, Metrics]:
        """One call: the critic updates, then one of the actor. Donates ``state``; ``call`` numbers what is drawn."""
        return self._run(True, state, call)

    def update_critic(self, state: State, call: int) -> tuple[State, Metrics]:
        """The critic updates only; of an agent without a critic, all there is."""
        return self._run(False, state, call)

    def _run(self, actor: bool, state: State, call: int) -> tuple[State, Metrics]:
        with jax.transfer_guard("disallow"):
            if self._ahead is not None:
                return self._learn(actor, state, *self._ahead.take(call), self._frozen)
            return self._whole(actor, state, self._replay.table(), self._frozen, self._key, self._number(call))

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
        if self._sharding is None:
            return batches
        shares = NamedSharding(self._sharding.mesh, PartitionSpec(None, AXIS))
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, shares), batches)


@final
class _Ahead:
    """Collects frames that the host keeps for the next call while the device works on this one."""

    def __init__(self, replay: Replay, draw: Callable[[int], tuple[Plan, Batch]]) -> None:
        self._replay, self._draw = replay, draw
        self._thread = ThreadPoolExecutor(1, "frames")
        self._begun: dict[int, Future[tuple[Plan, Batch]]] = {}  # by the number of the call

    def take(self, call: int) -> tuple[Plan, Batch]:
        """The batch of this call, drawn in the one before; the next one is begun."""
        ready = self._begun.get(call) or self._begin(call)
        self._begun = {call + 1: self._begin(call + 1)}
        return ready.result()

    def _begin(self, call: int) -> Future[tuple[Plan, Batch]]:
        return self._thread.submit(self._collect, *self._draw(call))

    def _collect(self, chosen: Plan, frames: Batch) -> tuple[Plan, Batch]:
        kept = {when: self._replay.fetch(wanted) for when, wanted in chosen.frames.items()}
        return chosen, jax.device_put({when: {**frames[when], **kept[when]} for when in kept})
