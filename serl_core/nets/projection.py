"""A fixed projection of features to fewer channels: a quarter of the memory and of the work of every update."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import struct

from serl_core.nets.containers import read_npz

CHANNELS = 128
CHUNK = 1 << 16  # positions at a time, so that float64 copies stay small


@struct.dataclass
class Projection:
    """Principal components of the channels: (…, C) → (…, channels) float16. ``matrix`` is orthonormal."""

    mean: jax.Array  # (C,) float32
    matrix: jax.Array  # (C, channels) float32

    def __call__(self, features: jax.Array | npt.NDArray[np.float16]) -> jax.Array:
        if features.shape[-1] != self.mean.shape[0]:
            raise ValueError(f"projection of {self.mean.shape[0]} channels, the features have {features.shape[-1]}")
        centred = jnp.asarray(features).astype(jnp.float32) - self.mean
        return (centred @ self.matrix).astype(jnp.float16)


def fit_projection(features: npt.NDArray[np.floating], channels: int = CHANNELS) -> tuple[Projection, float]:
    """PCA over all positions of all frames (…, C), and the share of the variance that it keeps.

    The same features give the same projection: of each component, the largest entry is made positive.
    Raises ValueError if there are too few positions or channels, or values that are not finite.
    """
    width = features.shape[-1]
    flat = features.reshape(-1, width)
    if not 0 < channels <= min(width, len(flat) - 1):
        raise ValueError(
            f"{channels} channels cannot be fitted on {len(flat)} positions with {width} channels: record more frames"
        )
    mean, covariance = _moments(flat)
    variances, components = np.linalg.eigh(covariance)  # ascending
    kept = components[:, ::-1][:, :channels]
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(channels)])
    share = float(variances[::-1][:channels].sum() / max(variances.sum(), np.finfo(np.float64).tiny))
    return Projection(jnp.array(mean, jnp.float32), jnp.array(kept, jnp.float32)), share


def _moments(flat: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (C,) and covariance (C, C) of rows (N, C). Raises ValueError naming the first row that is not finite."""
    chunks = range(0, len(flat), CHUNK)
    for begin in chunks:
        bad = ~np.isfinite(flat[begin : begin + CHUNK]).all(axis=1)
        if bad.any():
            raise ValueError(f"position {begin + int(bad.argmax())} of {len(flat)} is not finite")
    mean = np.sum([flat[begin : begin + CHUNK].sum(axis=0, dtype=np.float64) for begin in chunks], axis=0) / len(flat)
    covariance = np.zeros((flat.shape[1], flat.shape[1]))
    for begin in chunks:
        centred = flat[begin : begin + CHUNK].astype(np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / len(flat)


def save_projection(path: Path, projection: Projection, trunk: str) -> None:
    """Write a projection of the features of a ``trunk``, given its digest, in numpy's format; whole or not at all."""
    beside = path.with_suffix(".tmp.npz")
    of = np.frombuffer(trunk.encode(), np.uint8)
    np.savez(beside, mean=np.asarray(projection.mean), matrix=np.asarray(projection.matrix), trunk=of)
    beside.replace(path)


def load_projection(path: Path, trunk: str, shape: tuple[int, int]) -> Projection:
    """The inverse of `save_projection`, of ``shape`` (channels before, channels after).

    Raises ValueError naming what is wrong with the file, or that it belongs to another trunk or number of channels.
    """
    try:
        arrays = read_npz(path.read_bytes())
        mean, matrix, of = arrays["mean"], arrays["matrix"], arrays["trunk"].tobytes().decode()
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a projection ({error}); delete it to fit a new one") from error
    if of != trunk:
        raise ValueError(f"{path} was fitted on the features of another trunk: give its weights, or begin a new run")
    if mean.shape != shape[:1] or matrix.shape != shape:
        raise ValueError(f"{path} projects {matrix.shape}, not {shape}: give its --channels, or begin a new run")
    return Projection(jnp.array(mean, jnp.float32), jnp.array(matrix, jnp.float32))
