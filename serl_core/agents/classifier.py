"""What a picture shows, told from the frozen trunk's features: a small head per classifier, several of them averaged.

As in SERL (arXiv 2401.16013) each camera has a learned spatial embedding; dropout and shifted views keep a head
that sees a few hundred successes from learning them by heart. Classes are drawn equally often; the shares they
really have go back into the logits afterwards (Menon et al. 2021, arXiv 2007.07314).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from serl_core.nets.encoders import Params, SpatialEmbedding
from serl_core.nets.heads import MLP

Features = Mapping[str, npt.NDArray[np.float16]]  # by camera: (N, views, channels, positions), first view unshifted
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassifierConfig:
    """Network and training of one classifier."""

    blocks: int = 8  # spatial masks per channel, of each camera
    width: int = 64  # of each camera's embedding
    hidden: tuple[int, ...] = (64,)  # widths of the head
    dropout: float = 0.3  # share of units dropped in training
    learning_rate: float = 1e-3  # AdamW
    weight_decay: float = 1e-3
    batch: int = 128  # frames per update, the classes equally often
    updates: int = 1200  # at most
    per_call: int = 40  # updates between two looks at the held-out frames
    patience: int = 8  # looks without a better held-out loss that end training


class Head(nn.Module):
    """Features by camera, each (B, channels, positions) → logits (B, classes)."""

    config: ClassifierConfig
    cameras: tuple[str, ...]
    classes: int

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        config = self.config
        seen = [SpatialEmbedding(config.blocks, config.width, name=f"camera_{c}")(features[c]) for c in self.cameras]
        z = nn.Dropout(config.dropout, deterministic=not train)(jnp.concatenate(seen, axis=-1))
        return nn.Dense(self.classes)(MLP(config.hidden, "relu", dropout=config.dropout)(z, train))


@dataclass(frozen=True)
class Fitted:
    """One trained head, and how it went. ``held_out``: the loss of each look, nats per frame."""

    params: Params
    held_out: tuple[float, ...]
    updates: int


def fit(
    head: Head,
    features: Features,
    labels: Ints,
    train: Ints,
    held_out: Ints,
    seed: int,
) -> Fitted:
    """Train on the frames ``train`` (indices), stop early on the frames ``held_out``, keep the best parameters.

    ``labels`` (N,) are the classes' numbers. Raises ValueError unless ``train`` shows every class.
    """
    pools = [train[labels[train] == number] for number in range(head.classes)]
    if not all(len(pool) for pool in pools):
        raise ValueError(
            f"classifier: training frames of {sum(len(pool) > 0 for pool in pools)} of {head.classes} classes"
        )
    rng = np.random.default_rng(seed)
    prior = log_shares(labels[train], head.classes)
    params = _init(head, views(features, train[:1], None), jax.random.PRNGKey(seed))
    state = (params, _optimiser(head.config).init(params), jax.random.PRNGKey(seed + 1))
    best, losses = jax.tree.map(jnp.copy, params), []
    for look in range(head.config.updates // head.config.per_call):
        state = _updates(head, state, *_batches(head.config, features, labels, pools, rng))
        losses.append(log_loss(logits(head, state[0], features, held_out) + prior, labels[held_out]))
        if losses[-1] <= min(losses):
            best = jax.tree.map(jnp.copy, state[0])
        elif look - int(np.argmin(losses)) >= head.config.patience:
            break
    return Fitted(best, tuple(losses), len(losses) * head.config.per_call)


def log_shares(labels: Ints, classes: int) -> Floats:
    """Logarithm of each class's share of ``labels``, times the number of classes: (classes,)."""
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return np.log(shares * classes).astype(np.float32)


def logits(head: Head, params: Params, features: Features, frames: Ints, at_once: int = 512) -> Floats:
    """Logits (len(frames), classes) of the unshifted frames, for classes that are equally frequent."""
    parts = []
    for begin in range(0, len(frames), at_once):
        chosen = frames[begin : begin + at_once]
        padded = np.resize(chosen, at_once)  # one shape: compiled once
        parts.append(np.asarray(_apply(head, params, views(features, padded, None)))[: len(chosen)])
    return np.concatenate(parts) if parts else np.zeros((0, head.classes), np.float32)


def frame_logits(head: Head, members: Sequence[Params], features: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Logits (classes,) of one frame, features (channels, positions) by camera, averaged over the members."""
    batch = {camera: features[camera][None] for camera in head.cameras}
    return np.mean([np.asarray(_apply(head, params, batch))[0] for params in members], axis=0)


def log_loss(values: Floats, labels: Ints) -> float:
    """Mean negative log probability of ``labels`` (N,) under the logits ``values`` (N, classes), nats."""
    shifted = values - values.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def views(features: Features, frames: npt.NDArray[Any], rng: np.random.Generator | None) -> dict[str, npt.NDArray]:
    """One view of each frame by camera, (*frames.shape, channels, positions): drawn, or the unshifted one."""
    chosen = {}
    for camera, values in features.items():
        view = 0 if rng is None else rng.integers(values.shape[1], size=frames.shape)
        chosen[camera] = values[frames, view]
    return chosen


def _batches(
    config: ClassifierConfig, features: Features, labels: Ints, pools: Sequence[Ints], rng: np.random.Generator
) -> tuple[dict[str, npt.NDArray], Ints]:
    """Minibatches of one call: views (updates, batch, …) by camera, labels (updates, batch)."""
    share = -(-config.batch // len(pools))
    drawn = np.concatenate([rng.choice(pool, (config.per_call, share)) for pool in pools], axis=1)
    return views(features, drawn, rng), labels[drawn]


@partial(jax.jit, static_argnums=0)
def _init(head: Head, example: Mapping[str, jax.Array], key: jax.Array) -> Any:
    return head.init(key, example)["params"]


@partial(jax.jit, static_argnums=0)
def _apply(head: Head, params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.asarray(head.apply({"params": params}, batch))


def _optimiser(config: ClassifierConfig) -> optax.GradientTransformation:
    return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _updates(head: Head, state: Any, batches: Mapping[str, jax.Array], labels: jax.Array) -> Any:
    optimiser = _optimiser(head.config)

    def loss(params: Any, batch: Any, wanted: jax.Array, key: jax.Array) -> jax.Array:
        values: Any = head.apply({"params": params}, batch, train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(values, wanted).mean()

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        params, opt, key = carry
        key, dropout = jax.random.split(key)
        grads = jax.grad(loss)(params, *now, dropout)
        changes, opt = optimiser.update(grads, opt, params)
        return (optax.apply_updates(params, changes), opt, key), None

    return jax.lax.scan(step, state, (batches, labels))[0]
