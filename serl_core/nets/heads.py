"""Heads: what reads an encoding z (B, Z) float32 and answers with actions or values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = Literal["tanh", "relu"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": nn.tanh, "relu": nn.relu}
LOG_STD_MIN, LOG_STD_MAX = -11.5, 1.6  # std between 1e-5 and 5, as HIL-SERL (arXiv 2410.21845)


class MLP(nn.Module):
    """Dense layers, each followed by dropout, LayerNorm and the activation. (…, D) → (…, hidden[-1]).

    Needs the rng stream "dropout" when ``dropout`` > 0 and ``train``.
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "tanh"
    layer_norm: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=nn.initializers.xavier_uniform())(x)
            if self.dropout > 0:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class ActorHead(nn.Module):
    """Mean and log standard deviation, each (B, action_dim), of a Gaussian that tanh squashes."""

    action_dim: int
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "tanh"
    layer_norm: bool = True

    @nn.compact
    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = MLP(self.hidden, self.activation, self.layer_norm)(z)
        # A small last layer begins with centred actions (Andrychowicz et al. 2021, section 3.2).
        small = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
        mean = nn.Dense(self.action_dim, kernel_init=small, name="mean")(x)
        log_std = nn.Dense(self.action_dim, kernel_init=small, name="log_std")(x)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)


class Critic(nn.Module):
    """One action value: z (B, Z), action (B, A) → (B,)."""

    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "tanh"
    layer_norm: bool = True

    @nn.compact
    def __call__(self, z: jax.Array, action: jax.Array) -> jax.Array:
        x = MLP(self.hidden, self.activation, self.layer_norm)(jnp.concatenate([z, action], axis=-1))
        return nn.Dense(1, kernel_init=nn.initializers.xavier_uniform(), name="value")(x)[..., 0]


class DiscreteCritic(nn.Module):
    """One value per choice: z (B, Z) → (B, choices)."""

    choices: int = 3
    hidden: tuple[int, ...] = (256, 256)
    activation: Activation = "tanh"
    layer_norm: bool = True

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = MLP(self.hidden, self.activation, self.layer_norm)(z)
        return nn.Dense(self.choices, kernel_init=nn.initializers.xavier_uniform(), name="value")(x)


def critic_ensemble(size: int, hidden: tuple[int, ...], activation: Activation, layer_norm: bool) -> nn.Module:
    """``size`` critics with separate parameters (leading axis) evaluated as one: (B, Z), (B, A) → (size, B)."""
    ensemble = nn.vmap(
        Critic,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,  # type: ignore[arg-type]
        out_axes=0,
        axis_size=size,
    )
    return ensemble(hidden=hidden, activation=activation, layer_norm=layer_norm)


def tanh_log_prob(mean: jax.Array, log_std: jax.Array, u: jax.Array) -> jax.Array:
    """Log density (…,) of the action tanh(u) when u ~ N(mean, exp(log_std)²); all arguments (…, A).

    Takes u, not the action: atanh of a saturated action is infinite. log(1 − tanh²u) is written as
    2·(log 2 − u − softplus(−2u)), which stays exact for large |u|.
    """
    normal = -0.5 * jnp.square((u - mean) * jnp.exp(-log_std)) - log_std - 0.5 * jnp.log(2 * jnp.pi)
    squash = 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
    return jnp.sum(normal - squash, axis=-1)


def tanh_sample(key: jax.Array, mean: jax.Array, log_std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A reparameterised action (…, A) in (−1, 1) and its log density (…,)."""
    u = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    return jnp.tanh(u), tanh_log_prob(mean, log_std, u)
