"""When a person takes over, what the robot is handed then, and what is kept of it."""

from collections.abc import Callable
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from env_parts import REACH, Arm, Hand, push

from serl_core.clock import Clock
from serl_core.config import ConfigError
from serl_core.envs.build import build_env
from serl_core.envs.takeover import Easing, Takeover, device_action
from serl_core.envs.takeover_machine import TakeoverConfig, TakeoverMachine
from serl_core.pairs import PairTask
from serl_core.teleop.device import Reading

PROPOSAL = np.array([0.5, -0.25, 0.125, 0.0], np.float32)


class Watched:
    """A clock, and what is looked at in each period."""

    def __init__(self, clock: Clock, look: Callable[[], object]) -> None:
        self.period, self.start = clock.period, clock.start
        self._clock, self._look = clock, look

    def tick(self) -> None:
        self._clock.tick()
        self._look()


class Handed(gym.Wrapper):
    """Remembers what the environment was handed."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.actions: list[np.ndarray] = []

    def step(self, action):
        self.actions.append(np.array(action))
        return self.env.step(action)


def make(hand: Hand, config: TakeoverConfig | None = None, say=lambda text: None) -> tuple[gym.Env, Handed]:
    """Hands are not eased unless ``config`` says so."""
    arm = Arm()
    inner = Handed(build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth))
    env = Takeover(inner, hand, REACH, config or TakeoverConfig(ease=0), say)
    env.reset(seed=0)
    return env, inner


def test_the_stored_action_is_the_one_handed_over_with_the_proposal_beside_it():
    """Guards what is learnt from: the operator's action during a takeover, the policy's outside of one."""
    env, inner = make(Hand([push(), push(0.3, -2.0, 0.6, 0.9), push(0.3, buttons=(True, False))]))
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


def test_a_device_lost_in_a_takeover_stops_the_arm_until_it_is_taken_up_again():
    """Guards against a policy that goes on with whatever the person was just preventing."""
    said: list[str] = []
    gone, hand = push(0.5, connected=False), Hand([])
    env, inner = make(hand, say=said.append)
    hand.readings = [push(), push(0.5), gone, gone, push(0.5), push(), push(0.5)]
    infos = [env.step(PROPOSAL)[4] for _ in range(7)]
    assert [info["who"] for info in infos] == ["policy", "operator", *["nobody"] * 4, "operator"]
    assert [info["takeover"] for info in infos] == [-1, 0, 0, 0, 0, 0, 0]
    assert [info["device"] for info in infos[1:5]] == ["ok", "disconnected", "disconnected", "ok"]
    assert [np.any(action) for action in inner.actions] == [True, True, False, False, False, False, True]
    assert len(said) == 3 and "stands still" in said[0] and "let go of it" in said[1] and "again" in said[2]


def test_a_device_lost_in_a_takeover_stops_the_next_reset_until_it_is_taken_up_again():
    """Guards against an arm that drives home at the time limit, and a policy that goes on, out of reach of a hand."""
    arm, home = Arm(), []
    hand, task = Hand(), replace(REACH, max_steps=3)
    gone = push(connected=False)
    clock = Watched(arm.clock(), lambda: home.append(arm.robot.status().resets))
    env = build_env(task, arm.robot, obs="state", clock=clock, truth=arm.truth, device=hand)
    env.reset(seed=0)
    hand.readings = [push(0.5), gone, gone, *[gone] * 5, push(0.5), push(0.5), push(), push(0.5)]
    assert [env.step(PROPOSAL)[3] for _ in range(3)] == [False, False, True]
    home.clear()
    env.reset(seed=1)
    assert home[:9] == [1] * 9 and arm.robot.status().resets == 2 and not hand.readings
    assert env.step(PROPOSAL)[4]["who"] == "policy"


def test_a_wait_for_a_lost_device_ends_when_it_is_asked_to():
    """Guards against an actor that can only be killed, and against an arm that moves when it ends."""
    arm, hand, left = Arm(), Hand(), [8]

    def stop() -> bool:
        left[0] -= lost
        return left[0] <= 0

    lost = False
    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth, device=hand, stop=stop)
    env.reset(seed=0)
    hand.readings = [push(0.5), *[push(connected=False)] * 99]
    for _ in range(2):
        env.step(PROPOSAL)
    lost = True
    env.reset(seed=1)
    assert arm.robot.status().resets == 1 and len(hand.readings) > 80


def test_a_device_lost_while_the_policy_leads_stops_the_arm_until_it_is_back():
    """Guards a person who watches, and could not step in: nobody leads, and it is no takeover."""
    said: list[str] = []
    lost = [push(connected=False)] * 2
    env, inner = make(Hand([push(), *lost, push(), *lost, push(0.5)]), TakeoverConfig(ease=0), say=said.append)
    infos = [env.step(PROPOSAL)[4] for _ in range(7)]
    assert [info["who"] for info in infos] == ["policy", "nobody", "nobody", "policy", "nobody", "nobody", "operator"]
    assert [info["takeover"] for info in infos] == [-1] * 6 + [0]
    assert (
        said
        == [
            "the input device is disconnected: the arm stands still until it is back",
            "the input device is back",
        ]
        * 2
    )
    np.testing.assert_array_equal(inner.actions[1:3], np.zeros((2, 4)))
    np.testing.assert_array_equal(inner.actions[3], PROPOSAL)


def test_a_policy_that_is_to_go_on_without_the_device_does():
    """Guards unattended hours, where they were asked for: an unplugged device is visible and does not stop the run."""
    said: list[str] = []
    env, inner = make(Hand([push(connected=False)] * 2), TakeoverConfig(when_lost="policy"), say=said.append)
    info = [env.step(PROPOSAL)[4] for _ in range(2)][-1]
    assert (info["who"], info["device"]) == ("policy", "disconnected")
    assert said == ["the input device is disconnected"]
    np.testing.assert_array_equal(inner.actions[-1], PROPOSAL)


def test_who_comes_eases_in_and_who_goes_is_out_at_once():
    """Guards the arm against a jump, and the person against half a step of what they took over from."""
    push_on = push(-0.4, -0.25, 0.4, buttons=(True, False))
    hand = Hand([push(), push_on, push_on, *[push(0.02)] * 5, push()])
    env, inner = make(hand, TakeoverConfig(ease=1))
    infos = [env.step(PROPOSAL)[4] for _ in range(9)]
    assert [info["who"] for info in infos] == ["policy"] + ["operator"] * 5 + ["policy"] * 3
    np.testing.assert_allclose(inner.actions[1], [-0.2, -0.25, 0.2625, -1.0], atol=1e-6)  # y: both alike, no dip
    np.testing.assert_allclose(inner.actions[2], [-0.4, -0.25, 0.4, -1.0], atol=1e-6)
    np.testing.assert_allclose(inner.actions[6], [0.26, -0.125, 0.0625, 0.0], atol=1e-6)
    np.testing.assert_array_equal(inner.actions[7], PROPOSAL)
    for info, action in zip(infos, inner.actions, strict=True):
        np.testing.assert_array_equal(info["executed"], action)


def test_a_clutch_that_the_device_does_not_have_is_refused():
    """Guards against a takeover that could never begin."""
    with pytest.raises(ConfigError, match=r"clutch is button 2, but .* the buttons 0 to 1"):
        make(Hand(), TakeoverConfig(clutch=2))


def test_let_go_of_the_clutch_the_arm_waits_and_the_policy_comes_back():
    """Guards against a thumb that slips, and against a hand that moves the arm without its clutch."""
    held, loose = push(0.5, buttons=(False, False, True)), push(0.5, buttons=(False, True, False))
    env, inner = make(Hand([loose, loose, held, loose, loose, held, *[loose] * 5]), TakeoverConfig(clutch=2, ease=0))
    who = [env.step(PROPOSAL)[4]["who"] for _ in range(10)]
    assert who == ["policy", "operator", "nobody", "nobody", "operator", *["nobody"] * 3, "policy", "policy"]
    assert not any(np.any(action) for action, led in zip(inner.actions, who, strict=True) if led == "nobody")


def test_a_reset_ends_a_takeover_and_its_number_is_not_used_again():
    """Guards takeover numbers across episodes."""
    hand = Hand([push(0.5), push(0.5)])
    env, _ = make(hand)
    assert env.step(PROPOSAL)[4]["takeover"] == 0
    env.reset(seed=1)
    assert hand.resets == 2
    assert env.step(PROPOSAL)[4]["takeover"] == 1


def test_both_buttons_together_mean_nothing():
    """Guards against a gripper that toggles while a person holds both."""
    assert device_action(REACH, push(buttons=(True, True)))[3] == 0.0


def test_gains_and_masks_shape_what_the_hand_means():
    """Guards an axis that a person switched off, or slowed down, for a task."""
    config = TakeoverConfig(gains=(0.5, 0.0, -1.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(device_action(REACH, push(0.4, 0.4, 0.4), config)[:3], [0.2, 0.0, -0.4])
    logic = TakeoverMachine(config)
    assert logic.update(push(0.0, 0.9), 0.0) == -1
    assert logic.update(push(0.16, 0.9), 0.1) == 0  # the hand's motion counts, not what the gain makes of it


def test_a_button_that_is_the_clutch_is_not_the_grippers():
    """Guards against a gripper that closes with every takeover."""
    pressed = push(buttons=(True, False))
    assert device_action(REACH, pressed, TakeoverConfig(clutch=0))[3] == 0.0
    assert device_action(REACH, pressed)[3] == -1.0


PAIR = PairTask("pair", "", 10, left=REACH, right=REACH)


class Still(gym.Env):
    """Does nothing, for so long."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (PAIR.action_dim,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.time = 0.0
        return np.zeros(1, np.float32), {"time": 0.0}

    def step(self, action):
        self.time += 0.1
        return np.zeros(1, np.float32), 0.0, False, False, {"time": self.time}


