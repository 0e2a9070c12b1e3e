"""Replay makes of records what a method's routing says, also when it becomes known only later."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_parts import DISCOUNT, EXAMPLE, assert_pairs, fill, gather, start, step

from serl_core.data.labels import Label
from serl_core.data.replay import Partition, Replay
from serl_core.data.routing import HilSerl, Imitation, Rlif, Routing, seen_in
from serl_core.types import Step, Who

HANDS: dict[str, Who] = {"p": "policy", "o": "operator", "n": "nobody"}


def replay(routing: Routing, capacity: int = 100) -> Replay:
    return Replay(capacity, EXAMPLE, 2, dict, routing=routing)


def steps(hands: str, actor: int = 0, episode: int = 0, terminated: bool = False) -> list[Step]:
    """One whole episode, with a letter per step; each run of o and n is one takeover."""
    takeover, found = -1, []
    for number, letter in enumerate(hands):
        takeover += letter != "p" and (number == 0 or hands[number - 1] == "p")
        ends = number == len(hands) - 1
        flags = {"terminated": ends and terminated, "truncated": ends and not terminated}
        record = step(actor, episode, number, HANDS[letter], reward=float(flags["terminated"]), **flags)
        found.append(replace(record, takeover=-1 if letter == "p" else takeover))
    return found


def insert(store: Replay, records: list[Step], source="online") -> int:
    """Returns how many counted as online transitions."""
    store.insert(start(int(records[0].actor), records[0].episode, source))
    return sum(store.insert(record) for record in records)


def contents(store: Replay, partition: Partition = "online") -> dict[tuple[int, int, int], tuple[float, float]]:
    """Reward and discount of each transition, by actor, episode and step."""
    if not store.size(partition):
        return {}
    got = gather(store, store.slots(partition))
    keys = [tuple(int(x) for x in row) for row in got["obs"]["state"]]
    pairs = zip(got["reward"].tolist(), got["discount"].tolist(), strict=True)
    return {key: (reward, round(discount, 3)) for key, (reward, discount) in zip(keys, pairs, strict=True)}


def rewards(store: Replay, episode: int = 0) -> list[float]:
    return [reward for key, (reward, _) in sorted(contents(store).items()) if key[1] == episode]


# ── patched when it becomes known ──


def test_the_step_before_a_takeover_is_corrected_when_it_begins() -> None:
    """Bug: the transition is stored with reward 0 before anyone knows of the takeover, and stays so."""
    store, records = replay(Rlif()), steps("ppoop")
    store.insert(start(0, 0))
    for record in records[:2]:
        store.insert(record)
    assert rewards(store) == [0, 0]
    store.insert(records[2])
    assert rewards(store) == [0, -1]
    assert set(contents(store).values()) == {(0.0, DISCOUNT), (-1.0, DISCOUNT)}  # bootstrapping goes on


def test_the_experts_last_step_counts_once_the_policy_acts_again() -> None:
    """Bug: the switch is read when the step arrives, when nobody knows yet whether it was the last."""
    store, records = replay(Rlif()), steps("poop")
    store.insert(start(0, 0))
    for record in records[:3]:
        store.insert(record)
    assert sorted(contents(store)) == [(0, 0, 0)]
    assert store.insert(records[3])
    assert sorted(contents(store)) == [(0, 0, 0), (0, 0, 2), (0, 0, 3)]


def test_takeovers_of_two_actors_do_not_mix() -> None:
    """Bug: with interleaved actors the wrong policy step is blamed."""
    store = replay(Rlif(expert="all"))
    store.insert(start(0, 0))
    store.insert(start(1, 0))
    for mine, theirs in zip(steps("ppop", 0), steps("pppo", 1), strict=True):
        store.insert(mine)
        store.insert(theirs)
    blamed = [key for key, (reward, _) in contents(store).items() if reward == -1]
    assert sorted(blamed) == [(0, 0, 1), (1, 0, 2)]


@pytest.mark.parametrize(
    "routing",
    [Rlif("last"), Rlif("none"), Rlif("all"), HilSerl(), HilSerl(penalty=0.5, penalty_steps=3), Imitation(False)],
    ids=repr,
)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_replay_arrives_at_what_whole_episodes_say(routing: Routing, data: st.DataObject) -> None:
    """Bug: some history of takeovers leaves another reward or membership than the definition on whole episodes."""
    store, expected = replay(routing), {"online": {}, "demos": {}}
    for episode in range(data.draw(st.integers(1, 4))):
        hands = data.draw(st.text("ppon", min_size=1, max_size=12))
        source = data.draw(st.sampled_from(["online", "online", "demo"]))
        records = steps(hands, 0, episode, data.draw(st.booleans()))
        counted = insert(store, records, source)
        assert counted == (len(hands) if source == "online" else 0)
        for number, seen in enumerate(seen_in(records, source, routing.lookback)):
            routed = routing.route(seen)
            value = (pytest.approx(routed.reward), 0.0 if routed.terminated else DISCOUNT)
            for partition, belongs in (("online", routed.online), ("demos", routed.demos)):
                if belongs:
                    expected[partition][0, episode, number] = value
    for partition in ("online", "demos"):
        assert contents(store, partition) == expected[partition]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([3, 8, 30]), st.text("ppoon", min_size=1, max_size=60))
def test_pairs_survive_routing_and_the_ring(capacity: int, hands: str) -> None:
    """Bug: a transition that was never offered, or became old, comes back or breaks its neighbours in the ring."""
    store = replay(HilSerl(penalty=0.1, penalty_steps=4, demo_age=7), capacity)
    for episode, first in enumerate(range(0, len(hands), 9)):
        insert(store, steps(hands[first : first + 9], 0, episode))
        assert_pairs(store)
    assert store._kept_count == int(store._kept.sum())


# ── with verdicts ──


def label(verdict, step: int = -1, episode: int = 0) -> Label:
    return Label("0", episode, verdict, "person", "anna", 1.0, step)


def test_a_verdict_brings_no_task_reward_into_rlif() -> None:
    """Bug: a success that a person adds afterwards puts reward 1 where takeovers are the only reward."""
    store = replay(Rlif())
    insert(store, steps("ppop"))
    store.relabel(label("success", step=3))
    assert contents(store)[0, 0, 3] == (0.0, 0.0) and rewards(store) == [0, -1, 0, 0]
    store.relabel(label("failure"))
    assert contents(store)[0, 0, 3] == (0.0, DISCOUNT)


def test_a_takeover_after_a_verdict_keeps_both() -> None:
    """Bug: correcting the step before a takeover forgets the verdict on its episode, or the other way round."""
    store = replay(HilSerl(penalty=0.5))
    store.relabel(label("pending"))
    insert(store, steps("ppop", terminated=True))
    assert rewards(store) == [0, -0.5, 0]  # the last one waits
    store.relabel(label("success", step=3))
    assert rewards(store) == [0, -0.5, 0, 1]


# ── age ──


def test_what_a_person_did_leaves_demos_when_it_is_old() -> None:
    """Bug: the limit counts demonstrations themselves, drops the online copy too, or never lets go of the frames."""
    store = replay(HilSerl(demo_age=3))
    fill(store, 1, 0, "oooo", source="demo")
    assert store.size("demos") == 4
    insert(store, steps("opp"))
    assert (store.size("demos"), store.size("online")) == (5, 3)
    insert(store, steps("o", episode=1))
    assert sorted(contents(store, "demos")) == [(0, 0, 0), (0, 1, 0)]
    insert(store, steps("pppp", episode=2))
    assert store.size("demos") == 0 and store.size("online") == 8
    assert store._kept_count == 0 == int(store._kept.sum())


def test_without_a_limit_nothing_is_ever_old() -> None:
    """Bug: 0 is read as an age."""
    store = replay(HilSerl())
    fill(store, 1, 0, "oo", source="demo")
    insert(store, steps("p" * 30))
    assert store.size("demos") == 2


def test_an_old_transition_that_was_overwritten_stays_away() -> None:
    """Bug: the slot's next owner becomes old in its place."""
    store = replay(HilSerl(demo_age=5), capacity=6)
    for episode in range(6):
        insert(store, steps("opo", episode=episode))
        assert_pairs(store)
    ages = {key[1] for key in contents(store, "demos")}
    assert ages <= {4, 5} and np.all(np.asarray(store.slots("demos")) >= 0)


def test_growing_old_answers_no_question() -> None:
    """Bug: a transition that awaits its verdict is learnt as it was recorded once it is old."""
    store = replay(HilSerl(demo_age=3))
    insert(store, steps("ppo"))
    store.relabel(Label("0", 0, "pending", "person", "anna", 1.0))
    insert(store, steps("pppppp", episode=1))
    assert (store.size("online"), store.size("demos")) == (2 + 6, 0)
    store.relabel(Label("0", 0, "success", "person", "anna", 2.0, step=2))
    assert (store.size("online"), store.size("demos")) == (3 + 6, 0)
