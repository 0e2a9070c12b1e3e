"""Verdicts on episodes change what is learnt from them, never which transitions were stored."""

import pytest
from replay_parts import DISCOUNT, assert_pairs, fill, gather, replay, start, step

from serl_core.data.labels import Label, Verdict
from serl_core.data.replay import Replay


def verdict(kind: Verdict, step: int = -1, actor: int = 0, episode: int = 0) -> Label:
    return Label(str(actor), episode, kind, source="person", who="anna", wall_time=1.0, step=step)


def learnt(store: Replay, n_step: int = 1) -> dict[int, tuple[float, float, float]]:
    """Of each transition that can be sampled, by its first frame: reward, discount, last frame."""
    got = gather(store, n_step=n_step)
    firsts, lasts = got["obs"]["state"][:, 2], got["next_obs"]["state"][:, 2]
    rows = zip(firsts, got["reward"], got["discount"], lasts, strict=True)
    return {
        int(first): (float(reward), round(float(discount), 3), float(last)) for first, reward, discount, last in rows
    }


def succeeded(store: Replay) -> None:
    """An episode of five steps whose last one is recorded as a success."""
    store.insert(start(0, 0))
    for number in range(5):
        ends = number == 4
        store.insert(step(0, 0, number, terminated=ends, reward=float(ends)))


def test_a_denied_success_becomes_a_truncation() -> None:
    """Bug: a false success goes on being learnt, or becomes a failure although its future is unknown."""
    store = replay()
    succeeded(store)
    assert learnt(store)[4] == (1.0, 0.0, 5.0)
    store.relabel(verdict("failure"))
    assert learnt(store)[4] == (0.0, DISCOUNT, 5.0) and len(learnt(store)) == 5


def test_a_missed_success_ends_the_episode_at_its_frame() -> None:
    """Bug: steps after the success are learnt, or n-step windows reach beyond it."""
    store = replay()
    fill(store, 0, 0, "pppppp")
    store.relabel(verdict("success", step=2))
    assert {first: last for first, (_, _, last) in learnt(store, 3).items()} == {0: 3.0, 1: 3.0, 2: 3.0}
    assert learnt(store, 3)[2] == (1.0, 0.0, 3.0)
    assert learnt(store, 3)[1] == (pytest.approx(DISCOUNT), 0.0, 3.0)


def test_the_newest_verdict_wins_and_is_reversible() -> None:
    """Bug: verdicts pile up, so that a corrected mistake leaves traces."""
    store = replay()
    succeeded(store)
    before = learnt(store)
    for label in (verdict("success", step=1), verdict("failure"), verdict("pending"), verdict("success", step=4)):
        store.relabel(label)
    assert learnt(store) == before


def test_an_episode_that_waits_withholds_its_last_transition() -> None:
    """Bug: a success nobody has confirmed is learnt, alone or at the end of a window."""
    store = replay()
    store.relabel(verdict("pending"))  # before anything of it has arrived
    succeeded(store)
    assert sorted(learnt(store, 3)) == [0, 1, 2, 3]
    assert all(reward == 0.0 for reward, _, _ in learnt(store, 3).values())
    store.relabel(verdict("success", step=4))
    assert learnt(store, 3)[4] == (1.0, 0.0, 5.0)


def test_a_failed_demonstration_is_left_out_an_intervention_is_not() -> None:
    """Bug: a demonstration that turned out a failure is copied, or a rescue is thrown away with its episode."""
    store = replay()
    fill(store, 0, 0, "ooo", source="demo")
    fill(store, 1, 0, "ppoo")
    store.relabel(verdict("failure", actor=0))
    store.relabel(verdict("failure", actor=1))
    assert (store.size("demos"), store.size("online")) == (2, 4)


def test_verdicts_on_what_is_gone_change_nothing() -> None:
    """Bug: a late verdict on an overwritten episode changes its successor in the ring."""
    store = replay(capacity=8)
    for episode in range(5):
        fill(store, 0, episode, "ppp", terminated=True)
    before = learnt(store)
    store.relabel(verdict("failure", episode=0))
    store.relabel(verdict("success", step=0, episode=77))
    assert learnt(store) == before
    assert_pairs(store)
