from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serl_core.data.index_set import IndexSet
from serl_core.data.labels import Label, Verdict
from serl_core.data.memory import available_memory
from serl_core.data.replay import Replay
from serl_core.data.scratch import Scratch
from serl_core.data.segments import StoreError
from serl_core.types import EpisodeStart, Source, Step, Who

DISCOUNT = 0.9
EXAMPLE = {"state": np.zeros(3, np.float32)}


def frame(actor: int, episode: int, step: int) -> dict[str, np.ndarray]:
    """An observation that says which one it is."""
    return {"state": np.array([actor, episode, step], np.float32)}


def start(actor: int, episode: int, source: Source = "online") -> EpisodeStart:
    return EpisodeStart(str(actor), episode, frame(actor, episode, 0), source)


def step(
    actor: int,
    episode: int,
    number: int,
    who: Who = "policy",
    terminated: bool = False,
    truncated: bool = False,
    reward: float = 0.0,
    penalty: float = 0.0,
) -> Step:
    action = np.array([(number + 1) / 1000, (actor + 1) / 1000], np.float32)
    return Step(
        actor=str(actor),
        episode=episode,
        step=number,
        action=action,
        proposal=np.zeros(2, np.float32),
        target=np.zeros(7),
        bent=False,
        next_obs=frame(actor, episode, number + 1),
        reward=reward,
        grasp_penalty=penalty,
        terminated=terminated,
        truncated=truncated,
        success=terminated,
        who=who,
        takeover=0 if who == "operator" else -1,
        policy_version=0,
        time=0.0,
    )


def replay(capacity: int = 100, n_step: int = 1) -> Replay:
    return Replay(capacity, EXAMPLE, 2, DISCOUNT, n_step)


def fill(
    store: Replay, actor: int, episode: int, who: str, source: Source = "online", terminated: bool = False
) -> None:
    """One episode; ``who`` has a letter per step: p policy, o operator. Reward = 1 at the last step."""
    store.insert(start(actor, episode, source))
    for number, letter in enumerate(who):
        last = number == len(who) - 1
        hand: Who = "operator" if letter == "o" else "policy"
        ends = {"terminated": last and terminated, "truncated": last and not terminated}
        store.insert(step(actor, episode, number, hand, reward=float(last), **ends))


def assert_pairs(store: Replay) -> None:
    """Every transition of both partitions joins a frame with the one after it, and their action."""
    for partition in ("online", "demos"):
        slots = store.slots(partition)
        assert slots.size == store.size(partition) == np.unique(slots).size
        got = store.gather(slots)
        now, then = got["obs"]["state"], got["next_obs"]["state"]
        np.testing.assert_array_equal(now[:, :2], then[:, :2])
        np.testing.assert_array_equal(now[:, 2] + 1, then[:, 2])
        np.testing.assert_allclose(got["action"], (np.stack([now[:, 2], now[:, 0]], 1) + 1) / 1000, rtol=1e-5)


def test_a_truncated_episode_bootstraps_from_its_true_last_frame() -> None:
    """Bug: the time limit is learned as a failure, or paired with the next episode's first frame."""
    store = replay()
    fill(store, 0, 0, "ppp")
    fill(store, 0, 1, "ppp", terminated=True)
    got = store.gather(store.slots("online"))
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
    store = replay(capacity=data.draw(st.integers(2, 24)))
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
        assert_pairs(store)


def test_wrap_around_keeps_the_newest_and_the_demonstrations() -> None:
    """Bug: a long run silently overwrites the demonstrations, and RLPD becomes plain SAC."""
    store = replay(capacity=20)
    fill(store, 0, 0, "oooo", source="demo")
    for episode in range(30):
        fill(store, 1, episode, "ppppp")
    assert store.size("demos") == 4
    newest = store.gather(store.slots("online"))["obs"]["state"][:, 1]
    assert set(newest) == {27.0, 28.0, 29.0} and newest.size >= 10
    assert_pairs(store)


def test_endless_interventions_do_not_stop_the_ring() -> None:
    """Bug: protected frames fill the ring and nothing new can be stored."""
    store = replay(capacity=20)
    for episode in range(30):
        fill(store, 1, episode, "ooooo")
    fill(store, 1, 30, "ppp")
    states = store.gather(store.slots("online"))["obs"]["state"]
    assert (states[:, 1] == 30).sum() == 3
    assert_pairs(store)


