"""A trained agent that no longer learns and says what actions are worth: the yardstick of a study's takeovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from serl_core.agents import grasp
from serl_core.agents.policy import Obs, PolicyParams, params_from_tree
from serl_core.agents.sac import SACConfig
from serl_core.nets.encoders import Encoder, cameras_of
from serl_core.nets.heads import ActorHead, DiscreteCritic, critic_ensemble


@final
class Reference:
    """Critics and policy of one `SACConfig`, from the trees of a checkpoint; holds no state.

    ``policy`` is what `serl_core.agents.policy.params_to_tree` gave, ``critics`` the parameters of the ensemble as
    nested dicts. An action's value is the mean over the arm's critics plus, where the gripper is learned, what the
    gripper's part of it loses against the best choice: so that a wrong grip costs something too.
    """

    def __init__(
        self,
        config: SACConfig,
        example_obs: Obs,
        action_dim: int,
        policy: Mapping[str, Any],
        critics: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._arm_dim = action_dim - config.grasp
        self._params: PolicyParams = params_from_tree(policy)
        self._critics = jax.tree.map(jnp.asarray, dict(critics))
        hidden, activation = config.hidden, config.activation
        self._encoder = Encoder(cameras_of(example_obs))
        self._actor = ActorHead(self._arm_dim, hidden, activation, config.actor_layer_norm)
        self._ensemble = critic_ensemble(config.critics, hidden, activation, config.layer_norm)
        self._grasp = DiscreteCritic(grasp.CHOICES**config.grasp, hidden, activation, config.layer_norm)
        self._names = tuple(sorted(example_obs))
        self._both = jax.jit(self._both_impl)

    def values(self, obs: Obs, action: np.ndarray) -> tuple[float, float]:
        """Q(s, a) of ``action`` (A,), and Q(s, a_ref) of this agent's own."""
        given = {name: jnp.asarray(obs[name])[None] for name in self._names}
        ours, own = np.asarray(self._both(self._params, self._critics, given, jnp.asarray(action, jnp.float32)))
        return float(ours), float(own)

    def _both_impl(self, params: PolicyParams, critics: Any, obs: dict[str, jax.Array], action: jax.Array) -> jax.Array:
        z: Any = self._encoder.apply({"params": params.encoder}, {**obs, "state": params.normaliser(obs["state"])})
        head: Any = self._actor.apply({"params": params.actor}, z)
        arms = jnp.stack([action[: self._arm_dim], jnp.tanh(head[0][0])])
        values: Any = self._ensemble.apply({"params": critics}, jnp.repeat(z, 2, axis=0), arms)
        mean = jnp.mean(values, axis=0)
        if not self._config.grasp:
            return mean
        choices: Any = self._grasp.apply({"params": params.grasp}, z)
        chosen = choices[0, grasp.joint_choice(action[self._arm_dim :])]
        return mean + jnp.array([chosen - jnp.max(choices), 0.0])
