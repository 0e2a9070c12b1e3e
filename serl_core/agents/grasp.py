"""The learned gripper: a discrete critic that chooses close, stay or open (HIL-SERL, arXiv 2410.21845).

The gripper is the last entry of an action; choices are {0: close −1, 1: stay 0, 2: open +1}. Only
this critic sees the gripper's action and the penalty for toggling it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

CHOICES = 3


def choice_of(command: jax.Array) -> jax.Array:
    """The choice (…,) int32 behind an executed gripper command (…,) in [−1, 1]; ±0.5 still means stay."""
    return jnp.clip(jnp.round(command), -1, 1).astype(jnp.int32) + 1


def command_of(values: jax.Array) -> jax.Array:
    """The greedy command (…,) float32 in {−1, 0, 1} for values or logits (…, 3)."""
    return jnp.argmax(values, axis=-1).astype(jnp.float32) - 1.0


def double_dqn_target(
    reward: jax.Array, penalty: jax.Array, discount: jax.Array, online: jax.Array, target: jax.Array
) -> jax.Array:
    """The regression target (B,): the online critic (B, 3) chooses at the next observation, the target one rates it.

    ``penalty`` ≤ 0 is added to the reward. Source: van Hasselt et al. 2016, equation 4.
    """
    best = jnp.argmax(online, axis=-1)
    return reward + penalty + discount * jnp.take_along_axis(target, best[:, None], axis=-1)[:, 0]


def grasp_loss(values: jax.Array, command: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of the executed command's value: values (B, 3), command (B,), target (B,)."""
    chosen = jnp.take_along_axis(values, choice_of(command)[:, None], axis=-1)[:, 0]
    return jnp.mean(jnp.square(chosen - target))


def margin_loss(values: jax.Array, command: jax.Array, human: jax.Array, margin: float) -> jax.Array:
    """Keeps choices that a person never made at least ``margin`` below the one they made: values (B, 3).

    Without it the values of choices missing from demonstrations are whatever the network makes of them.
    ``human`` (B,) bool selects the samples. Source: Hester et al. 2018, arXiv 1704.03732, equation 2.
    """
    made = choice_of(command)[:, None]
    others = values + margin * (jnp.arange(CHOICES) != made)
    excess = jnp.max(others, axis=-1) - jnp.take_along_axis(values, made, axis=-1)[:, 0]
    return jnp.mean(human * excess)
