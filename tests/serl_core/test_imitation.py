from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled

from serl_core.agents import grasp
from serl_core.agents.sac import SAC, SACConfig

OBS = {"state": np.zeros(3, np.float32)}
CONFIG = SACConfig(hidden=(32, 32), utd=1, batch=64, value_bounds=(0.0, 1.0), imitation=10.0, learning_rate=3e-3)


def batches(rng: np.random.Generator, human: bool) -> dict:
    """One-step episodes, all equally good; half of them by somebody who always does 0.5."""
    shape = (1, CONFIG.batch)
    obs = {"state": rng.normal(size=(*shape, 3)).astype(np.float32)}
    somebody = np.arange(CONFIG.batch) % 2 == 0
    action = np.where(somebody[None, :, None], 0.5, rng.uniform(-1, 1, (*shape, 2)))
    return {
        "obs": obs,
        "next_obs": obs,
        "action": action.astype(np.float32),
        "reward": np.full(shape, 0.5, np.float32),
        "grasp_penalty": np.zeros(shape, np.float32),
        "human": somebody[None] & human,
        "discount": np.zeros(shape, np.float32),
    }


def learnt_mode(config: SACConfig, human: bool) -> np.ndarray:
    agent = Compiled(SAC(config, OBS, 2))
    state = agent.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    for _ in range(400):
        state, _ = agent.update(state, batches(rng, human))
    nets = agent._networks
    mean, _ = nets.distribution(state.actor, nets.encode(state.critic, state.normaliser, {"state": jnp.zeros((1, 3))}))
    return np.tanh(np.asarray(mean[0]))


def test_the_policy_follows_the_person_where_critics_agree():
    """Guards the imitation term: with nothing else to learn from, the person's action is found."""
    assert np.abs(learnt_mode(CONFIG, human=True) - 0.5).max() < 0.15


def test_nobody_is_followed_but_people():
    """Guards the flag: the policy's own old actions are not demonstrations."""
    with_term, without = (learnt_mode(config, human=False) for config in (CONFIG, replace(CONFIG, imitation=0.0)))
    np.testing.assert_allclose(with_term, without, atol=1e-4)


def test_margin_holds_untried_gripper_choices_below_the_persons():
    """Guards against values of choices that no demonstration contains, and against a margin on the policy's steps."""
    values = jnp.array([[0.2, 0.5, 0.4], [0.2, 0.5, 0.4]])
    closed = jnp.array([-1.0, -1.0])
    human = grasp.margin_loss(values, closed, jnp.array([True, True]), 0.05)
    assert human == pytest.approx(0.5 + 0.05 - 0.2)
    assert grasp.margin_loss(values, closed, jnp.array([False, False]), 0.05) == 0.0
    assert grasp.margin_loss(jnp.array([[0.6, 0.5, 0.4]]), closed[:1], jnp.array([True]), 0.05) == 0.0
