from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from compiled import Compiled

from serl_core.agents import grasp
from serl_core.agents.sac import SAC, SACConfig, make_policy

EXAMPLE = {"state": np.zeros(4, np.float32)}
CONFIG = SACConfig(hidden=(32, 32), grasp=True)


def batches(utd: int = 2, batch: int = 32) -> dict:
    rng = np.random.default_rng(0)
    obs = [{"state": rng.normal(size=(utd, batch, 4)).astype(np.float32)} for _ in range(2)]
    return {
        "obs": obs[0],
        "next_obs": obs[1],
        "action": rng.uniform(-1, 1, (utd, batch, 3)).astype(np.float32),
        "reward": rng.normal(size=(utd, batch)).astype(np.float32),
        "grasp_penalty": np.zeros((utd, batch), np.float32),
        "discount": np.full((utd, batch), 0.9, np.float32),
    }


@cache
def shared_agent() -> Compiled:
    return Compiled(SAC(CONFIG, EXAMPLE, 3))


def trained(**change: np.ndarray) -> dict:
    agent = shared_agent()
    state, _ = agent.update_critic(agent.init(jax.random.PRNGKey(0)), {**batches(), **change})
    return state.critic


def same(a: object, b: object) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_commands_and_choices_round_trip() -> None:
    """Bug: close and open are swapped, or a half-hearted command counts as a toggle."""
    commands = jnp.array([-1.0, -0.51, -0.5, 0.0, 0.5, 0.51, 1.0])
    np.testing.assert_array_equal(grasp.choice_of(commands), [0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(grasp.command_of(jnp.eye(3)), [-1, 0, 1])


def test_double_dqn_target() -> None:
    """Bug: the target network both chooses and rates, or the penalty is forgotten."""
    online, target = jnp.array([[0.0, 5.0, 1.0]]), jnp.array([[9.0, 2.0, 7.0]])
    got = grasp.double_dqn_target(jnp.ones(1), jnp.full(1, -0.25), jnp.full(1, 0.5), online, target)
    np.testing.assert_allclose(got, [1 - 0.25 + 0.5 * 2])


def test_the_penalty_reaches_the_gripper_critic_only() -> None:
    """Bug: the arm critics pay for toggles they cannot cause."""
    plain, fined = trained(), trained(grasp_penalty=np.full((2, 32), -0.5, np.float32))
    assert same(plain["arm"], fined["arm"]) and not same(plain["grasp"], fined["grasp"])


def test_the_arm_critics_never_see_the_gripper() -> None:
    """Bug: the arm critics read a discrete action that the actor does not produce."""
    action = batches()["action"].copy()
    action[..., -1] = 1.0
    plain, gripped = trained(), trained(action=action)
    assert same(plain["arm"], gripped["arm"]) and not same(plain["grasp"], gripped["grasp"])


def test_the_gripper_learns_when_to_close() -> None:
    """Bug: executed commands are credited to the wrong choice."""
    config = replace(CONFIG, learning_rate=1e-2)
    agent, act = Compiled(SAC(config, EXAMPLE, 3)), make_policy(config, EXAMPLE, 3)
    data = batches(4, 128)
    near = data["obs"]["state"][..., 0] > 0
    command = grasp.command_of(jax.random.normal(jax.random.PRNGKey(1), (4, 128, 3)))
    data["action"][..., -1] = command
    data["reward"] = (np.asarray(command) == np.where(near, -1, 1)).astype(np.float32)
    data["discount"] = np.zeros((4, 128), np.float32)
    state = agent.init(jax.random.PRNGKey(0))
    for _ in range(60):
        state, _ = agent.update(state, data)
    params = agent.policy(state)
    for sign in (-1.0, 1.0):
        for explore in (True, False):
            action = act(params, {"state": np.array([sign, 0, 0, 0], np.float32)}, jax.random.PRNGKey(0), explore)
            assert action[-1] == -sign


# ── two grippers ──

PAIR = replace(CONFIG, grasp=2, learning_rate=1e-2)


def test_two_grippers_have_nine_combinations_that_round_trip() -> None:
    """Bug: the hands are swapped between what was executed and what is chosen."""
    commands = jnp.array([[left, right] for left in (-1.0, 0.0, 1.0) for right in (-1.0, 0.0, 1.0)])
    np.testing.assert_array_equal(grasp.joint_choice(commands), np.arange(9))
    np.testing.assert_array_equal(grasp.joint_commands(jnp.eye(9), 2), commands)
    np.testing.assert_array_equal(grasp.joint_choice(commands[:, :1]), grasp.choice_of(commands[:, 0]))
    np.testing.assert_array_equal(grasp.joint_commands(jnp.eye(3), 1)[:, 0], grasp.command_of(jnp.eye(3)))


def test_two_arms_with_grippers_have_the_published_target_entropy() -> None:
    """Bug: entries of discrete grippers are forgotten (−7 for 12 + 2 entries in HIL-SERL's code)."""
    assert SAC(PAIR, EXAMPLE, 14).target_entropy == -7.0
    assert SAC(CONFIG, EXAMPLE, 7).target_entropy == -3.5


def test_the_joint_critic_learns_what_one_hand_must_do_for_the_other() -> None:
    """Bug: two hands are credited one by one, so that "only if the other holds" cannot be learnt."""
    agent, act = Compiled(SAC(PAIR, EXAMPLE, 4)), make_policy(PAIR, EXAMPLE, 4)
    data = batches(4, 128)
    near = data["obs"]["state"][..., 0] > 0
    commands = np.random.default_rng(1).integers(-1, 2, (4, 128, 2)).astype(np.float32)
    data["action"] = np.concatenate([data["action"][..., :2], commands], axis=-1)
    opposite = commands[..., 0] * commands[..., 1] == -1.0
    data["reward"] = (opposite & (commands[..., 0] == np.where(near, 1, -1))).astype(np.float32)
    data["discount"] = np.zeros((4, 128), np.float32)
    state = agent.init(jax.random.PRNGKey(0))
    assert state.critic["grasp"]["value"]["bias"].shape == (9,)
    for _ in range(80):
        state, _ = agent.update(state, data)
    params = agent.policy(state)
    for sign in (-1.0, 1.0):
        action = act(params, {"state": np.array([sign, 0, 0, 0], np.float32)}, jax.random.PRNGKey(0), True)
        assert action.shape == (4,) and action[2:].tolist() == [sign, -sign]


def test_the_arm_critics_see_neither_gripper() -> None:
    """Bug: with two grippers only the last entry is cut off."""
    agent, data = Compiled(SAC(PAIR, EXAMPLE, 4)), batches()
    results = []
    for command in (0.0, 1.0):
        data["action"] = np.concatenate([batches()["action"][..., :2], np.full((2, 32, 2), command, np.float32)], -1)
        results.append(agent.update_critic(agent.init(jax.random.PRNGKey(0)), data)[0].critic)
    assert same(results[0]["arm"], results[1]["arm"]) and not same(results[0]["grasp"], results[1]["grasp"])
