from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from env_parts import REACH, Arm, Hand, push
from hypothesis import given
from hypothesis import strategies as st

from serl_core.config import ConfigError
from serl_core.envs.build import build_env
from serl_core.envs.takeover import Takeover, TakeoverConfig, TakeoverMachine, device_action

PROPOSAL = np.array([0.5, -0.25, 0.125, 0.0], np.float32)


class Handed(gym.Wrapper):
    """Remembers what the environment was handed."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.actions: list[np.ndarray] = []

    def step(self, action):
        self.actions.append(np.array(action))
        return self.env.step(action)


def machine(*readings) -> list[int]:
    logic = TakeoverMachine()
    return [logic.update(reading) for reading in readings]


# ── the machine ──


def test_takeovers_begin_at_once_end_after_a_delay_and_count_up():
    """Guards the numbers that learning from takeovers relies on."""
    rest = [push()] * 5
    assert machine(push(), push(0.5), *rest, push(0, 0.3), push()) == [-1, 0, 0, 0, 0, -1, -1, 1, 1]


def test_a_short_rest_does_not_end_a_takeover():
    """Guards against handing the robot back to the policy in the middle of a correction."""
    assert machine(push(0.5), push(), push(), push(0.5), push(), push(), push()) == [0] * 7


def test_a_button_takes_over_and_keeps_it():
    """Guards the gripper: closing it takes longer than the release delay, with the hand at rest."""
    pressed = push(buttons=(True, False))
    assert machine(*[pressed] * 6, *[push()] * 4) == [0] * 9 + [-1]


def test_a_weak_push_keeps_a_takeover_but_does_not_begin_one():
    """Guards the gap between the two thresholds."""
    assert machine(push(0.1), push(0.2), *[push(0.1)] * 6) == [-1] + [0] * 7


@pytest.mark.parametrize(("change", "name"), [({"connected": False}, "disconnected"), ({"age": 1.0}, "stale")])
def test_a_lost_device_neither_begins_nor_keeps_a_takeover(change, name):
    """Guards against a robot that goes on with the last push of an unplugged device."""
    logic = TakeoverMachine()
    assert logic.update(replace(push(0.9), **change)) == -1
    assert logic.update(push(0.9)) == 0 and logic.device == "ok"
    assert logic.update(replace(push(0.9), **change)) == -1 and logic.device == name


def test_a_reading_that_is_not_finite_is_as_good_as_none():
    """Guards the robot against a broken device driver."""
    assert machine(push(0.9), push(np.nan)) == [0, -1]


def test_thresholds_in_the_wrong_order_are_refused():
    """Guards against a configuration that flickers."""
    with pytest.raises(ConfigError, match="release"):
        TakeoverConfig(engage=0.1, release=0.2)


@given(st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
def test_axis_noise_never_makes_a_takeover_flicker(level, seed):
    """Guards every steady push, whatever its strength: 1 % noise starts it at most once and never ends it."""
    rng = np.random.default_rng(seed)
    twist = np.array([level, 0, 0, 0, 0, 0])
    ids = machine(*[replace(push(), twist=twist + rng.uniform(-0.01, 0.01, 6)) for _ in range(60)])
    assert set(ids) <= {-1, 0}
    assert ids == sorted(ids)


@given(st.lists(st.tuples(st.booleans(), st.integers(5, 12)), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_noise_changes_no_takeover_of_a_person(phases, seed):
    """Guards counts of takeovers: pushes and rests give the same numbers with and without 1 % noise."""
    rng = np.random.default_rng(seed)
    clean = [push(0.4 if pushing else 0.0) for pushing, length in phases for _ in range(length)]
    noisy = [replace(reading, twist=reading.twist + rng.uniform(-0.01, 0.01, 6)) for reading in clean]
    assert machine(*clean) == machine(*noisy)


# ── the wrapper ──


def make(hand: Hand) -> tuple[gym.Env, Handed, Arm]:
    arm = Arm()
    inner = Handed(build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth))
    env = Takeover(inner, hand, REACH)
    env.reset(seed=0)
    return env, inner, arm


def test_the_stored_action_is_the_one_handed_over_with_the_proposal_beside_it():
    """Guards what is learnt from: the operator's action during a takeover, the policy's outside of one."""
    env, inner, _ = make(Hand([push(), push(0.3, -2.0, 0.6, 0.9), push(0.3, buttons=(True, False))]))
    infos = [env.step(PROPOSAL)[4] for _ in range(3)]
    for handed, info in zip(inner.actions, infos, strict=True):
        assert info["executed"].dtype == np.float32
        np.testing.assert_array_equal(info["executed"], handed)
        np.testing.assert_array_equal(info["proposal"], PROPOSAL)
    np.testing.assert_array_equal(infos[0]["executed"], PROPOSAL)
    np.testing.assert_allclose(infos[1]["executed"], [0.3, -1.0, 0.6, 0.0], atol=1e-7)
    assert infos[2]["executed"][3] == -1.0
    assert [info["who"] for info in infos] == ["policy", "operator", "operator"]
    assert [info["takeover"] for info in infos] == [-1, 0, 0]


def test_what_the_guard_bends_stands_beside_the_action_and_does_not_replace_it():
    """Guards the replay's dynamics: the bend belongs to the world, the action to the actor."""
    far = replace(REACH, step_translation=0.5)  # much farther than the guard allows
    arm = Arm()
    env = Takeover(build_env(far, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth), Hand(), far)
    _, before = env.reset(seed=0)
    action = np.array([1, 0, 0, 0], np.float32)
    info = env.step(action)[4]
    np.testing.assert_array_equal(info["executed"], action)
    assert info["bent"]
    assert info["target"][0] - before["state"].pose[0] == pytest.approx(arm.robot.metadata.limits.step)


def test_a_lost_device_is_said_and_the_policy_goes_on():
    """Guards unattended hours: an unplugged device is visible and does not stop the run."""
    env, inner, _ = make(Hand([push(0.5), push(0.5, connected=False)]))
    env.step(PROPOSAL)
    info = env.step(PROPOSAL)[4]
    assert (info["who"], info["device"]) == ("policy", "disconnected")
    np.testing.assert_array_equal(inner.actions[-1], PROPOSAL)


def test_a_reset_ends_a_takeover_and_its_number_is_not_used_again():
    """Guards takeover numbers across episodes."""
    hand = Hand([push(0.5), push(0.5)])
    env, _, _ = make(hand)
    assert env.step(PROPOSAL)[4]["takeover"] == 0
    env.reset(seed=1)
    assert hand.resets == 2
    assert env.step(PROPOSAL)[4]["takeover"] == 1


def test_both_buttons_together_mean_nothing():
    """Guards against a gripper that toggles while a person holds both."""
    assert device_action(REACH, push(buttons=(True, True)))[3] == 0.0
