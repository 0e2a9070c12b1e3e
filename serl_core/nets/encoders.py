"""Encoders: from observations to the encoding z (B, Z) float32 that every head reads.

A camera frame goes through two stages. The frozen trunk (`serl_core.nets.trunks`) runs once, when a frame
enters replay or the policy; what is stored and learned from is its output, (128, 16) float16 of the small one:
channels, positions. The learned stage (`Encoder`) runs inside every update. A trunk that is trained is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct, traverse_util

FEATURES = (4, 4, 128)  # rows, columns, channels of a frame's features
FRAME = (128, 128, 3)  # rows, columns, RGB of a frame
STD_FLOOR = 1e-2  # an entry that demonstrations hardly move must not be blown up when the policy moves it
CLIP = 10.0  # standard deviations; a first hard contact is far outside of what demonstrations show

Params = Mapping[str, Any]


@struct.dataclass
class Normaliser:
    """Mean and standard deviation (n,) float32 of "state", fitted on demonstrations, then frozen."""

    mean: Any
    std: Any

    def __call__(self, state: jax.Array) -> jax.Array:
        return jnp.clip((state - self.mean) / self.std, -CLIP, CLIP)


def fit_normaliser(mean: npt.ArrayLike, std: npt.ArrayLike) -> Normaliser:
    """A normaliser from statistics (n,). Entries with hardly any spread keep a floor. Raises ValueError."""
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)
    if mean.ndim != 1 or mean.shape != std.shape or not np.isfinite([mean, std]).all():
        raise ValueError(f"normaliser: mean {mean.shape} and std {std.shape} must be finite vectors of one length")
    return Normaliser(jnp.array(mean), jnp.array(np.maximum(std, STD_FLOOR)))


def normaliser_for(example_obs: Mapping[str, Any], normaliser: Normaliser | None) -> Normaliser:
    """``normaliser`` if it fits "state" of the example, the identity if it is None. Raises ValueError."""
    size = example_obs["state"].shape[-1]
    if normaliser is None:
        return Normaliser(jnp.zeros(size), jnp.ones(size))
    if normaliser.mean.shape != (size,):
        raise ValueError(f'normaliser has shape {normaliser.mean.shape}, "state" has {size} entries')
    return normaliser


class StateEncoder(nn.Module):
    """Proprioception beside images: (B, n) → (B, width), Dense, LayerNorm, tanh."""

    width: int = 64

    @nn.compact
    def __call__(self, state: jax.Array) -> jax.Array:
        return nn.tanh(nn.LayerNorm()(nn.Dense(self.width)(state)))


class SpatialEmbedding(nn.Module):
    """Learned spatial embedding and bottleneck of one camera: (B, C, S) → (B, width) float32.

    Each of ``blocks`` learned masks (S,) per channel pools the map, a dense layer, LayerNorm and tanh follow (SERL,
    arXiv 2401.16013). Both maps are linear, so for a batch they are multiplied together on the weight side: one plain
    product instead of a slow batched one, its factors rounded to bfloat16, its sums float32. Channels come before
    positions so that the composed matrix needs no transposition. For few observations, as when acting, composing
    would cost more than it saves.
    """

    blocks: int = 8
    width: int = 256

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        channels, positions = features.shape[-2:]
        masks_init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        masks = self.param("masks", masks_init, (channels, positions, self.blocks))
        mix_init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=2)
        mix = self.param("mix", mix_init, (channels, self.blocks, self.width))
        if features.size <= 8 * masks.size:
            pooled = jnp.einsum("...cs,csk->...ck", features.astype(jnp.float32), masks)
            mixed = jnp.einsum("...ck,ckd->...d", pooled, mix)
        else:
            kernel = jnp.einsum("csk,ckd->csd", masks, mix).reshape(-1, self.width)
            flat = features.reshape(*features.shape[:-2], -1)
            narrow = flat.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
            mixed = jnp.matmul(*narrow, preferred_element_type=jnp.float32)
        return nn.tanh(nn.LayerNorm()(mixed))


class Encoder(nn.Module):
    """Observation → z. Without cameras z is the normalised state itself and there are no parameters.

    With a ``trunk`` observations hold frames (B, 128, 128, 3) uint8, and it is trained with the rest.
    """

    cameras: tuple[str, ...] = ()
    trunk: nn.Module | None = None

    @nn.compact
    def __call__(self, obs: Mapping[str, jax.Array]) -> jax.Array:
        if not self.cameras:
            return obs["state"]
        seen = {name: self._features(obs[name]) for name in self.cameras}
        views = [SpatialEmbedding(name=f"camera_{name}")(features) for name, features in seen.items()]
        return jnp.concatenate([StateEncoder(name="state")(obs["state"]), *views], axis=-1)

    def _features(self, seen: jax.Array) -> jax.Array:
        return seen if self.trunk is None else channels_first(self.trunk(seen))


def channels_first(features: Any) -> Any:
    """A trunk's output (…, rows, columns, C) as the (…, C, positions) that are stored and learned from."""
    flat = features.reshape(*features.shape[:-3], -1, features.shape[-1])
    return flat.swapaxes(-1, -2)


def cameras_of(example_obs: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
    """The names of the camera entries, sorted. Raises ValueError when "state" is missing."""
    if "state" not in example_obs:
        raise ValueError(f'observation has no "state", only {sorted(example_obs)}')
    return tuple(sorted(name for name in example_obs if name != "state"))


class Trunk(nn.Module):
    """A small convolutional trunk, 0.54 M weights: (N, 128, 128, 3) uint8 → (N, 4, 4, 128) float32."""

    widths: tuple[int, ...] = (32, 64, 128, 192, FEATURES[-1])
    dtype: Any = jnp.float32  # of the computation; the statistics of group norms are float32 always

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = (images.astype(jnp.float32) / 127.5 - 1.0).astype(self.dtype)
        init = nn.initializers.he_normal()
        for width in self.widths:
            x = nn.Conv(width, (3, 3), (2, 2), use_bias=False, dtype=self.dtype, kernel_init=init)(x)
            x = nn.relu(nn.GroupNorm(num_groups=8, dtype=self.dtype)(x))
        return x


@jax.jit
def _init_trunk(key: jax.Array) -> Params:
    return Trunk().init(key, jnp.zeros((1, *FRAME), jnp.uint8))["params"]


def random_trunk(seed: int) -> Params:
    """Parameters of an untrained `Trunk`; the same seed gives the same parameters on every machine."""
    return _init_trunk(jax.random.PRNGKey(seed))


def save_trunk(path: Path, params: Params) -> None:
    """Write a trunk's parameters as float16 arrays, one per name ("Conv_0/kernel"), in numpy's own format."""
    arrays: dict[str, Any] = {name: np.asarray(leaf, np.float16) for name, leaf in _flat(params).items()}
    np.savez_compressed(path, **arrays)


def _flat(params: Params) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(dict(params), sep="/"))
