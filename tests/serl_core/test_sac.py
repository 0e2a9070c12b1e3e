from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import Compiled

from serl_core.agents.policy import params_from_tree, params_to_tree, tree_from_flat, tree_to_flat
from serl_core.agents.sac import SAC, SACConfig, TrainState, draw_subset, make_policy, rlpd_preset
from serl_core.nets.encoders import fit_normaliser

KEY = jax.random.PRNGKey(0)
EXAMPLE = {"state": np.zeros(4, np.float32)}
PIXELS = {**EXAMPLE, "front": np.zeros((8, 16), np.float16)}
SMALL = SACConfig(hidden=(32, 32), utd=3, batch=16, grasp=True)
ENTROPIC = replace(SMALL, backup_entropy=True, init_temperature=5.0, target_entropy=50.0)
RLPD = rlpd_preset(replace(SMALL, utd=1, value_bounds=(0.5, 0.6)))


def batches(config: SACConfig = SMALL, example: dict = EXAMPLE, action_dim: int = 3, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shape = (config.utd, config.batch)
    obs = [{k: rng.normal(size=(*shape, *x.shape)).astype(x.dtype) for k, x in example.items()} for _ in range(2)]
    return {
        "obs": obs[0],
        "next_obs": obs[1],
        "action": rng.uniform(-1, 1, (*shape, action_dim)).astype(np.float32),
        "reward": rng.normal(size=shape).astype(np.float32),
        "grasp_penalty": np.full(shape, -0.02, np.float32),
        "discount": np.full(shape, 0.9, np.float32),
        "human": rng.random(shape) < 0.5,
    }


@cache
def _agent(config: SACConfig, camera: bool) -> Compiled:
    return Compiled(SAC(config, PIXELS if camera else EXAMPLE, 3))


def agent_for(config: SACConfig = SMALL, camera: bool = False) -> Compiled:
    """Agents hold no state, so that tests may share what was compiled."""
    return _agent(config, camera)


def same(a: object, b: object) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def host(state: TrainState) -> TrainState:
    return jax.tree.map(np.array, state)


@pytest.mark.parametrize("example", [EXAMPLE, PIXELS])
def test_a_critic_only_update_leaves_the_actor_bit_identical(example: dict) -> None:
    """Bug: Adam's momentum moves the actor or the temperature while only the critic is trained."""
    config = SMALL
    agent = agent_for(config, "front" in example)
    state, _ = agent.update(agent.init(KEY), batches(config, example))  # momentum is now not zero
    before = host(state)
    state, metrics = agent.update_critic(state, batches(config, example, seed=1))
    after = host(state)
    for part in ("actor", "actor_opt", "log_temperature", "temperature_opt", "actor_steps", "normaliser"):
        assert same(getattr(before, part), getattr(after, part)), part
    for part in ("critic", "critic_opt", "target"):
        assert not same(getattr(before, part), getattr(after, part)), part
    assert metrics["finite"] and after.critic_steps == 6 and after.actor_steps == 1


def test_the_actor_does_not_move_the_encoder() -> None:
    """Bug: the actor's loss pulls on the shared image encoder."""
    agent = agent_for(camera=True)
    data = batches(SMALL, PIXELS)
    critic_only = host(agent.update_critic(agent.init(KEY), data)[0])
    both = host(agent.update(agent.init(KEY), data)[0])
    assert same(critic_only.critic, both.critic) and same(critic_only.target, both.target)
    assert not same(critic_only.actor, both.actor)


@pytest.mark.parametrize("example", [EXAMPLE, PIXELS])
def test_updates_and_actions_compile_once(example: dict) -> None:
    """Bug: a stray type or shape recompiles inside the training loop, seconds each time."""
    agent = agent_for(SMALL, "front" in example)
    state = agent.init(jax.random.key(1), fit_normaliser(np.zeros(4), np.ones(4)))
    state, _ = agent.update(state, batches(SMALL, example))
    traces = agent.traces
    before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    for seed in range(4):
        state, _ = agent.update(state, batches(SMALL, example, seed=seed))
        state = tree_from_flat(state, tree_to_flat(state))  # what a resume does
    assert agent.traces == traces
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == before


def test_a_bad_number_anywhere_clears_the_flag() -> None:
    """Bug: training goes on for hours after a NaN."""
    config = SMALL
    agent = agent_for()
    for entry in ("action", "reward", "grasp_penalty", "discount"):
        data = batches(config)
        data[entry][0, 3] = np.nan
        assert not agent.update(agent.init(KEY), data)[1]["finite"], entry
    data = batches(config)
    data["next_obs"]["state"][1, 0, 0] = np.nan
    assert not agent.update(agent.init(KEY), data)[1]["finite"]
    assert agent.update(agent.init(KEY), batches(config))[1]["finite"]


def test_target_subset_is_drawn_without_replacement() -> None:
    """Bug: drawing a member twice makes the minimum of two a minimum of one."""
    drawn = np.asarray(jax.vmap(lambda key: draw_subset(key, 10, 2))(jax.random.split(KEY, 500)))
    assert (drawn[:, 0] != drawn[:, 1]).all() and set(drawn.ravel()) == set(range(10))
    with pytest.raises(ValueError, match="critic_subset 3"):
        SACConfig(critics=2, critic_subset=3)


def test_rlpd_preset_trains_ten_critics() -> None:
    """Bug: the target reads other members' parameters, or the preset keeps two critics."""
    agent = agent_for(RLPD)
    state, metrics = agent.update(agent.init(KEY), batches(RLPD))
    assert metrics["finite"] and state.critic["arm"]["value"]["bias"].shape == (10, 1)
    assert metrics["temperature"] == 1 and RLPD.critic_subset == 2


def test_target_entropy_counts_the_gripper() -> None:
    """Bug: the gripper is left out and the policy is kept too random or too narrow."""
    assert SAC(replace(SMALL, grasp=True), EXAMPLE, 7).target_entropy == -3.5
    assert SAC(replace(SMALL, target_entropy=-1.0), EXAMPLE, 7).target_entropy == -1.0


@pytest.mark.parametrize(("config", "sign"), [(SMALL, -1), (ENTROPIC, 1)])
def test_the_temperature_moves_towards_the_target_entropy(config: SACConfig, sign: int) -> None:
    """Bug: a wrong sign drives the temperature to infinity."""
    agent = agent_for(config)
    state = agent.init(KEY)
    first = float(state.log_temperature)
    state, _ = agent.update(state, batches(config))
    assert np.sign(float(state.log_temperature) - first) == sign


def test_termination_cuts_the_bootstrap_and_a_discount_of_zero_means_the_reward() -> None:
    """Bug: success and time limit are treated alike."""
    agent = agent_for()
    data = {**batches(), "discount": np.zeros((3, 16), np.float32)}
    _, metrics = agent.update(agent.init(KEY), data)
    np.testing.assert_allclose(metrics["target_mean"], data["reward"].mean(), rtol=1e-4)


def test_entropy_in_the_backup_is_discounted() -> None:
    """Bug: the entropy term is added to terminal transitions too."""
    agent = agent_for(ENTROPIC)
    data = {**batches(), "discount": np.zeros((3, 16), np.float32)}
    _, ended = agent.update(agent.init(KEY), data)
    np.testing.assert_allclose(ended["target_mean"], data["reward"].mean(), rtol=1e-4)
    _, going = agent.update(agent.init(KEY), batches())
    assert going["target_mean"] > 3  # 0.9 · 5 · about 1.2 nats of entropy of the first policy


def test_bootstrapped_values_stay_within_the_returns_a_task_can_reach() -> None:
    """Bug: values climb above the only reward there is, and flatten what the actor climbs."""
    data = {**batches(RLPD), "reward": np.zeros((1, 16), np.float32)}
    _, metrics = agent_for(RLPD).update(agent_for(RLPD).init(KEY), data)
    assert 0.4499 <= metrics["target_mean"] <= 0.5401  # 0.9 of the bounds


def test_the_target_follows_softly() -> None:
    """Bug: the target is the critic itself, or never moves."""
    agent = agent_for(RLPD)
    state = agent.init(KEY)
    assert same(state.critic, state.target)
    old = host(state).target["arm"]["value"]["kernel"]
    new = host(agent.update(state, batches(RLPD))[0])
    expected = 0.995 * old + 0.005 * new.critic["arm"]["value"]["kernel"]
    np.testing.assert_allclose(new.target["arm"]["value"]["kernel"], expected, rtol=1e-5, atol=1e-7)


def test_published_parameters_hold_only_what_a_policy_needs() -> None:
    """Bug: critics, targets, optimiser or the frozen trunk travel with each publish."""
    config = SMALL
    agent = agent_for(config, camera=True)
    state = agent.init(KEY, fit_normaliser(np.zeros(4), np.ones(4)))
    tree = params_to_tree(agent.policy(state))
    assert {name.split("/")[0] for name in tree} == {"encoder", "actor", "grasp", "normaliser"}
    parts = (state.critic["encoder"], state.critic["grasp"], state.actor, state.normaliser)
    assert sum(x.size for x in tree.values()) == sum(x.size for x in jax.tree.leaves(parts))
    with pytest.raises(ValueError, match="groups"):
        params_from_tree({**tree, "target/kernel": np.zeros(1)})


@pytest.mark.parametrize("example", [EXAMPLE, PIXELS])
def test_published_parameters_survive_the_next_update_and_the_wire(example: dict) -> None:
    """Bug: donated buffers are handed to the publishing thread; the actor acts with other weights."""
    config = SMALL
    agent, act = agent_for(config, "front" in example), make_policy(config, example, 3)
    state = agent.init(KEY)
    params = agent.policy(state)
    obs = {name: np.ones(x.shape, x.dtype) for name, x in example.items()}
    action = act(params, obs, KEY, False)
    tree = params_to_tree(params)
    state, _ = agent.update(state, batches(config, example))
    np.testing.assert_array_equal(act(params, obs, KEY, False), action)
    np.testing.assert_array_equal(act(params_from_tree(tree), obs, KEY, False), action)
    assert action.shape == (3,) and action.dtype == np.float32 and action[2] in (-1, 0, 1)
    assert not np.array_equal(act(params, obs, KEY, True), action)
    assert not np.array_equal(act(agent.policy(state), obs, KEY, False), action)


def test_a_state_survives_a_checkpoint() -> None:
    """Bug: a resume loses optimiser moments, counters or the random key, and learning jumps."""
    agent = agent_for()
    state, _ = agent.update(agent.init(KEY), batches())
    flat = tree_to_flat(state)
    empty = agent.init(jax.random.PRNGKey(9))
    on, _ = agent.update(state, batches(seed=1))
    resumed, _ = agent.update(tree_from_flat(empty, flat), batches(seed=1))
    assert same(host(on), host(resumed))
    with pytest.raises(ValueError, match="other config"):
        tree_from_flat(on, {**flat, ".log_temperature": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="missing or unknown"):
        tree_from_flat(replace(on, model_state={"x": jnp.zeros(1)}), flat)


def test_the_normaliser_is_kept_and_checked() -> None:
    """Bug: weights and the normaliser they were trained with come apart."""
    agent, act = agent_for(), make_policy(SMALL, EXAMPLE, 3)
    shifted = agent.init(KEY, fit_normaliser(np.full(4, 2.0), np.full(4, 3.0)))
    plain = agent.init(KEY)
    obs = np.array([0.5, -1, 2, 1], np.float32)
    a = act(agent.policy(shifted), {"state": obs * 3 + 2}, KEY, False)
    np.testing.assert_allclose(a, act(agent.policy(plain), {"state": obs}, KEY, False), atol=1e-6)
    with pytest.raises(ValueError, match="has 4 entries"):
        agent.init(KEY, fit_normaliser(np.zeros(5), np.ones(5)))


def test_a_sparse_bandit_is_solved_from_demonstrations() -> None:
    """Bug: any sign error in actor or critic: the policy leaves the one rewarded action."""
    config = SACConfig(hidden=(64, 64), learning_rate=3e-3, utd=4, batch=64)
    agent, act = (
        Compiled(SAC(config, {"state": np.zeros(2, np.float32)}, 2)),
        make_policy(config, {"state": np.zeros(2, np.float32)}, 2),
    )
    state, rng = agent.init(KEY), np.random.default_rng(0)
    shape = (config.utd, config.batch)
    for _ in range(250):
        goal = rng.uniform(-0.7, 0.7, (*shape, 2)).astype(np.float32)
        action = rng.uniform(-1, 1, (*shape, 2)).astype(np.float32)
        action[:, ::2] = np.clip(goal[:, ::2] + rng.normal(0, 0.1, goal[:, ::2].shape), -1, 1)
        reward = (np.abs(action - goal).max(-1) < 0.25).astype(np.float32)
        zeros = np.zeros(shape, np.float32)
        data = {"obs": {"state": goal}, "next_obs": {"state": goal}, "action": action, "reward": reward}
        state, _ = agent.update(state, {**data, "grasp_penalty": zeros, "discount": zeros})
    params = agent.policy(state)
    goals = rng.uniform(-0.6, 0.6, (50, 2)).astype(np.float32)
    errors = np.array([np.abs(act(params, {"state": goal}, KEY, False) - goal).max() for goal in goals])
    assert (errors < 0.25).mean() > 0.9