def both(left: float, right: float) -> Reading:
    return Reading(np.array([left, *[0.0] * 5, right, *[0.0] * 5]), (False,) * 4)


@pytest.mark.parametrize(
    ("hands", "lefts", "rights", "numbers"),
    [
        ("each", [0.9, 0.5, 0.5, 0.9, 0.9], [0.9, 0.9, 0.5, 0.5, 0.9], [-1, 0, 0, 0, -1]),
        ("together", [0.9, 0.5, 0.5, 0.0, 0.9], [0.9, 0.0, 0.5, 0.5, 0.9], [-1, 0, 0, 0, -1]),
    ],
)
def test_two_arms_are_taken_over_together_or_each_by_its_hand(hands, lefts, rights, numbers):
    """Guards the second arm: it follows its policy, or stands still, as the config says, and the number covers both."""
    handed = Handed(Still())
    readings = [both(0, 0), both(0.5, 0), both(0.5, 0.5), both(0, 0.5), both(0, 0)]
    env = Takeover(handed, Hand(readings), PAIR, TakeoverConfig(ease=0, release_delay=0.0, hands=hands))
    env.reset()
    found = [env.step(np.full(PAIR.action_dim, 0.9, np.float32))[4]["takeover"] for _ in range(5)]
    np.testing.assert_allclose([action[0] for action in handed.actions], lefts, atol=1e-6)
    np.testing.assert_allclose([action[3] for action in handed.actions], rights, atol=1e-6)
    assert found == numbers


def test_easing_never_exceeds_what_is_wanted_nor_turns_against_it():
    """Guards any change of hands, however the two disagree."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        easing = Easing(REACH, steps=int(rng.integers(0, 4)))
        for who in rng.choice(["policy", "operator", "nobody"], 12).tolist():
            wanted = rng.uniform(-1, 1, 4).astype(np.float32) * (who != "nobody")
            eased = easing.step(wanted, who)
            assert eased.dtype == np.float32 and eased[3] == wanted[3]
            assert (np.abs(eased) <= np.abs(wanted) + 1e-6).all() and (eased * wanted >= 0).all()
