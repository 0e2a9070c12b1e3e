from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_parts import DISCOUNT, EXAMPLE, assert_pairs, fill, frame, gather, replay, start, step

from serl_core.data.index_set import IndexSet
from serl_core.data.memory import available_memory
from serl_core.data.replay import Replay, Where
from serl_core.data.segments import StoreError
from serl_core.types import EpisodeStart


def test_a_truncated_episode_bootstraps_from_its_true_last_frame() -> None:
    """Bug: the time limit is learned as a failure, or paired with the next episode's first frame."""
    store = replay()
    fill(store, 0, 0, "ppp")
    fill(store, 0, 1, "ppp", terminated=True)
    got = gather(store)
    last = got["reward"] == 1
    assert_pairs(store)
    np.testing.assert_allclose(got["discount"], np.where(last & (got["obs"]["state"][:, 1] == 1), 0, DISCOUNT))
    assert store.size("online") == 6


def test_interventions_are_in_both_partitions_demos_in_one() -> None:
    """Bug: an intervention is copied without its neighbours, so that its next frame is wrong."""
    store = replay()
    fill(store, 0, 0, "oooo", source="demo")
    fill(store, 1, 0, "ppooppop")
    assert (store.size("online"), store.size("demos")) == (8, 7)
    assert_pairs(store)


def test_interleaved_actors_pair_rightly() -> None:
    """Bug: with two actors neighbours in the ring belong to different episodes."""
    store = replay()
    store.insert(start(0, 0))
    store.insert(start(1, 5))
    for number in range(6):
        store.insert(step(0, 0, number))
        store.insert(step(1, 5, number))
    assert store.size("online") == 12
    assert_pairs(store)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pairs_survive_any_history(data: st.DataObject) -> None:
    """Bug: wrap-around, interleaving, crashes and interventions together break a pair."""
    store = replay(capacity=data.draw(st.sampled_from([2, 3, 7, 16, 24])))
    episodes, steps = {}, {}
    for _ in range(data.draw(st.integers(5, 90))):
        actor = data.draw(st.integers(0, 2))
        if actor not in steps or data.draw(st.integers(0, 7)) == 0:
            episodes[actor] = episodes.get(actor, -1) + 1
            steps[actor] = 0
            store.insert(start(actor, episodes[actor], data.draw(st.sampled_from(["online", "demo"]))))
            continue
        ends = data.draw(st.sampled_from(["no", "no", "no", "terminated", "truncated"]))
        who = data.draw(st.sampled_from(["policy", "policy", "operator"]))
        flags = {} if ends == "no" else {ends: True}
        store.insert(step(actor, episodes[actor], steps[actor], who, **flags))
        steps[actor] += 1
        if ends != "no":
            del steps[actor]
        if data.draw(st.integers(0, 9)) == 0:
            assert_pairs(store)
    assert_pairs(store)


def test_wrap_around_keeps_the_newest_and_the_demonstrations() -> None:
    """Bug: a long run silently overwrites the demonstrations, and RLPD becomes plain SAC."""
    store = replay(capacity=20)
    fill(store, 0, 0, "oooo", source="demo")
    for episode in range(30):
        fill(store, 1, episode, "ppppp")
    assert store.size("demos") == 4
    newest = gather(store)["obs"]["state"][:, 1]
    assert set(newest) == {27.0, 28.0, 29.0} and newest.size >= 10
    assert_pairs(store)


def test_endless_interventions_do_not_stop_the_ring() -> None:
    """Bug: protected frames fill the ring and nothing new can be stored."""
    store = replay(capacity=20)
    for episode in range(30):
        fill(store, 1, episode, "ooooo")
    fill(store, 1, 30, "ppp")
    states = gather(store)["obs"]["state"]
    assert (states[:, 1] == 30).sum() == 3
    assert_pairs(store)


def test_an_empty_replay_says_so() -> None:
    """Bug: sampling nothing gives index errors deep inside."""
    with pytest.raises(ValueError, match="replay is empty"):
        replay().table()
    with pytest.raises(ValueError, match='no transition in "demos"'):
        replay().state_statistics()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 5}, "step 1 must come next"),
        ({"episode": 3}, "no start of this episode"),
        ({"actor": "9"}, "no start of this episode"),
        ({"reward": float("nan")}, "must be finite"),
        ({"grasp_penalty": 0.1}, "≤ 0"),
        ({"action": np.array([0.0, 1.5], np.float32)}, "leaves"),
        ({"action": np.array([0.0, np.nan], np.float32)}, "not finite"),
        ({"action": np.zeros(2)}, "float64"),
        ({"action": np.zeros(3, np.float32)}, r"float32\(3,\)"),
        ({"next_obs": {}}, "instead of"),
        ({"next_obs": {"state": np.zeros(4, np.float32)}}, r"\(4,\)"),
        ({"next_obs": {"state": np.array([0, np.inf, 0], np.float32)}}, "not finite"),
        ({"who": "somebody"}, "none of"),
    ],
)
def test_a_faulty_step_is_named_and_changes_nothing(change: dict, message: str) -> None:
    """Bug: a bad record poisons training, or half of it is stored."""
    store = replay()
    store.insert(start(0, 0))
    store.insert(step(0, 0, 0))
    with pytest.raises(ValueError, match=message):
        store.insert(replace(step(0, 0, 1), **change))
    assert store.insert(step(0, 0, 1, truncated=True))
    with pytest.raises(ValueError, match="already ended"):
        store.insert(step(0, 0, 2))
    with pytest.raises(ValueError, match="count up"):
        store.insert(start(0, 0))
    assert_pairs(store)


