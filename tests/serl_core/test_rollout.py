from itertools import count

import gymnasium as gym
import numpy as np
import pytest
from env_parts import REACH, Arm

from serl_core.envs.build import build_env
from serl_core.rollout import Decision, Identity, rollout
from serl_core.types import EpisodeStart, Record, Step, record_from_tree, record_to_tree


class CountingEnv(gym.Env):
    """Each observation is a number one higher than the last; asserts that the action echoes what was seen."""

    observation_space = gym.spaces.Dict({"state": gym.spaces.Box(0, 1e6, (1,), np.float32)})
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int) -> None:
        self.numbers = count()
        self.length = length
        self.seeds: list[int | None] = []

    def observe(self):
        self.shown = next(self.numbers)
        return {"state": np.array([self.shown], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        assert action[0] == np.float32(self.shown / 1e6)
        self.t += 1
        info = {"target": np.zeros(7), "bent": False, "time": float(self.t)}
        return self.observe(), 0.0, False, self.t == self.length, info


def echo(obs) -> Decision:
    return Decision(np.array([obs["state"][0] / 1e6], np.float32), version=3)


def run(episodes: int, stop_after: int = 10**9) -> tuple[list[Record], CountingEnv]:
    env, records = CountingEnv(length=4), []
    rollout(
        env, echo, [records.append], identity=Identity("a", first_episode=7), seeds=range(100, 100 + episodes),
        stop=lambda: sum(isinstance(record, Step) for record in records) + 1 > stop_after,
    )  # fmt: skip
    return records, env


def test_nothing_is_lost_repeated_or_reordered():
    """Guards the actor's loop: every observation reaches the subscribers once, in order, with its action."""
    records, env = run(episodes=3)
    seen = [int((r.obs if isinstance(r, EpisodeStart) else r.next_obs)["state"][0]) for r in records]
    assert seen == list(range(15))
    assert [r.episode for r in records if isinstance(r, EpisodeStart)] == [7, 8, 9]
    assert env.seeds == [100, 101, 102]
    assert all(r.policy_version == 3 for r in records if isinstance(r, Step))


def test_a_stop_within_an_episode_is_a_truncation():
    """Guards bootstrapping: an episode cut by Ctrl-C had a future, it was not a failure."""
    records, _ = run(episodes=3, stop_after=6)
    steps = [r for r in records if isinstance(r, Step)]
    assert len(steps) == 7
    assert steps[-1].truncated and not steps[-1].terminated


def test_a_budget_is_kept_to_the_step():
    """Guards the count of training steps: neither one more, nor an empty episode after the last."""
    for budget, episodes in ((6, 2), (8, 2), (9, 3)):
        records = []
        rollout(CountingEnv(length=4), echo, [records.append], identity=Identity("a"), seeds=range(9), budget=budget)
        steps = [r for r in records if isinstance(r, Step)]
        assert len(steps) == budget and len(records) == budget + episodes
        assert steps[-1].truncated


def test_an_aborted_step_says_so():
    """Guards replay against a transition that never happened: the refused action was not carried out."""
    arm, records = Arm(), []
    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth)

    def slow(obs) -> Decision:
        if len(records) == 4:
            arm.robot.advance(1.0)  # the next command answers a state that is too old
        return Decision(np.zeros(4, np.float32))

    rollout(env, slow, [records.append], identity=Identity("a"), seeds=[0, 1], stop=lambda: len(records) > 6)
    aborted = [record.aborted for record in records if isinstance(record, Step)]
    assert aborted[:4] == [False, False, False, True] and not any(aborted[4:])
    assert records[4].truncated and not records[4].terminated and isinstance(records[5], EpisodeStart)
    np.testing.assert_array_equal(records[4].next_obs["state"], records[3].next_obs["state"])
    assert isinstance(records[0], EpisodeStart) and records[0].meta["wrench_at_rest"] == [0.0] * 6


def test_records_of_an_earlier_version_are_read():
    """Guards recorded demonstrations against a field that came later; fields nobody knows stay an error."""
    (_, first, *_), _ = run(episodes=1)
    tree = record_to_tree(first)
    del tree["aborted"]
    again = record_from_tree(tree)
    assert isinstance(again, Step) and not again.aborted
    with pytest.raises(ValueError, match="reward"):
        record_from_tree({name: value for name, value in tree.items() if name != "reward"})
    with pytest.raises(ValueError, match="surplus"):
        record_from_tree(tree | {"surplus": 1})
