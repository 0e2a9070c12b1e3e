"""What the networks see of a stored minibatch: features as they are, or fresh random crops of frames.

Each variant runs inside the learner's compiled call, on observations (B, …) of one minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from serl_core.nets.encoders import channels_first
from serl_core.nets.frames import PAD
from serl_core.nets.trunks import FrozenTrunk

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Sight:
    """``see(params, batch, key)`` is the minibatch that the networks get; ``params`` stay what they are."""

    see: Callable[[Any, Batch, jax.Array], Batch]
    params: Any = None


def as_stored(stacked: tuple[str, ...] = ()) -> Sight:
    """States, and features that were computed when their frames entered replay.

    Those of ``stacked`` cameras are (B, T, C, S), and seen as (B, T · C, S).
    """
    if not stacked:
        return Sight(lambda params, batch, key: batch)
    return Sight(lambda params, batch, key: _each(batch, stacked, key, lambda seen, key: _joined(seen, len(seen))))


def cropped(cameras: tuple[str, ...]) -> Sight:
    """A random crop of every frame, for a trunk that is trained."""
    return Sight(lambda params, batch, key: _each(batch, cameras, key, crop))


def through(trunk: FrozenTrunk, cameras: tuple[str, ...], dtype: Any = jnp.float32) -> Sight:
    """The features (B, C, S) ``dtype`` of a fresh random crop of every frame: exact, for the price of a pass.

    Of stacked frames (B, T, H, W, 3) those of one sample are shifted alike, and seen as (B, T · C, S).
    """
    module = trunk.spec.module.clone(dtype=dtype)

    def see(frozen: Any, batch: Batch, key: jax.Array) -> Batch:
        params, projection = frozen

        def look(frames: jax.Array, key: jax.Array) -> jax.Array:
            shifted = crop(frames, key)
            seen: Any = module.apply({"params": params}, shifted.reshape(-1, *shifted.shape[-3:]))
            return _joined(channels_first(seen if projection is None else projection(seen)), len(frames))

        return _each(batch, cameras, key, look)

    return Sight(see, (trunk.params, trunk.projection))


def crop(frames: jax.Array, key: jax.Array) -> jax.Array:
    """Each sample (B, …, H, W, 3) shifted by up to 4 pixels, its edge repeated (DrQ, arXiv 2004.13649)."""
    between = frames.ndim - 4  # axes of a stack, whose frames move together
    padded = jnp.pad(frames, (*((0, 0),) * (1 + between), (PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (frames.shape[0], 2), 0, 2 * PAD + 1)
    cut = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (*(0,) * between, at[0], at[1], 0), frames.shape[1:]))
    return cut(padded, corners)


def _joined(features: jax.Array, samples: int) -> jax.Array:
    """(…, C, S) → (samples, channels of all of a sample's frames, S)."""
    return features.reshape(samples, -1, features.shape[-1])


def _each(
    batch: Batch, cameras: tuple[str, ...], key: jax.Array, look: Callable[[jax.Array, jax.Array], jax.Array]
) -> Batch:
    """``look`` at every camera of obs and of next_obs, each with a key of its own."""
    keys = iter(jax.random.split(key, 2 * len(cameras)))
    seen = {
        when: {**batch[when], **{name: look(batch[when][name], next(keys)) for name in cameras}}
        for when in ("obs", "next_obs")
    }
    return {**batch, **seen}
