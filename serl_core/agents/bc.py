"""Behaviour cloning: the baseline of HIL-SERL (arXiv 2410.21845, section V), of demonstrations alone or, as HG-DAgger
(arXiv 1810.02890), of what people did in takeovers too. Which it is, the routing says (`serl_core.data.routing`).

The arm is regressed by the squared error of tanh(mean): the log density of a saturated action under
a squashed Gaussian is infinite. The gripper is a 3-way classification, two are a 9-way one. Same policy
interface and same batches as `serl_core.agents.sac`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from serl_core.agents import grasp
from serl_core.agents.policy import Act, Obs, PolicyParams, jit_policy, raw_key, tree_norm
from serl_core.agents.sac import See, as_stored
from serl_core.nets.encoders import Encoder, Normaliser, cameras_of, normaliser_for
from serl_core.nets.heads import MLP, Activation

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class BCConfig:
    """Settings of behaviour cloning."""

    learning_rate: float = 3e-4  # Adam
    hidden: tuple[int, ...] = (512, 512, 512)  # widths of the head
    activation: Activation = "tanh"  # of the head
    layer_norm: bool = True  # of the head
    dropout: float = 0.25  # share of units dropped in training
    tau: float = 0.005  # share of the new parameters in each soft copy, which is what evaluations act with
    grasp: int = 0  # how many of the last action entries are discrete grippers: classified together, not regressed
    batch: int = 256  # transitions per update


@struct.dataclass
class BCState:
    """Everything that learning changes. Donated to each update."""

    params: dict[str, Any]  # {"encoder", "head"}
    average: dict[str, Any]  # soft copy of ``params``
    opt: Any
    normaliser: Normaliser
    key: Any  # (2,) uint32
    steps: Any  # () int32


class _Head(nn.Module):
    """z (B, Z) → tanh(mean) of the arm (B, arm_dim) and gripper logits (B, choices)."""

    config: BCConfig
    arm_dim: int

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        config = self.config
        choices = grasp.CHOICES ** max(1, config.grasp)
        x = MLP(config.hidden, config.activation, config.layer_norm, config.dropout)(z, train)
        return nn.tanh(nn.Dense(self.arm_dim, name="mean")(x)), nn.Dense(choices, name="gripper")(x)


@final
class BC:
    """Networks and the pure update for one configuration; holds no state. Arguments as `SAC`."""

    def __init__(self, config: BCConfig, example_obs: Obs, action_dim: int) -> None:
        self.config = config
        self._arm_dim = action_dim - int(config.grasp)
        self._example = {name: jnp.zeros((1, *x.shape), x.dtype) for name, x in example_obs.items()}
        self._encoder = Encoder(cameras_of(example_obs))
        self._head = _Head(config, self._arm_dim)
        self._optimiser = optax.adam(config.learning_rate)
        self._init = jax.jit(self._init_impl)
        self._policy = jax.jit(self._policy_impl)

    def init(self, key: jax.Array, normaliser: Normaliser | None = None) -> BCState:
        """A fresh state; without a normaliser "state" is used as it is."""
        return self._init(raw_key(key), normaliser_for(self._example, normaliser))

    def update(self, state: BCState, batches: Batch, see: See = as_stored) -> tuple[BCState, Metrics]:
        """One update per minibatch; batches lead with (updates, batch). To be compiled."""

        def one(state: BCState, batch: Batch) -> tuple[BCState, Metrics]:
            key, see_key = jax.random.split(state.key)
            return self._step(replace(state, key=key), see(batch, see_key))

        state, metrics = jax.lax.scan(one, state, dict(batches))
        metrics = {name: jnp.mean(value) for name, value in metrics.items()}
        return state, {**metrics, "finite": jnp.isfinite(metrics["loss"] + metrics["grad_norm"])}

    def policy(self, state: BCState) -> PolicyParams:
        """A copy of what acting needs."""
        return self._policy(state.params, state.normaliser)

    def averaged_policy(self, state: BCState) -> PolicyParams:
        """The same from the soft copy: without the jitter of single updates."""
        return self._policy(state.average, state.normaliser)

    def _init_impl(self, key: jax.Array, normaliser: Normaliser) -> BCState:
        own = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), normaliser)
        encoder_key, head_key, run_key = jax.random.split(key, 3)
        z, encoder = self._encoder.init_with_output(encoder_key, self._example)
        head = self._head.init(head_key, z)["params"]
        params = {"encoder": encoder.get("params", {}), "head": head}
        average = jax.tree.map(jnp.copy, params)  # one buffer cannot be donated twice
        return BCState(params, average, self._optimiser.init(params), own, run_key, jnp.int32(0))

    def _policy_impl(self, params: dict[str, Any], normaliser: Normaliser) -> PolicyParams:
        return jax.tree.map(jnp.copy, PolicyParams(params["encoder"], params["head"], {}, normaliser))

    def _step(self, state: BCState, batch: Batch) -> tuple[BCState, Metrics]:
        key, dropout_key = jax.random.split(state.key)
        loss = self._loss
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, state.normaliser, batch, dropout_key)
        changes, opt = self._optimiser.update(grads, state.opt)
        params: Any = optax.apply_updates(state.params, changes)
        average: Any = optax.incremental_update(params, state.average, self.config.tau)
        metrics["grad_norm"] = tree_norm(grads)
        return replace(state, params=params, average=average, opt=opt, key=key, steps=state.steps + 1), metrics

    def _loss(
        self, params: Mapping[str, Any], normaliser: Normaliser, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        obs = {**batch["obs"], "state": normaliser(batch["obs"]["state"])}
        z: Any = self._encoder.apply({"params": params["encoder"]}, obs)
        output: Any = self._head.apply({"params": params["head"]}, z, train=True, rngs={"dropout": key})
        mean, logits = output
        loss = jnp.mean(jnp.square(mean - batch["action"][:, : self._arm_dim]))
        metrics = {"arm_loss": loss}
        if self.config.grasp:
            labels = grasp.joint_choice(batch["action"][:, self._arm_dim :])
            metrics["grasp_loss"] = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
            loss = loss + metrics["grasp_loss"]
        return loss, {**metrics, "loss": loss}


def make_bc_policy(config: BCConfig, example_obs: Obs, action_dim: int) -> Act:
    """``act(params, obs, key, explore) -> action (A,) float32``; deterministic, whatever ``explore`` says."""
    encoder, head = Encoder(cameras_of(example_obs)), _Head(config, action_dim - int(config.grasp))

    def apply(params: PolicyParams, obs: Mapping[str, jax.Array], key: jax.Array, explore: jax.Array) -> jax.Array:
        z: Any = encoder.apply({"params": params.encoder}, {**obs, "state": params.normaliser(obs["state"])})
        output: Any = head.apply({"params": params.actor}, z)
        mean, logits = output
        if not config.grasp:
            return mean
        return jnp.concatenate([mean, grasp.joint_commands(logits, config.grasp)], axis=-1)

    return jit_policy(apply, example_obs)
