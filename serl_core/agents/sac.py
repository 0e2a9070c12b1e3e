"""RLPD: soft actor-critic from prior data (Ball et al. 2023, arXiv 2302.02948), as HIL-SERL runs it.

`SAC.update` is a scan of critic updates and then one actor and temperature update, to be compiled by its caller. The
encoder belongs to the critic: its gradients come from the arm and gripper critics only, the actor
reads ``stop_gradient(z)``. Batches are dicts of arrays with leading dimensions (updates, batch):

============= =================== ===========================================================
entry         shape, dtype        meaning
============= =================== ===========================================================
obs, next_obs dicts, see nets     "state" (n,) float32; (128, 16) float16 per camera
action        (A,) float32        what was handed to the environment, in [−1, 1]
reward        () float32          task reward (summed and discounted over an n-step window)
grasp_penalty () float32          ≤ 0, seen by the gripper critic only
human         () bool             a person acted: a demonstration or a takeover
discount      () float32          of the bootstrap: discount^n · (1 − terminated)
============= =================== ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from serl_core.agents import grasp
from serl_core.agents.policy import Act, Obs, PolicyParams, jit_policy, raw_key, tree_norm
from serl_core.nets.encoders import Encoder, Normaliser, Params, cameras_of, normaliser_for
from serl_core.nets.heads import Activation, ActorHead, DiscreteCritic, critic_ensemble, tanh_sample

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
See = Callable[[Batch, jax.Array], Batch]  # stored minibatch, key → what the networks see: crops, a trunk's features


def as_stored(batch: Batch, key: jax.Array) -> Batch:
    """The networks see what is stored."""
    return batch


@dataclass(frozen=True)
class SACConfig:
    """Settings of the algorithm. Raises ValueError on combinations that cannot work."""

    discount: float = 0.97  # per control step; replay turns it into each sample's bootstrap discount
    tau: float = 0.005  # share of the new parameters in each soft target update
    learning_rate: float = 3e-4  # Adam, the same for critics, actor and temperature
    critics: int = 2  # members of the ensemble
    critic_subset: int = 2  # members drawn without replacement for each target
    hidden: tuple[int, ...] = (256, 256)  # widths of every head
    activation: Activation = "tanh"  # of every head: tanh as HIL-SERL, relu as RLPD
    layer_norm: bool = True  # in the critics: bounds what they extrapolate
    actor_layer_norm: bool = True  # in the actor's head
    init_temperature: float = 0.01  # weight of the entropy at the start: 0.01 HIL-SERL, 1.0 RLPD
    target_entropy: float | None = None  # None: −(action entries)/2, grippers counted
    value_bounds: tuple[float, float] | None = None  # what returns can be: targets are clipped to it, no overestimation
    n_step: int = 1  # rewards summed before the bootstrap; replay builds the windows
    imitation: float = 0.0  # weight of following the person where the critics prefer their action
    grasp_margin: float = 0.05  # with imitation: how far below the person's gripper choice others stay
    backup_entropy: bool = False  # subtract discount · temperature · log π from the critics' target
    grasp: int = 0  # how many of the last action entries are discrete grippers, with one critic of their own
    utd: int = 4  # critic updates per online transition
    batch: int = 256  # transitions per update, demonstrations included

    def __post_init__(self) -> None:
        if not 1 <= self.critic_subset <= self.critics:
            raise ValueError(f"critic_subset {self.critic_subset} must lie between 1 and critics ({self.critics})")
        if not (0 < self.discount < 1 and 0 < self.tau <= 1):
            raise ValueError(f"discount {self.discount} must lie in (0, 1) and tau {self.tau} in (0, 1]")
        if self.value_bounds is not None and not self.value_bounds[0] < self.value_bounds[1]:
            raise ValueError(f"value_bounds {self.value_bounds} must be (lowest, highest)")
        if self.init_temperature <= 0 or self.learning_rate <= 0:
            raise ValueError("init_temperature and learning_rate must be positive")
        if not 0 <= self.grasp <= 4:
            raise ValueError(f"grasp {self.grasp}: choices are 3 to the power of the grippers, so at most 4 of them")


def rlpd_preset(config: SACConfig) -> SACConfig:
    """The same task with RLPD's own architecture: 10 critics, 2 for each target, ReLU, initial temperature 1."""
    return replace(config, critics=10, critic_subset=2, activation="relu", actor_layer_norm=False, init_temperature=1.0)


