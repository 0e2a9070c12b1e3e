"""The learner's compiled call: the same result wherever frames lie."""

import os
import subprocess
import sys
import time
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_parts import CONFIG, setup

from serl_core.agents.policy import tree_from_flat, tree_to_flat
from serl_core.data.replay import Replay, Where, as_frames
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine, data_parallel
from serl_core.nets.sight import as_stored, cropped
from serl_core.types import EpisodeStart, Step


def trained(engine: Engine, state: Any, calls: int = 3) -> Any:
    for call in range(calls):
        state, metrics = engine.update(state, call)
    assert bool(metrics["finite"])
    return jax.tree.map(np.array, state)


class Trainer:
    """An engine, and fresh states for it: what was compiled is shared by the tests."""

    def __init__(self, where: Where) -> None:
        self.engine, self._state, *_ = setup(where)
        self._state = jax.tree.map(np.array, self._state)

    def fresh(self) -> Any:
        return jax.tree.map(jax.numpy.array, self._state)


@cache
def trainer(where: Where = "device") -> Trainer:
    return Trainer(where)


def same(a: Any, b: Any) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_frames_on_the_host_give_the_same_training() -> None:
    """Bug: prefetched frames belong to other transitions than the rest of their batch."""
    on_device, on_host = (trained(each.engine, each.fresh()) for each in (Trainer("host"), trainer()))
    assert same(on_device, on_host)


class Matching:
    """An agent that says how far a batch's frames and its states are apart."""

    def update(self, state: Any, batches: Any, see: Any) -> tuple[Any, dict[str, jax.Array]]:
        apart = [abs(batches[when]["front"][..., 0] - batches[when]["state"]).max() for when in ("obs", "next_obs")]
        return state, {"apart": jnp.maximum(*apart)}


def numbered(number: int) -> dict[str, np.ndarray]:
    return {"state": np.full(1, number, np.float32), "front": np.full((1, 1), number, np.float32)}


def test_frames_belong_to_their_batch_although_the_ring_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: what arrives while the next batch is prepared takes the place of frames that were drawn for it."""
    store = Replay(20, numbered(0), 2, as_frames, where="host")

    def insert(episode: int) -> None:
        store.insert(EpisodeStart("a", episode, numbered(100 * episode)))
        for number in range(15):
            ends = number == 14
            action, seen = np.zeros(2, np.float32), numbered(100 * episode + number + 1)
            store.insert(Step("a", episode, number, action, action, np.zeros(7), False, seen, 0.0, 0.0, False, ends,
                              False, "policy", -1, 0, 0.0))  # fmt: skip

    def late(frames: Any, fetch: Any = store.fetch) -> Any:
        time.sleep(0.2)
        return fetch(frames)

    monkeypatch.setattr(store, "fetch", late)
    monkeypatch.setattr(store.revisions, "stand", lambda *_: True)  # or nothing that was overwritten would be seen here
    insert(0)
    engine = Engine(Matching(), store, Sampling(0.9, 64), 1, as_stored())
    for call in range(3):
        _, metrics = engine.update({}, call)
        insert(call + 1)
        assert float(metrics["apart"]) == 0


def test_drawing_shares_no_randomness_with_the_agent() -> None:
    """Bug: a call draws with the key that the agent was made with, or that its noise comes from."""
    seed, calls = jax.random.key(0), range(20)
    drawing = [jax.random.fold_in(trainer().engine._key, call) for call in calls]
    agents = {tuple(key) for key in jax.random.key_data(jax.random.split(seed, 20)).tolist()}
    assert not agents & {tuple(key.tolist()) for key in drawing}


def test_a_critic_only_call_leaves_the_actor_alone() -> None:
    """Bug: the compiled call moves the actor although it was not asked to."""
    before = trainer().fresh()
    after, _ = trainer().engine.update_critic(trainer().fresh(), 0)
    assert same(before.actor, after.actor) and not same(before.critic, after.critic)


def test_the_same_calls_draw_the_same() -> None:
    """Bug: a resumed run repeats what it drew before, or every call draws the same."""
    engine = trainer().engine
    first = trained(engine, trainer().fresh(), calls=2)
    state, _ = engine.update(trainer().fresh(), 0)
    assert same(first, engine.update(state, 1)[0])
    state, _ = engine.update(trainer().fresh(), 0)
    assert not same(first, engine.update(state, 0)[0])


def test_several_devices_give_the_same_training() -> None:
    """Bug: each device learns from its own share only, or the whole batch on every one of them.

    Or a run cannot begin where devices and batch do not divide, cannot go on from a checkpoint, or not with frames
    on the host.
    """
    three = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    flags = {**os.environ, **three, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, __file__], env=flags, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_random_crops_are_of_the_same_frame() -> None:
    """Bug: crops mix samples, rows with columns, or obs with next_obs."""
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 16, 16, 3), np.uint8)
    batch = {"obs": {"front": frames, "state": frames[:, 0, 0]}, "next_obs": {"front": frames + 9, "state": 0}}
    seen = cropped(("front",)).see(None, batch, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(seen["obs"]["front"], frames)
    np.testing.assert_array_equal(seen["next_obs"]["front"], frames + 9)
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None], (64, 16, 16, 3))
    shifted = cropped(("front",)).see(
        None, {"obs": {"front": ramp}, "next_obs": {"front": ramp}}, jax.random.PRNGKey(1)
    )
    middle = np.array(shifted["obs"]["front"])[:, 8, 8, 0].astype(int) - 8
    assert set(middle) == set(range(-4, 5))
    assert not np.array_equal(shifted["obs"]["front"], shifted["next_obs"]["front"])


def _on_three_devices() -> None:
    sharding = data_parallel(jax.local_devices(), CONFIG.batch)
    assert sharding is not None and sharding.mesh.size == 2, "16 samples cannot be divided among three"
    engine, state, _, _ = setup(sharding=sharding)
    alone, alone_state, _, _ = setup()
    lowered = engine._whole.lower(True, state, engine._replay.table(), None, engine._key, np.uint32(0))
    assert "all-reduce" in (lowered.compile().as_text() or ""), "the devices do not share their gradients"
    expected = trained(alone, alone_state)
    for where in ("device", "host"):
        engine, state, _, _ = setup(where, sharding)
        saved = engine.placed(tree_from_flat(state, tree_to_flat(state)))
        for both, one in zip(jax.tree.leaves(trained(engine, saved)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(both, one, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    _on_three_devices()
