from collections.abc import Sequence
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import pytest
from env_parts import REACH, Arm, Hand, push

from serl_core.config import ConfigError
from serl_core.teleop.conditions import Always, AtRandom, DeviceExpert, Intervening, Never, ValueGap
from serl_core.teleop.scripted import OperatorConfig, ScriptedOperator

OBS = {"state": np.zeros(1, np.float32)}
ACTION = np.zeros(2, np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def decisions(rule, steps: int) -> list[bool]:
    return [rule.drives(OBS, ACTION) for _ in range(steps)]


# ── by the value gap ──


@dataclass
class Values:
    """Gives the policy's values one after the other; the reference's is 1. Counts how often it was asked."""

    policy: Sequence[float]
    asked: int = 0

    def __call__(self, obs, proposal) -> tuple[float, float]:
        value = self.policy[min(self.asked, len(self.policy) - 1)]
        self.asked += 1
        return value, 1.0


@pytest.mark.parametrize(("value", "drives"), [(0.969, True), (0.97, False), (1.5, False), (-1.0, True)])
def test_the_gap_decides_at_its_share(value, drives):
    """Guards the condition itself: strictly below the share of the reference's value."""
    assert ValueGap(Values([value]), rng(), share=0.97, obeyed=1.0).drives(OBS, ACTION) == drives


def test_the_expert_drives_four_steps_and_the_policy_at_least_one():
    """Guards the length of a takeover: without the policy's step in between there would be nothing to blame."""
    values = Values([0.0])
    pattern = decisions(ValueGap(values, rng(), obeyed=1.0), 12)
    assert pattern == ([True] * 4 + [False]) * 2 + [True] * 2
    assert values.asked == 3  # while it drives, and in the step after it, nothing is decided


def test_an_episode_begins_without_a_takeover():
    """Guards the reset: what is left of a takeover does not reach into the next episode."""
    rule = ValueGap(Values([0.0, 1.0]), rng(), obeyed=1.0)
    assert rule.drives(OBS, ACTION)
    rule.reset()
    assert not rule.drives(OBS, ACTION)


@pytest.mark.parametrize(("value", "share"), [(0.0, 0.95), (1.0, 0.05)])
def test_what_the_values_say_is_obeyed_in_95_of_100_cases(value, share):
    """Guards the noise of the released study: five in a hundred decisions are the contrary."""
    rule, begun = ValueGap(Values([value]), rng(), hold=1), 0
    for _ in range(4000):
        rule.reset()
        begun += rule.drives(OBS, ACTION)
    assert begun / 4000 == pytest.approx(share, abs=0.02)


# ── at random ──


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.85, 1.0])
def test_the_coin_has_its_rate(rate):
    """Guards the rates of the study: a share of all steps, not of the decisions."""
    assert np.mean(decisions(AtRandom(rate, rng()), 4000)) == pytest.approx(rate, abs=0.025)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: AtRandom(30, rng()),
        lambda: ValueGap(Values([0.0]), rng(), 97),
        lambda: ValueGap(Values([0.0]), rng(), hold=0),
    ],
)
def test_percentages_and_empty_takeovers_are_refused(wrong):
    """Guards against a study that silently ran under other conditions."""
    with pytest.raises(ConfigError, match="must lie in"):
        wrong()


# ── the expert's action in the policy's place ──


@dataclass
class Steps:
    """A rule played from a list."""

    pattern: list[bool]
    at: int = 0

    def reset(self) -> None:
        self.at = 0

    def drives(self, obs, proposal) -> bool:
        self.at += 1
        return self.pattern[self.at - 1]


@dataclass
class One:
    """An expert that always wants 1."""

    seen: list = field(default_factory=list)

    def reset(self) -> None:
        self.seen.clear()

    def act(self, obs):
        self.seen.append(obs["state"][0])
        return np.ones(2, np.float32)


class Counting(gym.Env):
    """Observes the number of its step and keeps what it was handed."""

    def __init__(self) -> None:
        self.handed: list[float] = []

    def reset(self, *, seed=None, options=None):
        self.handed.clear()
        return {"state": np.array([0], np.float32)}, {}

    def step(self, action):
        self.handed.append(float(action[0]))
        return {"state": np.array([len(self.handed)], np.float32)}, 0.0, False, False, {"target": np.zeros(7)}


def test_takeovers_replace_the_action_and_are_numbered_through():
    """Guards the records: executed, proposal, who and the takeover's number in every step, over two episodes."""
    inner, expert = Counting(), One()
    env = Intervening(inner, expert, Steps([False, True, True, False, True]))
    for first in (0, 2):
        env.reset()
        infos = [env.step(ACTION)[4] for _ in range(5)]
        assert [info["takeover"] for info in infos] == [-1, first, first, -1, first + 1]
        assert [info["who"] == "operator" for info in infos] == [False, True, True, False, True]
        assert [float(info["executed"][0]) for info in infos] == inner.handed == [0, 1, 1, 0, 1]
        assert not any(info["proposal"].any() for info in infos) and all("target" in info for info in infos)
        assert expert.seen == [0, 1, 2, 3, 4]  # it is asked in every step, for the observation of that step


@pytest.mark.parametrize(("rule", "executed"), [(Always(), 1), (Never(), 0)])
def test_demonstrating_and_being_alone(rule, executed):
    """Guards demonstrations and evaluations of the study."""
    env = Intervening(Counting(), One(), rule)
    env.reset()
    assert {float(env.step(ACTION)[4]["executed"][0]) for _ in range(3)} == {executed}


def test_hands_on_a_device_are_an_expert():
    """Guards the way from a device's reading to an action of the task."""
    hand = Hand([push(0.5, 0.0, -0.25)])
    expert = DeviceExpert(REACH, hand)
    expert.reset()
    np.testing.assert_allclose(expert.act(OBS), [0.5, 0.0, -0.25, 0.0])
    assert hand.resets == 1


# ── skill ──


def mean_miss(skill: float) -> float:
    """How far beside the goal an operator of this skill pushes, over 60 judgements, in full steps."""
    arm = Arm()
    config = OperatorConfig(mode="always", skill=skill, noise=0.0, bias=(2.0, 0.0, 0.0), misjudged=0.2, reaction=0)
    hand = ScriptedOperator(REACH, arm.robot.state, arm.truth, config, rng())
    pushes = []
    for episode in range(60):
        arm.driver.place_objects(episode)
        arm.driver._object[:3] = arm.robot.state().pose[:3]  # already there: whatever it pushes is its mistake
        hand.reset()
        pushes.append(hand.read().twist[:3])
    return float(np.linalg.norm(np.mean(pushes, axis=0)))


def test_errors_are_rarer_with_skill_and_do_not_average_out():
    """Guards the graded experts: who clones a poor one must learn its mistake, not a cleaned mean."""
    misses = [mean_miss(skill) for skill in (0.0, 0.2, 0.6, 1.0)]
    assert misses == sorted(misses, reverse=True)
    assert misses[0] > 0.5 and misses[-1] == 0.0
