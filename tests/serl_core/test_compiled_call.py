"""How the learner's call is compiled: once, without widening a ring, and with nothing carried to it in secret."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compilations, types_of
from engine_parts import CAPACITY, encode, observation, records, setup

from serl_core.data.labels import Label
from serl_core.data.replay import Replay, Where
from serl_core.data.sampling import Sampling
from serl_core.engine import Engine
from serl_core.nets.sight import as_stored
from serl_core.types import EpisodeStart, Record

BOTH = pytest.mark.parametrize("where", ["device", "host"])


class Summing:
    """An agent that needs the whole batch and compiles at once."""

    def update(self, state: Any, batches: Any, see: Any) -> tuple[Any, dict[str, jax.Array]]:
        return state, {"sum": jnp.stack([x.sum() for x in jax.tree.leaves(batches)])}


def shown(record: Record) -> Record:
    """The same record as one of a demonstration by somebody else."""
    other = replace(record, actor="d")
    return replace(other, source="demo") if isinstance(other, EpisodeStart) else other


def avals(state: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)


@BOTH
def test_nothing_compiles_after_the_first_calls(where: Where) -> None:
    """Bug: growth, a ring that comes round, a new partition, a verdict or a call's number costs a compilation each.

    All of this process's are counted, those of replay's writes too.
    """
    engine, state, replay, online = setup(where, inserted=2)
    demos = map(shown, records(1))
    with compilations() as first:
        state, _ = engine.update(state, 0)
        state, _ = engine.update_critic(state, 1)
    assert any("write" in name for name in first) and replay.size("online") == 1
    traces, kinds = engine.traces, avals(state)
    with compilations() as later:
        for call in range(2, 82):
            for record in [*(next(online) for _ in range(call % 12)), next(demos)]:
                replay.insert(record)
            if call % 8 == 0:
                replay.relabel(Label("a", call // 8, "failure", "person", "anna", 1.0))
            state, _ = engine.update(state, call) if call % 3 else engine.update_critic(state, call)
    assert later == [] and engine.traces == traces == {"device": 2, "host": 3}[where]
    assert avals(state) == kinds
    assert replay.size("demos") > 60 and replay.size("online") > 60


def filled(where: Where) -> Replay:
    def two(obs: Any) -> dict[str, np.ndarray]:
        return {**encode(obs), "wrist": encode(obs)["front"] + 5}

    example = observation(np.random.default_rng(0))
    replay = Replay(CAPACITY, {**example, "wrist": example["front"]}, 2, two, views=2, where=where)
    for _, record in zip(range(30), records(0), strict=False):
        seen = "obs" if isinstance(record, EpisodeStart) else "next_obs"
        replay.insert(replace(record, **{seen: {**getattr(record, seen), "wrist": getattr(record, seen)["front"]}}))
    return replay


def summing(replay: Replay) -> Engine:
    return Engine(Summing(), replay, Sampling(0.9, 16, n_step=3), 2, as_stored())


@BOTH
def test_half_precision_is_kept_as_integers_and_comes_back_as_it_was(where: Where) -> None:
    """Bug: a ring of half precision, which XLA widens as a whole; or bits learnt as if they were numbers."""
    replay = filled(where)
    rings = {**replay.table().frames, **replay._host._rings}
    assert {name: ring.dtype for name, ring in rings.items() if name != "state"} == {
        "front": np.uint16, "wrist": np.uint16
    }  # fmt: skip
    assert set(replay._host._rings) == ({"front", "wrist"} if where == "host" else set())
    got = replay.gather(replay.slots("online"), replay.sampling(Sampling(0.9)))["obs"]
    assert got["front"].dtype == got["wrist"].dtype == np.float16
    assert set(np.unique(got["front"])) == set(range(10)) and set(np.unique(got["wrist"])) == set(range(5, 15))


def test_the_compiled_call_widens_no_ring() -> None:
    """Bug: numbers are made of a whole ring before its rows are collected: 703 ms at 2.1 GB instead of 0.8."""
    replay = filled("device")
    engine = summing(replay)
    lowered = engine._whole.lower(True, {}, replay.table(), None, engine._key, np.uint32(0))
    assert types_of(replay.table().frames["front"].shape, lowered) == {"u16"}


@BOTH
def test_nothing_is_carried_to_the_device_in_secret(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: the guard around a call is gone, and an array that lies on the host costs a transfer in every call."""
    replay = filled(where)
    engine = summing(replay)
    engine.update({}, 0)
    table = replay.table()
    astray = replace(table, facts={**table.facts, "reward": np.array(table.facts["reward"])})
    monkeypatch.setattr(replay, "table", lambda: astray)
    with pytest.raises(Exception, match="isallowed host-to-device transfer"):
        engine.update({}, 1)