def test_half_of_each_minibatch_is_demonstrations() -> None:
    """Bug: the half-and-half sampling of RLPD drifts with the sizes of the partitions."""
    store = replay()
    fill(store, 0, 0, "oooo", source="demo")
    rng = np.random.default_rng(0)
    alone = store.sample(rng, 8, 3)
    assert (alone["obs"]["state"][..., 0] == 0).all() and alone["reward"].shape == (3, 8)
    fill(store, 1, 0, "p" * 40)
    got = store.sample(rng, 8, 3)
    assert ((got["obs"]["state"][..., 0] == 0).sum(axis=1) == 4).all()
    assert got["action"].shape == (3, 8, 2) and got["action"].dtype == got["discount"].dtype == np.float32
    assert (store.sample(rng, 8, 1, demo_ratio=0.0)["obs"]["state"][..., 0] == 1).all()


def test_an_empty_replay_says_so() -> None:
    """Bug: sampling nothing gives index errors deep inside."""
    with pytest.raises(ValueError, match="replay is empty"):
        replay().sample(np.random.default_rng(0), 8, 1)
    with pytest.raises(ValueError, match='no transition in "demos"'):
        replay().state_statistics()


def test_n_step_windows_end_with_the_episode_and_where_control_changes_hands() -> None:
    """Bug: a policy action is credited with the person's rescue, or a window enters the next episode."""
    store = replay(n_step=3)
    store.insert(start(0, 0))
    for number, letter in enumerate("ppoopp"):
        who: Who = "operator" if letter == "o" else "policy"
        store.insert(step(0, 0, number, who, reward=1.0, penalty=-1.0, terminated=number == 5))
    fill(store, 0, 1, "p")
    got = store.gather(np.arange(6))
    lengths = np.array([2, 1, 2, 1, 2, 1])
    sums = np.where(lengths == 2, 1 + DISCOUNT, 1.0)
    np.testing.assert_allclose(got["reward"], sums, rtol=1e-6)
    np.testing.assert_allclose(got["grasp_penalty"], -sums, rtol=1e-6)
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2], np.arange(6) + lengths)
    expected = np.where(np.arange(6) >= 4, 0, DISCOUNT**lengths)
    np.testing.assert_allclose(got["discount"], expected, rtol=1e-6)


def test_full_n_step_windows() -> None:
    """Bug: off-by-one in the window's length or in the power of the discount."""
    store = replay(n_step=3)
    fill(store, 0, 0, "pppppp")
    got = store.gather(np.arange(6))
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2], [3, 4, 5, 6, 6, 6])
    np.testing.assert_allclose(got["discount"], DISCOUNT ** np.array([3, 3, 3, 3, 2, 1]), rtol=1e-6)
    np.testing.assert_allclose(got["reward"], [0, 0, 0, DISCOUNT**2, DISCOUNT, 1], rtol=1e-6)


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
        ({"who": "nobody"}, "neither"),
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
        10, example, 2, DISCOUNT, encode=lambda obs: {**obs, "front": obs["front"].mean(axis=2, dtype=np.float16)}
    )
    image = {"front": np.full((4, 4, 3), 7, np.uint8)}
    store.insert(replace(start(0, 0), obs={**frame(0, 0, 0), **image}))
    store.insert(replace(step(0, 0, 0), next_obs={**frame(0, 0, 1), **image}))
    got = store.gather(store.slots("online"))["next_obs"]["front"]
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


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────


def verdict(kind: Verdict, step: int = -1, actor: int = 0, episode: int = 0) -> Label:
    return Label(str(actor), episode, kind, source="person", who="anna", wall_time=1.0, step=step)


def learnt(store: Replay) -> dict[int, tuple[float, float, float]]:
    """Of each transition that can be sampled, by its first frame: reward, discount, last frame."""
    got = store.gather(store.slots("online"))
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
    store = replay(n_step=3)
    fill(store, 0, 0, "pppppp")
    store.relabel(verdict("success", step=2))
    assert {first: last for first, (_, _, last) in learnt(store).items()} == {0: 3.0, 1: 3.0, 2: 3.0}
    assert learnt(store)[2] == (1.0, 0.0, 3.0)
    assert learnt(store)[1] == (pytest.approx(DISCOUNT), 0.0, 3.0)


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
    store = replay(n_step=3)
    store.relabel(verdict("pending"))  # before anything of it has arrived
    succeeded(store)
    assert sorted(learnt(store)) == [0, 1, 2, 3]
    assert all(reward == 0.0 for reward, _, _ in learnt(store).values())
    store.relabel(verdict("success", step=4))
    assert learnt(store)[4] == (1.0, 0.0, 5.0)


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


