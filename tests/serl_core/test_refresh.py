"""New views of frames that replay has already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from learner_parts import Handed

from serl_core.data.episodes import EpisodeStore
from serl_core.data.refresh import Refresher
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.learner import Config, Learner, blueprint_for
from serl_core.types import EpisodeStart, Record, Step

VIEWS = 2


def frame(number: int) -> dict[str, np.ndarray]:
    return {"state": np.array([number], np.float32), "front": np.full((2, 2, 3), number, np.uint8)}


class Counting:
    """In the place of features: frame number, and how often anything was encoded before."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, obs):
        self.calls += 1
        return {**obs, "front": np.full((VIEWS, 2), [obs["front"][0, 0, 0], self.calls], np.float32)}


def episode(number: int, first: int, steps: int) -> list[Record]:
    """Frames are numbered from ``first`` on."""
    found: list[Record] = [EpisodeStart("a", number, frame(first))]
    action, target = np.zeros(1, np.float32), np.zeros(7)
    for index in range(steps):
        ends = index == steps - 1
        found.append(
            Step("a", number, index, action, action, target, False, frame(first + index + 1), 0.5, 0.0, False, ends,
                 False, "policy", -1, 0, 0.0)
        )  # fmt: skip
    return found


@pytest.mark.parametrize("where", ["device", "host"])
def test_every_frame_gets_new_views_of_itself_and_nothing_else_changes(tmp_path: Path, where) -> None:
    """Guards the data: features under the wrong frame, or a reward lost on the way, would teach nonsense."""
    encode = Counting()
    replay = Replay(30, frame(0), 1, encode, views=VIEWS, where=where)
    with EpisodeStore(tmp_path) as store:
        for record in [*episode(0, 0, 4), *episode(1, 10, 3)]:
            store.append(record)
            replay.insert(record)
        spec, slots = Sampling(0.9), np.sort(replay.slots("online"))
        before, encoded = replay.gather(slots, spec), encode.calls
        refresher = Refresher(replay, encode, [store])
        for _ in range(1 + 9):  # the first one begins the round
            refresher.step()
        after = replay.gather(slots, spec)
    assert refresher.refreshed == 9
    for when in ("obs", "next_obs"):
        np.testing.assert_array_equal(after[when]["front"][:, 0], after[when]["state"][:, 0])
        assert (after[when]["front"][:, 1] > encoded).all() and (before[when]["front"][:, 1] <= encoded).all()
    for fact in ("action", "reward", "discount"):
        np.testing.assert_array_equal(after[fact], before[fact])


def test_a_frame_whose_place_was_taken_is_left_alone(tmp_path: Path) -> None:
    """Guards against writing into the slot of another frame after the ring came round."""
    encode = Counting()
    replay = Replay(6, frame(0), 1, encode, views=VIEWS)
    with EpisodeStore(tmp_path) as store:
        for record in [*episode(0, 0, 4), *episode(1, 10, 4)]:
            store.append(record)
            replay.insert(record)
        refresher = Refresher(replay, encode, [store])
        for _ in range(1 + 10):
            refresher.step()
    found = replay.gather(np.sort(replay.slots("online")), Sampling(0.9))
    for when in ("obs", "next_obs"):
        np.testing.assert_array_equal(found[when]["front"][:, 0], found[when]["state"][:, 0])
    assert 0 < refresher.refreshed < 10


@pytest.mark.parametrize("lockstep", [False, True])
def test_an_idle_learner_looks_again_but_not_in_lockstep(tmp_path: Path, lockstep: bool) -> None:
    """Guards repeatability: in lockstep nothing may depend on how long the learner had nothing to do."""
    config = Config(tmp_path, obs="pixels", capacity=50, lockstep=lockstep)
    raw, rest = blueprint_for(config).raw_example(), np.zeros(4, np.float32)
    start = EpisodeStart("a-1", 0, raw)
    step = Step("a-1", 0, 0, rest, rest, np.zeros(7), False, raw, 0.0, 0.0, False, True, False, "policy", -1, 0, 0.0)
    turns = iter(range(20))
    with EpisodeStore(tmp_path / "episodes") as store:
        learner = Learner(config, Handed(0), store)  # type: ignore[arg-type]
        for record in (start, step):
            store.append(record)
            learner.replay.insert(record)
        learner.learn(lambda: next(turns, None) is None)
    assert (learner.figures()["refreshed"] > 0) is not lockstep
