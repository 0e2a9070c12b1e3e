"""Learned grippers: a discrete critic that chooses close, stay or open (HIL-SERL, arXiv 2410.21845).

The grippers are the last entries of an action; choices are {0: close −1, 1: stay 0, 2: open +1}. Several
grippers have one critic of all their combinations (3 × 3 for two), as what one hand should do depends on
the other. Only this critic sees the grippers' actions and the penalty for toggling them.
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


def joint_choice(commands: jax.Array) -> jax.Array:
    """The combination (…,) int32 behind the executed commands (…, n) of n grippers: digits to the base of 3."""
    return jnp.sum(choice_of(commands) * _places(commands.shape[-1]), axis=-1)


def joint_commands(values: jax.Array, grippers: int) -> jax.Array:
    """The greedy commands (…, n) float32 of n grippers for values or logits (…, 3ⁿ) of their combinations."""
    best = jnp.argmax(values, axis=-1)[..., None]
    return (best // _places(grippers) % CHOICES).astype(jnp.float32) - 1.0


def _places(grippers: int) -> jax.Array:
    return CHOICES ** jnp.arange(grippers - 1, -1, -1, dtype=jnp.int32)


def double_dqn_target(
    reward: jax.Array, penalty: jax.Array, discount: jax.Array, online: jax.Array, target: jax.Array
) -> jax.Array:
    """The regression target (B,): the online critic (B, C) chooses at the next observation, the target one rates it.

    ``penalty`` ≤ 0 is added to the reward. Source: van Hasselt et al. 2016, equation 4.
    """
    best = jnp.argmax(online, axis=-1)
    return reward + penalty + discount * jnp.take_along_axis(target, best[:, None], axis=-1)[:, 0]


def _made(commands: jax.Array) -> jax.Array:
    """The executed choice (B, 1) int32 behind commands (B,) of one gripper or (B, n) of several."""
    return joint_choice(commands.reshape(commands.shape[0], -1))[:, None]


def grasp_loss(values: jax.Array, commands: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of the executed choice's value: values (B, C), commands (B,) or (B, n), target (B,)."""
    chosen = jnp.take_along_axis(values, _made(commands), axis=-1)[:, 0]
    return jnp.mean(jnp.square(chosen - target))


def margin_loss(values: jax.Array, commands: jax.Array, human: jax.Array, margin: float) -> jax.Array:
    """Keeps choices that a person never made at least ``margin`` below the one they made: values (B, C).

    Without it the values of choices missing from demonstrations are whatever the network makes of them.
    ``commands`` (B,) or (B, n); ``human`` (B,) bool selects the samples. Source: Hester et al. 2018,
    arXiv 1704.03732, equation 2.
    """
    made = _made(commands)
    others = values + margin * (jnp.arange(values.shape[-1]) != made)
    excess = jnp.max(others, axis=-1) - jnp.take_along_axis(values, made, axis=-1)[:, 0]
    return jnp.mean(human * excess)
