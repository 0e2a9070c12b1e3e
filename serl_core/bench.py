"""``serl bench``: how fast this machine learns and acts, through the learner's own code, and what limits it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from serl_core.agents.sac import SACConfig
from serl_core.data.memory import available_memory, check_memory, gigabytes
from serl_core.data.replay import Replay
from serl_core.pages import keep_freed_memory
from serl_core.policies import VIEWS
from serl_core.workbench import Bench, Mode, acting, ceiling, clocked, frames_of, stages

RESERVE = 2_000_000_000  # bytes that networks, batches and everybody else on this machine keep
LEAST = 50_000  # transitions in the large replay, so that caches do not flatter it
NICE = 10  # as the learner runs, so that the actor comes first


@dataclass(frozen=True)
class Config:
    """Time the learner's updates and the actor's steps on this machine."""

    mode: Mode = "cached"  # "cached": features of a frozen trunk; "exact": fresh crops through it; "state": no cameras
    batch: int = 256  # transitions per update
    cameras: int = 2
    trunk: str = "small"  # small, resnet10, resnet18; without its weights an untrained one, which takes as long
    trunk_weights: Path | None = None
    channels: int = 128  # of the features, projected if there are more; 0: all
    utd: int = 2  # critic updates per call
    critics: int = 2
    transitions: int = 200_000  # of the large replay; fewer if the memory does not suffice, and at least 50 000
    rounds: int = 30  # of calls on the small and the large replay in turns; medians count
    actor_seconds: float = 10.0  # of acting at 10 Hz, alone and beside the learner
    json: Path | None = None  # also write the figures here


def main(config: Config) -> int:
    """Measure, print a table, write the JSON."""
    keep_freed_memory()
    bench = _bench(config)
    large = _fitting(bench, config.transitions)
    print(_announcement(bench, config, large), flush=True)
    with actor_process(bench, config.actor_seconds) as actor:
        os.nice(NICE)
        figures = measure(bench, config, large, actor)
    print(table(figures))
    if config.json:
        config.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def measure(bench: Bench, config: Config, large: int, actor: Connection) -> dict[str, Any]:
    """All figures. Small and large replay take turns, so that other work slows both down."""
    actor.send("go")
    alone = actor.recv()
    turns = Turns(bench, [bench.replay(1_000), bench.replay(large)])
    for _ in range(config.rounds):
        turns.both(critic=True)
        turns.both(critic=False)
    actor.send("go")
    beside_actor = turns.until(actor)
    beside_learner = actor.recv()
    small, many = (1000 * float(np.median(times)) / config.utd for times in turns.full)
    figures: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "mode": config.mode,
        "trunk": config.trunk if bench.names else "",
        "channels": bench.example[bench.names[0]].shape[0] if bench.names else 0,
        "batch": config.batch,
        "cameras": len(bench.names),
        "critics": config.critics,
        "utd": config.utd,
        "transitions": large,
        "critic_updates_per_s": config.utd / float(np.median(turns.critic[1])),
        "full_updates_per_s": 1000 / many,
        "full_updates_per_s_beside_actor": config.utd / float(np.median(beside_actor)),
        "compilations": turns.recompiled(),
        "update_ms_1k": small,
        "update_ms_200k": many if large == 200_000 else None,
        "update_ratio_large_to_1k": float(np.median(np.divide(turns.full[1], turns.full[0]))),
        "host_gb_200k": bench.stored_bytes(200_000) / 1e9,
    }
    for name, times in (("act", beside_learner), ("act_alone", alone)):
        figures |= {f"{name}_p50_ms": float(np.median(times)), f"{name}_p99_ms": float(np.percentile(times, 99))}
    figures |= stages(bench, turns.replays[1], turns.engines[1], turns.states[1], config.rounds)
    return figures | _roofline(bench, figures)


class Turns:
    """Calls on several replays in turns; seconds of each in ``critic`` and ``full``."""

    def __init__(self, bench: Bench, replays: list[Replay]) -> None:
        self.replays = replays
        self.engines = [bench.engine(replay) for replay in replays]
        self.states = [bench.fresh_state() for _ in replays]
        self.critic: list[list[float]] = [[] for _ in replays]
        self.full: list[list[float]] = [[] for _ in replays]
        self._calls = 0
        for _ in range(2):
            self.both(critic=True)
            self.both(critic=False)
        self.critic, self.full = [[] for _ in replays], [[] for _ in replays]
        self._traces = self._compiled()

    def both(self, critic: bool) -> None:
        """One call on each replay: the critic updates only, or all."""
        for number in range(len(self.replays)):
            (self.critic if critic else self.full)[number].append(clocked(partial(self._call, number, critic)))

    def until(self, actor: Connection) -> list[float]:
        """Seconds of full calls on the last replay while an actor acts."""
        times = []
        while not actor.poll():
            times.append(clocked(partial(self._call, len(self.replays) - 1, False)))
        return times

    def recompiled(self) -> int:
        """How often anything was compiled since the warm-up."""
        return self._compiled() - self._traces

    def _compiled(self) -> int:
        return sum(engine.traces for engine in self.engines)

    def _call(self, number: int, critic: bool) -> Any:
        engine = self.engines[number]
        self._calls += 1
        update = engine.update_critic if critic else engine.update
        self.states[number], metrics = update(self.states[number], self._calls)
        return metrics


@contextlib.contextmanager
def actor_process(bench: Bench, seconds: float) -> Iterator[Connection]:
    """A process that, whenever it is asked to, acts at 10 Hz for so many seconds and answers with milliseconds.

    It begins before this process steps back, and so keeps an actor's priority.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_act, args=(bench, seconds, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _act(bench: Bench, seconds: float, ask: Connection) -> None:
    while True:
        ask.recv()
        ask.send(acting(bench, seconds))


