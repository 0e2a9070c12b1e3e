"""What an agent publishes: the parameters a policy needs, nothing else, and the way they travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct, traverse_util

from serl_core.nets.encoders import Normaliser

Obs = Mapping[str, npt.NDArray[Any]]
Key = jax.Array | npt.NDArray[np.uint32]  # of jax.random, or its raw (2,) uint32
Act = Callable[["PolicyParams", Obs, Key, bool], npt.NDArray[np.float32]]


@struct.dataclass
class PolicyParams:
    """One version of a policy: no critics of the arm, no targets, no optimiser, no frozen trunk."""

    encoder: Any
    actor: Any
    grasp: Any  # the gripper critic; {} where the gripper is not learned
    normaliser: Normaliser


class Agent(Protocol):
    """What a learner trains: pure functions on minibatches (updates, batch, …), as `serl_core.agents.sac` says."""

    def init(self, key: jax.Array, normaliser: Normaliser | None = None) -> Any:
        """A fresh state; without a normaliser "state" is used as it is."""
        ...

    def update(self, state: Any, batches: Any, see: Any) -> tuple[Any, dict[str, jax.Array]]:
        """One update per minibatch, to be compiled; metrics are scalars, "finite" among them."""
        ...

    def policy(self, state: Any) -> PolicyParams:
        """A copy of what acting needs."""
        ...

    def averaged_policy(self, state: Any) -> PolicyParams:
        """The same from the soft copies: what the policy was lately."""
        ...


def raw_key(key: jax.Array) -> jax.Array:
    """Keys are kept as plain uint32 arrays, which every checkpoint can hold."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def params_to_tree(params: PolicyParams) -> dict[str, npt.NDArray[Any]]:
    """Flat names ("actor/mean/kernel") → numpy copies, for the wire."""
    nested = {field.name: getattr(params, field.name) for field in fields(PolicyParams)}
    nested["normaliser"] = {"mean": params.normaliser.mean, "std": params.normaliser.std}
    flat = traverse_util.flatten_dict(nested, sep="/")
    return {name: np.array(leaf) for name, leaf in flat.items()}


def params_from_tree(tree: Mapping[str, npt.NDArray[Any]]) -> PolicyParams:
    """The inverse of `params_to_tree`, on the device. Raises ValueError naming unknown or missing groups."""
    nested = traverse_util.unflatten_dict({name: jnp.array(leaf) for name, leaf in tree.items()}, sep="/")
    known = {field.name for field in fields(PolicyParams)}
    if set(nested) - known or not {"actor", "normaliser"} <= set(nested):
        raise ValueError(f"policy parameters: groups {sorted(nested)} instead of {sorted(known)}")
    normaliser = Normaliser(**nested.pop("normaliser"))
    return PolicyParams(nested.get("encoder", {}), nested["actor"], nested.get("grasp", {}), normaliser)


def act_inline() -> None:
    """On a CPU, actions are computed by the thread that asks for them: another would first have to be woken.

    Beside a learner that is 5 % off the slowest actions. Does nothing once this process has computed anything.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def jit_policy(
    apply: Callable[[PolicyParams, Mapping[str, jax.Array], jax.Array, jax.Array], jax.Array],
    example_obs: Obs,
) -> Act:
    """Wrap a policy on batched arrays into ``act(params, obs, key, explore) -> action (A,) float32``.

    ``obs`` is one observation without batch dimension, entries as in ``example_obs``; others are
    ignored, missing ones raise KeyError. Compiles once: exploring is an argument, not a variant.
    """
    names = tuple(sorted(example_obs))

    @jax.jit
    def run(params: PolicyParams, obs: dict[str, jax.Array], key: jax.Array, explore: jax.Array) -> jax.Array:
        batch = jax.tree.map(lambda x: x[None], obs)
        return apply(params, batch, key, explore)[0]

    def act(params: PolicyParams, obs: Obs, key: Key, explore: bool) -> npt.NDArray[np.float32]:
        given = {name: obs[name] for name in names}
        return np.array(run(params, given, key, np.bool_(explore)), np.float32)

    return act


def tree_norm(tree: Any) -> jax.Array:
    """Euclidean norm () of all entries of a pytree."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.float32(0)))


def tree_to_flat(tree: Any) -> dict[str, npt.NDArray[Any]]:
    """Any pytree of arrays, such as a whole train state, as flat names → numpy copies, for a checkpoint."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def tree_from_flat(example: Any, flat: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Rebuild a pytree shaped like ``example`` on the device. Raises ValueError naming what does not fit."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(example)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if set(names) != set(flat):
        raise ValueError(f"saved state: missing or unknown entries {sorted(set(names) ^ set(flat))[:5]}")
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if flat[name].shape != leaf.shape or flat[name].dtype != leaf.dtype:
            found = f"{flat[name].dtype}{flat[name].shape}"
            raise ValueError(f"saved state: {name} is {found} instead of {leaf.dtype}{leaf.shape}; other config?")
    return jax.tree_util.tree_unflatten(structure, [jnp.array(flat[name], copy=True) for name in names])
