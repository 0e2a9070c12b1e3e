"""A learner that runs follows what is said of episodes: before its next update, and of demonstrations too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learner_parts import ACTION, Handed, demonstrations, episode, learner, size_of

from serl_core import methods
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Sampling
from serl_core.following import PATIENCE, Following
from serl_core.learner import Learner
from serl_core.types import SILENCE, Judgement, Message, Record, Step


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


def asked(records: list[Record]) -> list[Message]:
    """The episode ends without a success, and a person is asked; their question goes before its last record."""
    last = records[-1]
    assert isinstance(last, Step)
    ends = replace(last, reward=0.0, success=False, terminated=False, truncated=True)
    return [*records[:-1], Judgement(last.actor, last.episode, "pending", -1, SILENCE, 1.0), ends]


def test_no_update_sees_the_last_step_while_a_person_thinks(tmp_path: Path, monkeypatch) -> None:
    """Guards an episode that was ended before its verdict: nobody learns that its end is worth nothing."""
    size = size_of()
    with observed(tmp_path, monkeypatch) as (one, link, seen):
        link.waiting.extend([*asked(episode(0, "pppppp", size)), *episode(0, "pppppp", size, actor="b-1")])
        work(one, link)
        assert one.replay.size("online") == 5 + 6 and len(seen) == 7
        assert max(map(len, seen)) == 11
        link.waiting.append(Judgement("a-1", 0, "success", 5, "anna", 2.0))
        link.waiting.extend(episode(1, "p", size, actor="b-1"))
        work(one, link)
    assert len(seen[-1]) == 13 and sum(seen[-1]) == 3.0


def test_a_question_that_nobody_answers_ends(tmp_path: Path) -> None:
    """Guards against an actor that was killed while somebody thought: the step would be withheld for ever."""
    now = [0.0]
    with EpisodeStore(tmp_path) as store:
        for message in asked(episode(0, "ppp", 3)):
            store.append(message)
    store.labels.add(Label("a-1", 1, "pending", "person", "anna", 1.0))  # meant so
    for _ in range(2):  # the second time another process goes on
        replay = Replay(20, {"state": np.zeros(3, np.float32)}, ACTION, as_frames)
        for record in [*store.records(as_recorded=True), *episode(1, "ppp", 3)]:
            replay.insert(record)
        following = Following(replay, lambda: now[0], lambda: 7.0)
        following.watch(store)
        following.follow()
        assert replay.size("online") == 2 + 2
        now[0] += PATIENCE - 1.0
        following.follow()
        assert replay.size("online") == 2 + 2
    for _ in range(3):
        now[0] += 1.0
        following.follow()
    assert replay.size("online") == 3 + 2
    assert [(one.episode, one.verdict, one.who) for one in store.labels.news()] == [
        (0, "pending", SILENCE),
        (1, "pending", "anna"),
        (0, "failure", SILENCE),
    ]
    store.labels.add(Label("a-1", 0, "success", "person", "anna", 2.0, step=2))  # it was in the actor's spool
    following.follow()
    found = replay.gather(np.sort(replay.slots("online")), Sampling(0.9))
    assert found["reward"].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_a_demonstration_that_is_discarded_while_it_learns_is_learnt_from_no_more(tmp_path: Path) -> None:
    """Guards `serl label RUN/demos`: its verdicts lie beside the demonstrations, not in the run's own store."""
    demonstrations(tmp_path / "demos", size_of(), episodes=1)
    with learner(tmp_path) as (one, link):
        link.waiting.extend(episode(0, "pppppp", size_of()))
        work(one, link)
        assert (one.replay.size("demos"), one.replay.size("online")) == (5, 6)
        layer = EpisodeStore(tmp_path / "demos").labels
        layer.add(Label("demo", 0, "discarded", "person", "anna", 1.0))
        link.waiting.extend(episode(1, "pppppp", size_of()))
        work(one, link)
        assert (one.replay.size("demos"), one.replay.size("online")) == (0, 12)
        layer.add(Label("demo", 0, "success", "person", "anna", 2.0, step=4))
        link.waiting.extend(episode(2, "p", size_of()))
        work(one, link)
        assert one.replay.size("demos") == 5


def test_cloning_follows_too(tmp_path: Path, monkeypatch) -> None:
    """Guards the learner that hears of no actor: its updates on demonstrations are all it does."""
    monkeypatch.setattr(methods, "PRETRAIN", {"bc": 20})
    demonstrations(tmp_path / "demos", size_of(), episodes=2)
    with learner(tmp_path, method="bc") as (one, _):
        update, sizes = one.engine.update, []

        def discarding(state, call):
            sizes.append(one.replay.size("demos"))
            EpisodeStore(tmp_path / "demos").labels.add_once(Label("demo", 0, "discarded", "person", "anna", 1.0))
            return update(state, call)

        monkeypatch.setattr(one.engine, "update", discarding)
        one.learn(lambda: False)
    assert sizes[:2] == [10, 5]


def test_a_learner_that_goes_on_knows_the_verdicts_before_its_first_update(tmp_path: Path) -> None:
    """Guards a resumed run: what was corrected before is not learnt as it was recorded, in no update."""
    with learner(tmp_path) as (one, link):
        link.waiting.extend(episode(0, "pppppp", size_of()))
        work(one, link)
    EpisodeStore(tmp_path / "episodes").labels.add(Label("a-1", 0, "discarded", "person", "anna", 1.0))
    with learner(tmp_path, resume=True) as (one, _):
        assert one.replay.size("online") == 0