def _bench(config: Config) -> Bench:
    agent = SACConfig(
        batch=config.batch, utd=config.utd, critics=config.critics, critic_subset=min(2, config.critics), grasp=1
    )
    return Bench(config.mode, agent, config.cameras, config.trunk, config.trunk_weights, config.channels)


def _fitting(bench: Bench, wanted: int) -> int:
    """How many transitions the large replay has. Raises StoreError if 50 000 do not fit."""
    room = available_memory() - RESERVE
    fitting = min(wanted, int(wanted * room / bench.stored_bytes(wanted)))
    if fitting < min(wanted, LEAST):
        check_memory(bench.stored_bytes(LEAST), room, f"a replay of {LEAST} transitions, {len(bench.names)} cameras,")
    return fitting


def _announcement(bench: Bench, config: Config, large: int) -> str:
    needs = f"{config.mode}: needs {gigabytes(bench.stored_bytes(large))} for replay of {large} transitions"
    if large == config.transitions:
        return needs
    return f"{needs}; {config.transitions} would need {gigabytes(bench.stored_bytes(config.transitions))}, not here"


def _roofline(bench: Bench, figures: dict[str, Any]) -> dict[str, float]:
    """What the updates reach of a large matrix product measured now, and the bytes that they read of replay."""
    rate = figures["critic_updates_per_s"]
    flops = bench.critic_flops() * rate
    plain, narrow = ceiling(jnp.float32), ceiling(jnp.bfloat16)
    each = bench.stored_bytes(LEAST) / frames_of(LEAST) / (VIEWS if bench.mode == "cached" else 1)
    return {
        "gflops": flops / 1e9,
        "ceiling_f32_gflops": plain / 1e9,
        "ceiling_bf16_gflops": narrow / 1e9,
        "trunk_flops_fraction": flops / max(plain, narrow),
        "read_mb_per_update": 2 * bench.agent_config.batch * each / 1e6,
    }


def table(figures: dict[str, Any]) -> str:
    """For people: one line per figure."""
    lines = []
    for name, value in figures.items():
        text = "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<32} {text:>12}")
    return "\n".join(lines)