@struct.dataclass
class TrainState:
    """Everything that learning changes, as one pytree. Donated to each update: never keep an old one."""

    critic: dict[str, Any]  # {"encoder", "arm", "grasp"}: one loss, one optimiser
    critic_opt: Any
    target: dict[str, Any]  # soft copy of ``critic``
    actor: Any  # the actor's head
    actor_average: Any  # soft copy of ``actor``: steadier, for evaluation
    actor_opt: Any
    log_temperature: Any  # () float32
    temperature_opt: Any
    model_state: dict[str, Any]  # mutable statistics of the networks; empty without batch norm
    normaliser: Normaliser
    key: Any  # (2,) uint32
    critic_steps: Any  # () int32
    actor_steps: Any  # () int32


def _mean(metrics: Metrics) -> Metrics:
    return {name: jnp.mean(value, axis=0) for name, value in metrics.items()}


def _with_finite(metrics: Metrics) -> Metrics:
    """Add the flag "finite": gradients' norms are among the metrics, so one bad number anywhere clears it."""
    return {**metrics, "finite": jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))}


def draw_subset(key: jax.Array, size: int, subset: int) -> jax.Array:
    """``subset`` different members (subset,) of an ensemble of ``size`` (REDQ, arXiv 2101.05982)."""
    return jax.random.permutation(key, size)[:subset]


