"""Minibatches: shares of the partitions, n-step windows, chunks."""

import jax
import numpy as np
from replay_parts import DISCOUNT, fill, gather, replay, start, step

from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling, assemble, sample
from serl_core.types import Who


def drawn(store: Replay, batch: int, updates: int, seed: int = 0, **sampling: float) -> dict:
    """Minibatches as the learner draws them."""
    spec = store.sampling(Sampling(DISCOUNT, batch, **sampling))
    return jax.tree.map(np.array, assemble(*sample(store.table(), jax.random.PRNGKey(seed), spec, updates)))


def test_half_of_each_minibatch_is_demonstrations() -> None:
    """Bug: the half-and-half sampling of RLPD drifts with the sizes of the partitions."""
    store = replay()
    fill(store, 0, 0, "oooo", source="demo")
    alone = drawn(store, 8, 3)
    assert (alone["obs"]["state"][..., 0] == 0).all() and alone["reward"].shape == (3, 8)
    fill(store, 1, 0, "p" * 40)
    got = drawn(store, 8, 3)
    assert ((got["obs"]["state"][..., 0] == 0).sum(axis=1) == 4).all()
    assert got["action"].shape == (3, 8, 2) and got["action"].dtype == got["discount"].dtype == np.float32
    assert (drawn(store, 8, 1, demo_ratio=0.0)["obs"]["state"][..., 0] == 1).all()


def test_without_demonstrations_everything_is_online() -> None:
    """Bug: an empty partition is sampled all the same, and slot 0 fills half of each minibatch."""
    store = replay()
    fill(store, 1, 0, "p" * 40)
    steps = drawn(store, 64, 1)["obs"]["state"][0, :32, 2]
    assert len(set(steps)) > 10


def test_every_transition_is_drawn_about_as_often() -> None:
    """Bug: the newest, the first or the last of a partition is never drawn, or drawn twice as often."""
    store = replay()
    fill(store, 1, 0, "p" * 10)
    counts = np.bincount(drawn(store, 256, 40)["obs"]["state"][..., 2].astype(int).ravel())
    assert counts.shape == (10,) and counts.min() > 0.85 * 1024 and counts.max() < 1.15 * 1024


def test_n_step_windows_end_with_the_episode_and_where_control_changes_hands() -> None:
    """Bug: a policy action is credited with the person's rescue, or a window enters the next episode."""
    store = replay()
    store.insert(start(0, 0))
    for number, letter in enumerate("ppoopp"):
        who: Who = "operator" if letter == "o" else "policy"
        store.insert(step(0, 0, number, who, reward=1.0, penalty=-1.0, terminated=number == 5))
    fill(store, 0, 1, "p")
    got = gather(store, np.arange(6), n_step=3)
    lengths = np.array([2, 1, 2, 1, 2, 1])
    sums = np.where(lengths == 2, 1 + DISCOUNT, 1.0)
    np.testing.assert_allclose(got["reward"], sums, rtol=1e-6)
    np.testing.assert_allclose(got["grasp_penalty"], -sums, rtol=1e-6)
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2], np.arange(6) + lengths)
    expected = np.where(np.arange(6) >= 4, 0, DISCOUNT**lengths)
    np.testing.assert_allclose(got["discount"], expected, rtol=1e-6)


def test_windows_end_where_nobody_acts() -> None:
    """Bug: the policy is credited with what happened while a lost device left the arm standing still."""
    store = replay()
    fill(store, 0, 0, "ppnnpp")
    got = gather(store, np.arange(6), n_step=3)
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2] - np.arange(6), [2, 1, 2, 1, 2, 1])
    assert store.size("demos") == 0 and not got["human"].any()


def test_full_n_step_windows() -> None:
    """Bug: off-by-one in the window's length or in the power of the discount."""
    store = replay()
    fill(store, 0, 0, "pppppp")
    got = gather(store, np.arange(6), n_step=3)
    np.testing.assert_array_equal(got["next_obs"]["state"][:, 2], [3, 4, 5, 6, 6, 6])
    np.testing.assert_allclose(got["discount"], DISCOUNT ** np.array([3, 3, 3, 3, 2, 1]), rtol=1e-6)
    np.testing.assert_allclose(got["reward"], [0, 0, 0, DISCOUNT**2, DISCOUNT, 1], rtol=1e-6)


def test_chunks_stay_within_an_episode_and_in_one_pair_of_hands() -> None:
    """Bug: a chunk mixes the person's actions with the policy's, or runs into the next episode."""
    store = replay()
    fill(store, 0, 0, "ppooo")
    fill(store, 0, 1, "ppp", terminated=True)
    got = gather(store, [0, 1, 2, 3, 4, 6, 8], chunk=3)
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
    got = drawn(store, 8, 2, chunk=4)
    assert got["action"].shape == (2, 8, 4, 2) and got["valid"].shape == (2, 8, 4)
    assert ((got["obs"]["state"][..., 0] == 0).sum(axis=1) == 4).all()
