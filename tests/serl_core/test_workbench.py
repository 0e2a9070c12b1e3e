"""What the benchmark measures with: frames that differ, ceilings that are reached, bytes that are counted."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serl_core import workbench
from serl_core.agents.sac import SACConfig
from serl_core.workbench import CHAIN, Bench, Filled, Mode, ceiling, moved_bytes, stamp

F32 = 4  # bytes


def bench(mode: Mode = "cached") -> Bench:
    return Bench(mode, SACConfig(batch=8, utd=1, grasp=1), 2, "small", None, 8)


@pytest.mark.parametrize("mode", ["cached", "exact", "state"])
def test_no_two_stored_frames_are_alike(mode: Mode) -> None:
    """Guards against a replay of a few frames over and over, which lie in a cache and flatter the machine.

    Pieces of the random block repeat after 512 frames here; the ring has come round a little, too.
    """
    filled = Filled(bench(mode), 1_000 if mode != "exact" else 200)
    for _ in range(20):
        filled.arrive()
    frames = filled.replay.table().frames
    kept = [np.array(frames["state"])]
    pixels = [np.array(frames[name]) for name in frames if name != "state"]
    kept += [x.reshape(-1, int(np.prod(x.shape[2:]))) for x in pixels]
    for rows in kept:
        assert len(np.unique(rows, axis=0)) == len(rows)
    both = np.concatenate(kept[1:]) if mode != "state" else kept[0]
    assert len(np.unique(both, axis=0)) == len(both), "nor are those of two cameras"
    assert len(frames) == (1 if mode == "state" else 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_stamps_differ_far_beyond_any_replay(dtype: Any) -> None:
    """Guards against numbers that a narrow dtype rounds to the same."""
    firsts = (0, 255, 1023, 2047, 65_535, 1_048_575, 16_777_215, 99_999_999)
    stamped = np.concatenate([stamp(np.ones((3, 8), dtype), first) for first in firsts])
    assert len(np.unique(stamped, axis=0)) == 3 * len(firsts)
    assert (stamped[:, 4:] == 1).all() and np.isfinite(stamped).all()


def rates(monkeypatch: pytest.MonkeyPatch, known: dict[int, float]) -> list[int]:
    """The sizes that were tried, where a size reaches so many FLOP/s."""
    tried: list[int] = []
    monkeypatch.setattr(workbench, "product_rate", lambda size, *rest: tried.append(size) or known[size])
    return tried


def test_the_ceiling_grows_until_larger_products_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a GPU judged by products so small that starting them takes as long."""
    fast = {1024: 1e14, 2048: 3e14, 4096: 6e14, 8192: 8e14}
    tried = rates(monkeypatch, fast)
    assert ceiling(jnp.bfloat16) == 8e14 and tried == [*fast]
    tried = rates(monkeypatch, {**fast, 4096: 3.01e14})
    assert ceiling(jnp.bfloat16) == 3.01e14 and tried == [1024, 2048, 4096]


def test_the_ceiling_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a laptop that multiplies for minutes: 2 048 takes it 1 s, 4 096 would take 8."""
    tried = rates(monkeypatch, {1024: 2e11, 2048: 2.1e11})
    assert ceiling(jnp.float32) == 2.1e11 and tried == [1024, 2048]
    tried = rates(monkeypatch, {1024: 2e10})
    assert ceiling(jnp.float32) == 2e10 and tried == [1024]


def test_products_are_chained_and_stay_numbers() -> None:
    """Guards against products that XLA leaves out, as nobody reads them, or that grow until nothing is real."""
    matrix = jax.random.normal(jax.random.key(0), (64, 64)) / 8
    traced = jax.jit(workbench._products).trace(matrix, matrix)
    assert (traced.lower().compile().as_text() or "").count(" dot(") >= CHAIN
    assert moved_bytes(traced.jaxpr.jaxpr) == CHAIN * 3 * 64 * 64 * F32
    spread = float(jnp.std(workbench._products(matrix, matrix)))
    assert 0.01 < spread < 100


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_ceiling_is_measured(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the measurement itself, of both kinds of numbers and of memory."""
    monkeypatch.setattr(workbench, "SIZES", (128, 256))
    monkeypatch.setattr(workbench, "PASSED", 1 << 16)
    assert 1e7 < ceiling(dtype) < 1e17
    assert 1e6 < workbench.copy_rate() < 1e15


def test_bytes_are_those_of_products_and_of_what_is_gathered() -> None:
    """Guards against a memory roofline that counts what is fused away, or a scan's body once."""

    def work(x: jax.Array, table: jax.Array, at: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ x) + 1.0, None), x, None, length=3)
        return x + table[at]

    x, table, at = jnp.ones((8, 8)), jnp.ones((1_000, 8)), jnp.arange(8)
    products, gathered = 3 * 3 * 8 * 8 * F32, 2 * 8 * 8 * F32
    assert moved_bytes(jax.jit(work).trace(x, table, at).jaxpr.jaxpr) == products + gathered


def test_an_update_moves_at_least_its_parameters() -> None:
    """Guards the count of a whole update: twice as large a batch moves more, but not its parameters again."""
    moved = []
    for size in (8, 16):
        made = replace(bench("state"), agent_config=SACConfig(batch=size, utd=1, grasp=1))
        filled = Filled(made, 200)
        _, batches = workbench.minibatch(made, filled, made.engine(filled.replay))
        flops, size_moved = workbench.critic_cost(made, batches)
        assert flops > 0
        moved.append(size_moved)
    state = made.fresh_state()
    least = 2 * sum(x.nbytes for x in jax.tree.leaves((state.critic, state.critic_opt, state.target)))
    assert least < moved[0] < moved[1] < 2 * moved[0]
