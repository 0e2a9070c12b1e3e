"""A success that is confirmed late: where it counts in the store, in replay and as a frame."""

from dataclasses import replace

import numpy as np
from classifier_parts import observe, step
from env_parts import REACH, Arm

from serl_core.data.episodes import EpisodeStore
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.envs.build import build_env
from serl_core.envs.rewards import NOTHING, Verdict
from serl_core.rollout import Decision, Identity, rollout
from serl_core.types import EpisodeStart, Judgement, Step

RNG = np.random.default_rng(0)


class Late:
    """Confirms in step 4 a success that began in step 2; steps count from 0."""

    name = "late"

    def __init__(self) -> None:
        self.steps = 0

    def reset(self) -> None:
        self.steps = 0

    def judge(self, obs, info) -> Verdict:
        self.steps += 1
        return Verdict(1.0, True, True, ago=2) if self.steps == 5 else NOTHING


def recorded() -> list:
    arm, records = Arm(), []
    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth, judge=Late())
    still = Decision(np.zeros(4, np.float32))
    rollout(env, lambda obs: still, [records.append], identity=Identity("a"), seeds=[1])
    return records


def test_the_store_ends_the_episode_at_the_first_frame_and_keeps_all(tmp_path):
    """Guards the date of a success all the way from the judge to what is read back."""
    records = recorded()
    with EpisodeStore(tmp_path) as store:
        for record in records:
            store.append(record)
    read = [record for record in EpisodeStore(tmp_path).records() if isinstance(record, Step)]
    assert [(r.step, r.reward, r.terminated, r.success) for r in read][-1] == (2, 1.0, True, True)
    assert len(list(EpisodeStore(tmp_path).records(as_recorded=True))) == len(records) == 6
    assert records[0].meta["judge"] == "late"
    label = EpisodeStore(tmp_path).labels.newest()["a", 0]
    assert (label.verdict, label.step, label.source) == ("success", 2, "classifier")


def test_replay_learns_the_success_at_its_first_frame(tmp_path):
    """Guards against the reward landing on a frame in which nothing new happened, and against learning past it."""
    records = recorded()
    replay = Replay(50, records[0].obs, 4, dict)
    with EpisodeStore(tmp_path) as store:
        for record in records:
            store.append(record)
            replay.insert(record)
        for label in store.labels.news():
            replay.relabel(label)
    found = replay.gather(replay.slots("online"), Sampling(0.9))
    assert sorted(found["reward"].tolist()) == [0.0, 0.0, 1.0] and replay.size("online") == 3
    assert found["discount"][found["reward"] == 1.0].tolist() == [0.0]


def test_a_success_at_once_needs_no_verdict_beside_it(tmp_path):
    """Guards the label layer against a line for every ordinary success."""
    obs = observe(True, RNG)
    with EpisodeStore(tmp_path) as store:
        store.append(EpisodeStart("a", 0, obs))
        store.append(step("a", 0, 0, obs, success=True, terminated=True))
    assert not (tmp_path / "labels.jsonl").exists()


def test_a_success_that_a_person_denied_stays_denied(tmp_path):
    """Guards a false success against being made true again by what the judge had said."""
    with EpisodeStore(tmp_path) as store:
        for record in recorded():
            store.append(record)
        found = store.labels.newest()["a", 0]
        store.labels.add(replace(found, verdict="failure", step=-1, source="person"))
    last = [record for record in EpisodeStore(tmp_path).records()][-1]
    assert (last.step, last.reward, last.success, last.truncated) == (4, 0.0, False, True)


def said(step: Step, verdict: str, **changes) -> Judgement:
    """What a person says of the episode."""
    return Judgement(step.actor, step.episode, verdict, -1, "anna", 5.0, **changes)


def test_a_person_who_discards_it_has_the_last_word(tmp_path):
    """Guards against learning from an episode that was thrown away in the very period in which it was confirmed."""
    *before, last = recorded()
    with EpisodeStore(tmp_path) as store:
        for record in (*before, said(last, "discarded"), last):  # what is said is sent before its period's step
            store.append(record, "a")
    assert EpisodeStore(tmp_path).labels.newest()["a", 0].verdict == "discarded"
    assert not [record for record in EpisodeStore(tmp_path).records() if isinstance(record, Step)]


def test_a_crash_that_repeats_the_success_does_not_bring_it_back(tmp_path):
    """Guards "that success was false" against records that are delivered again since only verdicts reached the disk."""
    *before, last = recorded()
    denied = said(last, "failure", wrong="false_success", wrong_step=2)
    with EpisodeStore(tmp_path) as store:
        for record in before:
            store.append(record, "a")
        for record in (last, denied):
            store._keep_verdict(record)  # as far as it came
    with EpisodeStore(tmp_path) as store:
        store.append(last, "a")
        store.append(denied, "a")
    assert EpisodeStore(tmp_path).labels.newest()["a", 0].verdict == "failure"