def test_insert_tells_online_transitions_from_others() -> None:
    """Bug: demonstrations are counted into the updates per online transition."""
    store = replay()
    assert not store.insert(start(0, 0, "demo"))
    assert not store.insert(step(0, 0, 0, "operator"))
    store.insert(start(1, 0))
    assert store.insert(step(1, 0, 0)) and store.insert(step(1, 0, 1, "operator"))


def test_observations_are_stored_encoded() -> None:
    """Bug: frames are kept where features should be, or checked after encoding instead of before."""
    example = {"state": np.zeros(3, np.float32), "front": np.zeros((4, 4, 3), np.uint8)}
    store = Replay(
        10, example, 2, encode=lambda obs: {**obs, "front": obs["front"].mean(axis=2, dtype=np.float16)[None]}
    )
    image = {"front": np.full((4, 4, 3), 7, np.uint8)}
    store.insert(replace(start(0, 0), obs={**frame(0, 0, 0), **image}))
    store.insert(replace(step(0, 0, 0), next_obs={**frame(0, 0, 1), **image}))
    got = gather(store)["next_obs"]["front"]
    assert got.dtype == np.float16 and got.shape == (1, 4, 4) and (got == 7).all()


def test_statistics_are_of_the_demonstrations_only() -> None:
    """Bug: the normaliser moves with the policy's own data."""
    store = replay()
    fill(store, 2, 0, "ooo", source="demo")
    fill(store, 50, 0, "pppp")
    mean, std = store.state_statistics("demos")
    np.testing.assert_allclose(mean, [2, 0, 1], atol=1e-6)
    np.testing.assert_allclose(std, [0, 0, np.std([0, 1, 2])], atol=1e-6)


def test_index_set_is_a_set() -> None:
    """Bug: the swap on removal loses or doubles an element."""
    rng, reference, slots = np.random.default_rng(0), set(), IndexSet(50)
    for _ in range(2000):
        slot = int(rng.integers(50))
        if slot in reference or rng.random() < 0.3:
            slots.discard(slot)
            reference.discard(slot)
        else:
            slots.add(slot)
            reference.add(slot)
        assert (
            set(slots.items()) == reference and len(slots) == len(reference) and (slot in slots) == (slot in reference)
        )


def test_an_aborted_step_is_not_learnt_from() -> None:
    """Bug: a command that the robot refused is learned as an action that changes nothing."""
    store = replay()
    store.insert(start(0, 0))
    store.insert(step(0, 0, 0))
    assert not store.insert(replace(step(0, 0, 1, truncated=True), aborted=True))
    assert store.size("online") == 1
    fill(store, 0, 1, "pp")
    assert_pairs(store)


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def test_too_large_a_replay_is_refused_at_once() -> None:
    """Bug: the learner is killed for its memory after hours, when the ring is half full."""
    example = {"state": np.zeros(20, np.float32), **{name: np.zeros((128, 128, 3), np.uint8) for name in ("a", "b")}}
    with pytest.raises(StoreError, match=r"replay of 200000 frames .*, 2 cameras needs 19\.7 GB, .* has 8\.0 GB left"):
        Replay(200_000, example, 7, dict, available=lambda: 8_000_000_000)
    fits = Replay(100, example, 7, dict, available=lambda: 10_000_000)
    assert fits.describe().startswith("replay needs 0.0 GB for 100 frames")
    assert fits.memory_bytes <= 1.02 * 100 * sum(x.nbytes for x in example.values())


@pytest.mark.parametrize("where", ["device", "host"])
def test_what_replay_says_it_needs_is_what_it_takes(where: Where) -> None:
    """Bug: an array is added and the promise made to people forgets it."""
    example = {**EXAMPLE, "front": np.zeros((4, 4, 3), np.uint8)}
    store = Replay(1000, example, 2, lambda obs: {**obs, "front": obs["front"][None]}, where=where)
    store.insert(EpisodeStart("a", 0, example))
    parts = (store, store._host, store._known, store.revisions)
    held = [*(value for part in parts for value in vars(part).values()), *store._sets.values()]
    arrays = [x for value in held for x in jax.tree.leaves(vars(value) if isinstance(value, IndexSet) else value)]
    arrays += jax.tree.leaves(store._mirror.table())
    taken = sum(x.nbytes for x in arrays if isinstance(x, (np.ndarray, jax.Array)))
    assert taken == pytest.approx(store.memory_bytes, abs=32)


def test_memory_of_a_container_counts(tmp_path: Path) -> None:
    """Bug: a container's limit is overlooked, and the kernel kills the learner."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n")
    assert available_memory(meminfo, tmp_path) == 4000 << 10
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory(meminfo, tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 4000 << 10
