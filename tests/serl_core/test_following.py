"""A learner that runs follows what is said of episodes: before its next update, and of demonstrations too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learner_parts import Handed, episode, learner, size_of

from serl_core.data.sampling import Sampling
from serl_core.learner import Learner
from serl_core.types import Record, Step


@contextmanager
def observed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Learner, Handed, list[list[float]]]]:
    """A learner, its link, and the rewards of all online transitions, in their order, at each compiled call."""
    seen: list[list[float]] = []
    with learner(run_dir) as (one, link):
        update = one.engine.update

        def noting(state, call):
            found = one.replay.gather(np.sort(one.replay.slots("online")), Sampling(0.9))
            seen.append(found["reward"].tolist())
            return update(state, call)

        monkeypatch.setattr(one.engine, "update", noting)
        yield one, link, seen


def late(records: list[Record], ago: int) -> list[Record]:
    """The episode's success is confirmed only now."""
    last = records[-1]
    assert isinstance(last, Step)
    return [*records[:-1], replace(last, ago=ago)]


def work(one: Learner, link: Handed) -> None:
    """Until everything that waits has arrived, and every update that it pays for is done."""
    one.learn(lambda: not link.waiting and not one.limiter.grants())


def test_no_update_sees_a_late_success_where_it_was_confirmed(tmp_path: Path, monkeypatch) -> None:
    """Guards the order of storing, which dates the success, and learning: one call would learn the wrong frame."""
    with observed(tmp_path, monkeypatch) as (one, link, seen):
        link.waiting.extend(late(episode(0, "pppppp", size_of()), ago=2))
        work(one, link)
    assert seen[-1] == [0.0, 0.0, 0.0, 1.0]
    assert all(sum(rewards[4:]) == 0.0 for rewards in seen)