# ── chunks and memory ────────────────────────────────────────────────────────────────────────────


def test_chunks_stay_within_an_episode_and_in_one_pair_of_hands() -> None:
    """Bug: a chunk mixes the person's actions with the policy's, or runs into the next episode."""
    store = replay()
    fill(store, 0, 0, "ppooo")
    fill(store, 0, 1, "ppp", terminated=True)
    got = store.gather_chunks(np.array([0, 1, 2, 3, 4, 6, 8]), length=3)
    lengths = got["valid"].sum(axis=-1)
    np.testing.assert_array_equal(lengths, [2, 1, 3, 2, 1, 3, 1])
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2] - got["obs"]["state"][:, 2], lengths)
    np.testing.assert_allclose(got["action"][2, :, 0], [0.003, 0.004, 0.005])
    np.testing.assert_allclose(got["discount"][:5], DISCOUNT ** lengths[:5], rtol=1e-6)
    np.testing.assert_array_equal(got["discount"][5:], 0)
    np.testing.assert_allclose(got["reward"], [0, 0, DISCOUNT**2, DISCOUNT, 1, DISCOUNT**2, 1], rtol=1e-6)


def test_chunks_are_sampled_like_transitions() -> None:
    """Bug: the shares of demonstrations and online data get lost on the way to chunks."""
    store = replay()
    fill(store, 0, 0, "oooo", source="demo")
    fill(store, 1, 0, "p" * 20)
    got = store.sample_chunks(np.random.default_rng(0), 8, 2, length=4)
    assert got["action"].shape == (2, 8, 4, 2) and got["valid"].shape == (2, 8, 4)
    assert ((got["obs"]["state"][..., 0] == 0).sum(axis=1) == 4).all()


def test_too_large_a_replay_is_refused_at_once() -> None:
    """Bug: the learner is killed for its memory after hours, when the ring is half full."""
    example = {"state": np.zeros(20, np.float32), **{name: np.zeros((128, 128, 3), np.uint8) for name in ("a", "b")}}
    with pytest.raises(StoreError, match=r"replay of 200000 frames .*, 2 cameras needs 19\.7 GB, .* has 8\.0 GB left"):
        Replay(200_000, example, 7, DISCOUNT, available=lambda: 8_000_000_000)
    fits = Replay(100, example, 7, DISCOUNT, available=lambda: 10_000_000)
    assert fits.describe().startswith("replay needs 0.0 GB for 100 frames")
    assert fits.memory_bytes <= 1.02 * 100 * sum(x.nbytes for x in example.values())


def test_what_replay_says_it_needs_is_what_it_takes() -> None:
    """Bug: an array is added and the promise made to people forgets it."""
    store = replay(capacity=1000)
    arrays = [value for value in vars(store).values() if isinstance(value, np.ndarray)]
    arrays += [value for part in store._sets.values() for value in vars(part).values() if isinstance(value, np.ndarray)]
    assert store.memory_bytes == sum(x.nbytes for x in arrays) + sum(x.nbytes for x in store._obs.values())


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


def test_a_batch_in_use_is_never_overwritten() -> None:
    """Bug: the next batch is drawn into the arrays of one that somebody still reads, itself or a view of it."""
    rng = np.random.default_rng(0)
    values, scratch = rng.integers(0, 256, (10, 1 << 19), np.uint8), Scratch()
    rows = [rng.integers(10, size=4) for _ in range(40)]
    kept = [scratch.take(values, row) for row in rows[:20]]
    views = [scratch.take(values, row)[1:, :5] for row in rows[20:]]
    for row, batch in zip(rows, [*kept, *views], strict=True):
        wanted = values[row] if batch.shape[1] > 5 else values[row][1:, :5]
        np.testing.assert_array_equal(batch, wanted)


def test_the_arrays_of_a_batch_are_used_again() -> None:
    """Bug: every batch claims fresh memory, which takes longer than to fill it."""
    values, scratch, rows = np.zeros((4, 1 << 20), np.uint8), Scratch(), np.arange(4)
    batch = scratch.take(values, rows)
    place = batch.ctypes.data
    assert scratch.take(values, rows).ctypes.data != place
    del batch
    assert scratch.take(values, rows).ctypes.data == place