@final
class SAC:
    """Networks and pure updates for one configuration; holds no state.

    ``example_obs`` maps names to arrays of one observation as the networks see it (features, or frames for a ``trunk``
    that is trained); ``action_dim`` counts the grippers. Raises ValueError when they do not fit the configuration.
    """

    def __init__(
        self,
        config: SACConfig,
        example_obs: Obs,
        action_dim: int,
        trunk: nn.Module | None = None,
        trunk_params: Params | None = None,
    ) -> None:
        self.config = config
        self._trunk_params = trunk_params
        self.action_dim = action_dim
        self._arm_dim = action_dim - int(config.grasp)
        if self._arm_dim < 1:
            raise ValueError(f"action_dim {action_dim} leaves no entry for the arm")
        self._example = {name: jnp.zeros((1, *x.shape), x.dtype) for name, x in example_obs.items()}
        self._networks = _Networks(config, cameras_of(example_obs), self._arm_dim, trunk)
        entropy = config.target_entropy
        self.target_entropy = -action_dim / 2 if entropy is None else entropy
        self._optimiser = optax.adam(config.learning_rate)
        self._init = jax.jit(self._init_impl)
        self._policy = jax.jit(self._policy_impl)
        self._averaged_policy = jax.jit(self._averaged_policy_impl)

    def init(self, key: jax.Array, normaliser: Normaliser | None = None) -> TrainState:
        """A fresh state; without a normaliser "state" is used as it is."""
        normaliser = normaliser_for(self._example, normaliser)
        state = self._init(raw_key(key), normaliser)
        if self._trunk_params is None:
            return state
        return state.replace(critic=self._with_trunk(state.critic), target=self._with_trunk(state.target))

    def _with_trunk(self, critic: dict[str, Any]) -> dict[str, Any]:
        trunk = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), self._trunk_params)
        return {**critic, "encoder": {**critic["encoder"], "trunk": trunk}}

    def update(self, state: TrainState, batches: Batch, see: See = as_stored) -> tuple[TrainState, Metrics]:
        """One critic update per minibatch, then one actor and temperature update on the last; to be compiled.

        Metrics are scalars on the device; reading one waits for the call, so read them one call late.
        """
        state, metrics, last = self._scan(state, batches, see)
        state, actor_metrics = self._actor_step(state, last, batches["reward"].shape[0])
        return state, _with_finite({**metrics, **actor_metrics})

    def update_critic(self, state: TrainState, batches: Batch, see: See = as_stored) -> tuple[TrainState, Metrics]:
        """The critic updates only: actor head, temperature and their optimisers stay bit-identical."""
        state, metrics, _ = self._scan(state, batches, see)
        return state, _with_finite(metrics)

    def policy(self, state: TrainState) -> PolicyParams:
        """A copy of what acting needs, safe to hand to another thread while ``state`` is donated."""
        return self._policy(state)

    def averaged_policy(self, state: TrainState) -> PolicyParams:
        """The same from the soft copies: what the policy was lately, without the jitter of single updates."""
        return self._averaged_policy(state)

    def _init_impl(self, key: jax.Array, normaliser: Normaliser) -> TrainState:
        keys = jax.random.split(key, 5)
        nets = self._networks
        z, encoder = nets.encoder.init_with_output(keys[0], self._example)
        arm = jnp.zeros((1, self._arm_dim))
        critic = {
            "encoder": encoder.get("params", {}),
            "arm": nets.ensemble.init(keys[1], z, arm)["params"],
            "grasp": nets.grasp.init(keys[2], z)["params"] if self.config.grasp else {},
        }
        actor = nets.actor.init(keys[3], z)["params"]
        log_temperature = jnp.log(jnp.float32(self.config.init_temperature))
        return TrainState(
            critic=critic,
            critic_opt=self._optimiser.init(critic),
            target=jax.tree.map(jnp.copy, critic),  # one buffer cannot be donated twice
            actor=actor,
            actor_average=jax.tree.map(jnp.copy, actor),
            actor_opt=self._optimiser.init(actor),
            log_temperature=log_temperature,
            temperature_opt=self._optimiser.init(log_temperature),
            model_state={},
            normaliser=jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), normaliser),
            key=keys[4],
            critic_steps=jnp.int32(0),
            actor_steps=jnp.int32(0),
        )

    def _scan(self, state: TrainState, batches: Batch, see: See) -> tuple[TrainState, Metrics, Batch]:
        """All critic updates; the last minibatch comes back as it was seen, for the actor."""

        def one(state: TrainState, batch: Batch) -> tuple[TrainState, tuple[Metrics, Any]]:
            key, see_key = jax.random.split(state.key)
            batch = see(batch, see_key)
            state, metrics = self._critic_step(replace(state, key=key), batch)
            return state, (metrics, batch["obs"])

        state, (metrics, seen) = jax.lax.scan(one, state, batches)
        last = jax.tree.map(lambda x: x[-1], {**batches, "obs": seen})
        return state, _mean(metrics), last

    def _policy_impl(self, state: TrainState) -> PolicyParams:
        params = PolicyParams(state.critic["encoder"], state.actor, state.critic["grasp"], state.normaliser)
        return jax.tree.map(jnp.copy, params)

    def _averaged_policy_impl(self, state: TrainState) -> PolicyParams:
        params = PolicyParams(state.target["encoder"], state.actor_average, state.target["grasp"], state.normaliser)
        return jax.tree.map(jnp.copy, params)

    def _critic_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key, target_key = jax.random.split(state.key)
        targets = self._targets(state, batch, target_key)
        loss = partial(self._critic_loss, normaliser=state.normaliser, batch=batch, targets=targets)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.critic)
        changes, critic_opt = self._optimiser.update(grads, state.critic_opt)
        critic: Any = optax.apply_updates(state.critic, changes)
        target: Any = optax.incremental_update(critic, state.target, self.config.tau)
        metrics["critic_grad_norm"] = tree_norm(grads)
        steps = state.critic_steps + 1
        state = replace(state, critic=critic, critic_opt=critic_opt, target=target, key=key, critic_steps=steps)
        return state, metrics

    def _targets(self, state: TrainState, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Regression targets (B,) of the arm critics and, where the gripper is learned, of its critic."""
        config, nets = self.config, self._networks
        action_key, subset_key = jax.random.split(key)
        z = nets.encode(state.critic, state.normaliser, batch["next_obs"])
        target_z = nets.encode(state.target, state.normaliser, batch["next_obs"])
        action, log_prob, _ = nets.act(state.actor, z, action_key)
        members = state.target["arm"]
        if config.critic_subset < config.critics:
            chosen = draw_subset(subset_key, config.critics, config.critic_subset)
            members = jax.tree.map(lambda x: x[chosen], members)
        value = jnp.min(nets.subset.apply({"params": members}, target_z, action), axis=0)  # type: ignore[arg-type]
        if config.backup_entropy:
            value = value - jnp.exp(state.log_temperature) * log_prob
        if config.value_bounds is not None:
            value = jnp.clip(value, *config.value_bounds)
        targets = {"arm": batch["reward"] + batch["discount"] * value}
        if config.grasp:
            online, target = nets.grasp_values(state.critic, z), nets.grasp_values(state.target, target_z)
            reward, penalty, discount = batch["reward"], batch["grasp_penalty"], batch["discount"]
            if config.value_bounds is not None:  # penalties come on top, but they are small
                target = jnp.clip(target, config.value_bounds[0] - 0.1, config.value_bounds[1])
            targets["grasp"] = grasp.double_dqn_target(reward, penalty, discount, online, target)
        return targets

    def _critic_loss(
        self, critic: dict[str, Any], normaliser: Normaliser, batch: Batch, targets: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        nets = self._networks
        z = nets.encode(critic, normaliser, batch["obs"])
        values = nets.arm_values(critic, z, batch["action"][:, : self._arm_dim])
        loss = jnp.mean(jnp.square(values - targets["arm"]))
        metrics = {"critic_loss": loss, "q_mean": jnp.mean(values), "target_mean": jnp.mean(targets["arm"])}
        if self.config.grasp:
            grasp_values = nets.grasp_values(critic, z)
            commands = batch["action"][:, self._arm_dim :]
            metrics["grasp_loss"] = grasp.grasp_loss(grasp_values, commands, targets["grasp"])
            if self.config.imitation:
                margin = self.config.grasp_margin
                metrics["grasp_loss"] += grasp.margin_loss(grasp_values, commands, batch["human"], margin)
            loss = loss + metrics["grasp_loss"]
        return loss, metrics

    def _actor_step(self, state: TrainState, batch: Batch, updates: int) -> tuple[TrainState, Metrics]:
        key, action_key = jax.random.split(state.key)
        z = jax.lax.stop_gradient(self._networks.encode(state.critic, state.normaliser, batch["obs"]))
        temperature = jnp.exp(state.log_temperature)

        def actor_loss(actor: Any) -> tuple[jax.Array, jax.Array]:
            action, log_prob, mode = self._networks.act(actor, z, action_key)
            value = jnp.mean(self._networks.arm_values(state.critic, z, action), axis=0)
            loss = jnp.mean(temperature * log_prob - value)
            if self.config.imitation:
                loss = loss + self.config.imitation * self._imitation_loss(state, z, batch, action, mode)
            return loss, -jnp.mean(log_prob)

        (loss, entropy), grads = jax.value_and_grad(actor_loss, has_aux=True)(state.actor)
        changes, actor_opt = self._optimiser.update(grads, state.actor_opt)
        actor: Any = optax.apply_updates(state.actor, changes)
        share = 1 - (1 - self.config.tau) ** updates  # as much as the encoder's soft copy moved in as many updates
        average: Any = optax.incremental_update(actor, state.actor_average, share)
        slope = temperature * (entropy - self.target_entropy)  # of temperature · surplus, in log temperature
        change, temperature_opt = self._optimiser.update(slope, state.temperature_opt)
        metrics = {"actor_loss": loss, "entropy": entropy, "temperature": temperature}
        metrics["actor_grad_norm"] = tree_norm(grads)
        state = replace(
            state,
            actor=actor,
            actor_average=average,
            actor_opt=actor_opt,
            log_temperature=state.log_temperature + change,
            temperature_opt=temperature_opt,
            key=key,
            actor_steps=state.actor_steps + 1,
        )
        return state, metrics

    def _imitation_loss(
        self, state: TrainState, z: jax.Array, batch: Batch, action: jax.Array, mode: jax.Array
    ) -> jax.Array:
        """Squared distance to the person's action, wherever the critics still prefer it to the policy's ``mode``.

        Source: the Q-filter of Nair et al. 2018 (arXiv 1709.10089, section IV-C). The filter is what lets
        the policy become better than the person. The sampled ``action`` is what is drawn near, so that the
        policy also stops exploring where it follows.
        """
        human = batch["action"][:, : self._arm_dim]
        theirs = jnp.mean(self._networks.arm_values(state.critic, z, human), axis=0)
        ours = jnp.mean(self._networks.arm_values(state.critic, z, jax.lax.stop_gradient(mode)), axis=0)
        gate = jax.lax.stop_gradient((theirs > ours) & batch["human"])
        return jnp.mean(gate * jnp.sum(jnp.square(action - human), axis=-1))


@final
class _Networks:
    """The modules of one configuration and how their parameters are applied."""

    def __init__(
        self, config: SACConfig, cameras: tuple[str, ...], arm_dim: int, trunk: nn.Module | None = None
    ) -> None:
        hidden, activation = config.hidden, config.activation
        self.encoder = Encoder(cameras, trunk)
        self.ensemble = critic_ensemble(config.critics, hidden, activation, config.layer_norm)
        self.subset = critic_ensemble(config.critic_subset, hidden, activation, config.layer_norm)
        self.grasp = DiscreteCritic(grasp.CHOICES**config.grasp, hidden, activation, config.layer_norm)
        self.actor = ActorHead(arm_dim, hidden, activation, config.actor_layer_norm)

    def encode(self, critic: Mapping[str, Any], normaliser: Normaliser, obs: Mapping[str, jax.Array]) -> jax.Array:
        normalised = {**obs, "state": normaliser(obs["state"])}
        return self.encoder.apply({"params": critic["encoder"]}, normalised)  # type: ignore[return-value]

    def act(self, actor: Any, z: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A sampled action (B, A), its log density (B,), and the mode (B, A)."""
        mean, log_std = self.distribution(actor, z)
        return *tanh_sample(key, mean, log_std), jnp.tanh(mean)

    def distribution(self, actor: Any, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.actor.apply({"params": actor}, z)  # type: ignore[return-value]

    def arm_values(self, critic: Mapping[str, Any], z: jax.Array, action: jax.Array) -> jax.Array:
        return self.ensemble.apply({"params": critic["arm"]}, z, action)  # type: ignore[return-value]

    def grasp_values(self, critic: Mapping[str, Any], z: jax.Array) -> jax.Array:
        return self.grasp.apply({"params": critic["grasp"]}, z)  # type: ignore[return-value]


def make_policy(config: SACConfig, example_obs: Obs, action_dim: int, trunk: nn.Module | None = None) -> Act:
    """``act(params, obs, key, explore) -> action (A,) float32`` for one observation without batch dimension.

    Exploring samples the arm's action, otherwise it is tanh(mean); grippers are always greedy.
    """
    nets = _Networks(config, cameras_of(example_obs), action_dim - int(config.grasp), trunk)

    def apply(params: PolicyParams, obs: Mapping[str, jax.Array], key: jax.Array, explore: jax.Array) -> jax.Array:
        z = nets.encode({"encoder": params.encoder}, params.normaliser, obs)
        mean, log_std = nets.distribution(params.actor, z)
        arm = jnp.where(explore, tanh_sample(key, mean, log_std)[0], jnp.tanh(mean))
        if not config.grasp:
            return arm
        commands = grasp.joint_commands(nets.grasp_values({"grasp": params.grasp}, z), config.grasp)
        return jnp.concatenate([arm, commands], axis=-1)

    return jit_policy(apply, example_obs)
