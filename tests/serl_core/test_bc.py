import jax
import numpy as np
from compiled import Compiled

from serl_core.agents.bc import BC, BCConfig, make_bc_policy
from serl_core.agents.policy import params_from_tree, params_to_tree
from serl_core.nets.encoders import fit_normaliser

EXAMPLE = {"state": np.zeros(2, np.float32)}


def saturated(rng: np.random.Generator) -> dict:
    """A teacher that always pushes to the limit, and closes on one side."""
    state = rng.normal(size=(8, 64, 2)).astype(np.float32)
    arm = np.sign(state)
    gripper = np.where(state[..., :1] > 0.3, -1, np.where(state[..., :1] < -0.3, 1, 0))
    return {"obs": {"state": state}, "action": np.concatenate([arm, gripper], axis=-1).astype(np.float32)}


def test_saturated_demonstrations_are_fitted_without_nan() -> None:
    """Bug: the log density of an action at ±1 under tanh is infinite and the first update gives NaN."""
    config = BCConfig(hidden=(64, 64), learning_rate=3e-3, grasp=True)
    agent, act = Compiled(BC(config, EXAMPLE, 3)), make_bc_policy(config, EXAMPLE, 3)
    state = agent.init(jax.random.key(0), fit_normaliser(np.zeros(2), np.ones(2)))
    rng = np.random.default_rng(0)
    for _ in range(40):
        state, metrics = agent.update(state, saturated(rng))
        assert metrics["finite"]
    assert metrics["loss"] < 0.3 and int(state.steps) == 320
    params = params_from_tree(params_to_tree(agent.policy(state)))
    for x in (-1.0, 1.0):
        action = act(params, {"state": np.array([x, -x], np.float32)}, jax.random.key(0), False)
        np.testing.assert_allclose(action, [x, -x, -x], atol=0.1)
        again = act(params, {"state": np.array([x, -x], np.float32)}, jax.random.key(5), True)
        np.testing.assert_array_equal(action, again)


def test_dropout_acts_in_training_only() -> None:
    """Bug: dropout left on makes evaluation noisy; dropout left off overfits 20 demonstrations."""
    config = BCConfig(hidden=(64, 64), learning_rate=1e-12)
    agent = Compiled(BC(config, EXAMPLE, 2))
    state = agent.init(jax.random.key(0))
    data = {"obs": {"state": np.ones((1, 8, 2), np.float32)}, "action": np.full((1, 8, 2), 0.5, np.float32)}
    state, first = agent.update(state, data)
    first = float(first["loss"])
    state, second = agent.update(state, data)
    assert first != float(second["loss"])


def test_a_bad_number_clears_the_flag() -> None:
    """Bug: behaviour cloning goes on silently after a NaN."""
    agent = BC(BCConfig(hidden=(16,)), EXAMPLE, 2)
    data = {"obs": {"state": np.ones((1, 4, 2), np.float32)}, "action": np.full((1, 4, 2), np.nan, np.float32)}
    assert not agent.update(agent.init(jax.random.key(0)), data)[1]["finite"]


def test_the_average_follows_slowly_and_nothing_aliases_it() -> None:
    """Bug: the soft copy is the parameters themselves, which the next update gives away (a use after donation)."""
    agent = BC(BCConfig(hidden=(16,), tau=0.5, learning_rate=0.1), EXAMPLE, 2)
    state = agent.init(jax.random.key(0))
    before = agent.averaged_policy(state)
    data = {"obs": {"state": np.ones((1, 8, 2), np.float32)}, "action": np.full((1, 8, 2), 0.9, np.float32)}
    state, _ = agent.update(state, data)
    now, average = agent.policy(state), agent.averaged_policy(state)
    for old, new, soft in zip(*map(jax.tree.leaves, (before.actor, now.actor, average.actor)), strict=True):
        np.testing.assert_allclose(soft, (old + new) / 2, rtol=1e-5, atol=1e-6)
    agent.update(state, data)
    assert np.isfinite(jax.tree.leaves(average.actor)[0]).all()
