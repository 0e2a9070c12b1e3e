"""``serl bench``: how fast this machine learns and acts, through the learner's own code, and what limits it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from serl_core import workbench
from serl_core.agents.policy import act_inline, params_to_tree
from serl_core.agents.sac import SACConfig, make_policy
from serl_core.blueprint import PRESETS
from serl_core.config import ConfigError, Preset
from serl_core.data.memory import FOR_FRAMES, device_memory, gigabytes, spare_memory
from serl_core.data.segments import StoreError
from serl_core.nets.once import EncodedOnce
from serl_core.nets.trunks import TRUNKS
from serl_core.nets.weights import WeightsError
from serl_core.pages import keep_freed_memory
from serl_core.policies import Aside
from serl_core.summary import check_writable, write_json
from serl_core.tasks import load_task
from serl_core.workbench import ACTION, Bench, Filled, Mode, clocked, frames_of

LEAST = 50_000  # transitions in the large replay, so that caches do not flatter it
FEW = 1_000  # transitions in the small one
PUBLISHED = 0.5  # s between two versions of the weights
NICE = 10  # as the learner runs, so that the actor comes first
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, whatever was compiled


@dataclass(frozen=True)
class Config:
    """Time the learner's updates and the actor's steps on this machine."""

    mode: Mode = "cached"  # "cached": features of a frozen trunk; "exact": fresh crops through it; "state": no cameras
    batch: int = 256  # transitions per update
    cameras: int = 2
    trunk: str = "small"  # small, resnet10, resnet18; without its weights an untrained one, which takes as long
    trunk_weights: Path | None = None
    channels: int = 128  # of the features, projected if there are more; 0: all
    preset: Preset = "plain"  # HIL-SERL's agent; "default": the learner's, with imitation and windows of three steps
    utd: int = 2  # critic updates per call
    critics: int | None = None  # by default as many as the preset has
    transitions: int = 200_000  # of the large replay; fewer if the memory does not suffice, but then at least 50 000
    rounds: int = 30  # of calls on the small and the large replay in turns; medians count
    actor_seconds: float = 60.0  # of acting at 10 Hz, alone and beside the learner: p99 of 600 actions, not their worst
    json: Path | None = None  # also write the figures here


def main(config: Config) -> int:
    """Measure, print a table, write the JSON. Raises ConfigError or StoreError before anything is timed."""
    keep_freed_memory()
    bench = _bench(config)
    large = _fitting(bench, config.transitions)
    print(_announcement(bench, config, large), flush=True)
    with actor_process(bench, config.actor_seconds) as actor:
        os.nice(NICE)
        figures = measure(bench, config, large, actor)
    print(table(figures))
    if config.json:
        write_json(config.json, figures)
    return 0


# ── what is measured ────────────────────────────────────────────────────────────────────────────


def measure(bench: Bench, config: Config, large: int, actor: Connection) -> dict[str, Any]:
    """All figures. Small and large replay take turns, so that other work slows both down."""
    actor.send("go")
    alone = actor.recv()
    ceilings = _ceilings(bench)  # before replay takes the memory
    turns = Turns(bench, [_filled(bench, FEW), _filled(bench, large)])
    for _ in range(config.rounds):
        turns.both(critic=True)
        turns.both(critic=False)
    actor.send("go")
    beside_actor = turns.until(actor)
    beside_learner = actor.recv()
    figures = _what(bench, config, large) | _rates(bench, turns, large)
    figures["full_updates_per_s_beside_actor"] = config.utd / float(np.median(beside_actor))
    for name, times in (("act", beside_learner), ("act_alone", alone)):
        figures |= {f"{name}_p50_ms": float(np.median(times)), f"{name}_p99_ms": float(np.percentile(times, 99))}
    figures["actor_ms"] = 1000 * float(np.median(np.subtract(turns.full[1], turns.critic[1])))  # of whole calls
    filled, engine = turns.filled[1], turns.engines[1]
    drawn = workbench.minibatch(bench, filled, engine)
    figures |= workbench.stages(bench, filled, engine, drawn, config.rounds)
    cost = workbench.critic_cost(bench, drawn[1])
    return figures | _roofline(bench, cost, figures["critic_updates_per_s"], ceilings)


def _what(bench: Bench, config: Config, large: int) -> dict[str, Any]:
    """What is measured, on what."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": workbench.devices_of(bench.sharding),
        "mode": config.mode,
        "trunk": config.trunk if bench.names else "",
        "channels": bench.trunk.features[0] if bench.names else 0,
        "batch": config.batch,
        "cameras": len(bench.names),
        "preset": config.preset,
        "critics": bench.agent_config.critics,
        "utd": config.utd,
        "transitions": large,
        "host_gb_200k": bench.stored_bytes(200_000) / 1e9,
    }


def _rates(bench: Bench, turns: Turns, large: int) -> dict[str, Any]:
    """Updates with small and large replay."""
    utd = bench.agent_config.utd
    small, many = (1000 * float(np.median(times)) / utd for times in turns.full)
    return {
        "frames_on": "host" if turns.filled[1].replay.on_host else "device",
        "critic_updates_per_s": utd / float(np.median(turns.critic[1])),
        "full_updates_per_s": 1000 / many,
        "compilations": turns.recompiled(),
        "update_ms_1k": small,
        "update_ms_200k": many if large == 200_000 else None,
        "update_ratio_large_to_1k": float(np.median(np.divide(turns.full[1], turns.full[0]))),
    }


def _ceilings(bench: Bench) -> dict[str, float]:
    """FLOP/s and bytes/s that nothing here can exceed."""
    return {
        "f32": workbench.ceiling(jnp.float32, bench.sharding),
        "bf16": workbench.ceiling(jnp.bfloat16, bench.sharding),
        "bytes": workbench.copy_rate(bench.sharding),
    }


def _roofline(bench: Bench, cost: tuple[float, float], rate: float, ceilings: dict[str, float]) -> dict[str, float]:
    """What ``rate`` critic updates/s of that cost (FLOP, bytes) reach of the ceilings; MB read of replay and in all."""
    flops, moved = cost
    each = bench.stored_bytes(LEAST) / frames_of(LEAST) / bench.views
    return {
        "gflops": flops * rate / 1e9,
        "ceiling_f32_gflops": ceilings["f32"] / 1e9,
        "ceiling_bf16_gflops": ceilings["bf16"] / 1e9,
        "trunk_flops_fraction": flops * rate / max(ceilings["f32"], ceilings["bf16"]),
        "moved_mb_per_update": moved / 1e6,
        "ceiling_gb_per_s": ceilings["bytes"] / 1e9,
        "memory_fraction": moved * rate / ceilings["bytes"],
        "read_mb_per_update": 2 * bench.agent_config.batch * each / 1e6,
    }


class Turns:
    """Calls on several replays in turns; seconds of each in ``critic`` and ``full``.

    Before each call a record arrives, outside of the clock (its price is insert_ms): were its write to compile again,
    `recompiled` would say so.
    """

    def __init__(self, bench: Bench, filled: list[Filled]) -> None:
        self.filled = filled
        self.engines = [bench.engine(each.replay) for each in filled]
        self._states = [engine.placed(bench.fresh_state()) for engine in self.engines]
        self._calls = [0 for _ in filled]  # of each: an engine prepares the call after its last
        self._heard = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)  # for good: a process measures once
        for _ in range(2):
            self._clear()
            self.both(critic=True)
            self.both(critic=False)
        self._clear()
        self._traces, self._compiled = self._traced(), self._heard

    def both(self, critic: bool) -> None:
        """One call on each replay: the critic updates only, or all."""
        for number in range(len(self.filled)):
            (self.critic if critic else self.full)[number].append(self._timed(number, critic))

    def until(self, actor: Connection) -> list[float]:
        """Seconds of full calls on the last replay while an actor acts."""
        times = []
        while not actor.poll():
            times.append(self._timed(len(self.filled) - 1, False))
        return times

    def recompiled(self) -> int:
        """How often anything was compiled in this process since the warm-up; tracing an engine's call counts too."""
        return max(self._heard - self._compiled, self._traced() - self._traces)

    def _timed(self, number: int, critic: bool) -> float:
        self.filled[number].arrive()
        return clocked(partial(self._call, number, critic))

    def _call(self, number: int, critic: bool) -> Any:
        engine = self.engines[number]
        self._calls[number] += 1
        update = engine.update_critic if critic else engine.update
        self._states[number], metrics = update(self._states[number], self._calls[number])
        return metrics

    def _clear(self) -> None:
        self.critic: list[list[float]] = [[] for _ in self.filled]
        self.full: list[list[float]] = [[] for _ in self.filled]

    def _hear(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self._heard += event == COMPILED

    def _traced(self) -> int:
        return sum(engine.traces for engine in self.engines)


@contextlib.contextmanager
def actor_process(bench: Bench, seconds: float) -> Iterator[Connection]:
    """A process that, whenever it is asked to, acts at 10 Hz for so many seconds and answers with milliseconds.

    It begins before this process steps back, and so keeps an actor's priority.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    plan = replace(bench)  # without the networks that were made here: not all of them can be sent
    process = context.Process(target=_act, args=(plan, seconds, theirs), daemon=True)
    process.start()
    theirs.close()  # now an actor that ends is noticed instead of waited for
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def acting(bench: Bench, seconds: float, hz: float = 10.0) -> list[float]:
    """Milliseconds of each action at a fixed rate: frames through the trunk, then the policy.

    New weights come twice a second, as from a learner, and are taken as an actor takes them.
    """
    act = make_policy(bench.agent_config, bench.example, ACTION)
    encode = EncodedOnce().encoder(bench.trunk, bench.names) if bench.names else dict
    params, key = bench.agent.policy(bench.fresh_state()), jax.random.key(0)
    published, aside = params_to_tree(params), Aside()
    took: list[float] = []
    begun = time.monotonic()
    for number in range(round(seconds * hz) + 3):
        obs = {name: np.array(x) for name, x in bench.raw.items()}  # other frames: nothing is remembered
        clock = time.perf_counter()
        params = aside.ready() or params
        act(params, encode(obs), key, True)
        took.append(1000 * (time.perf_counter() - clock))
        if number % round(hz * PUBLISHED) == 0:
            aside.begin(published)
        if number == 2:
            begun = time.monotonic()  # compiled
        time.sleep(max(0.0, begun + (number - 2) / hz - time.monotonic()) if number > 2 else 0.0)
    return took[3:]


def _act(bench: Bench, seconds: float, ask: Connection) -> None:
    act_inline()
    while True:
        ask.recv()
        ask.send(acting(bench, seconds))


# ── before it begins ────────────────────────────────────────────────────────────────────────────


def _bench(config: Config) -> Bench:
    """What to time. Raises ConfigError naming the option that cannot be."""
    _check(config)
    plain = SACConfig(batch=config.batch, utd=config.utd, grasp=1)
    agent = PRESETS[config.preset](plain, load_task("pick_cube"))  # of which it takes what returns can be
    critics = config.critics or agent.critics
    agent = replace(agent, critics=critics, critic_subset=min(2, critics))
    bench = Bench(config.mode, agent, config.cameras, config.trunk, config.trunk_weights, config.channels)
    try:
        bench.trunk  # noqa: B018  # loaded now: before an actor waits for it
    except WeightsError as error:
        option = "--trunk-weights" if config.trunk in TRUNKS else "--trunk"
        raise ConfigError(f"{option}: {error}") from error
    return bench


def _check(config: Config) -> None:
    least = {"batch": 1, "utd": 1, "critics": 1, "channels": 0, "rounds": 1, "transitions": FEW}
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ConfigError(f"--{name} {value}: give {bound} or more")
    if config.cameras < 1 and config.mode != "state":
        raise ConfigError(f"--cameras {config.cameras}: give 1 or more, or --mode state to do without")
    if not (0 < config.actor_seconds < math.inf):
        raise ConfigError(f"--actor-seconds {config.actor_seconds}: give more than 0, e.g. 60")
    if config.json:
        check_writable(config.json)


def _filled(bench: Bench, transitions: int) -> Filled:
    try:
        return Filled(bench, transitions)
    except StoreError:  # memory went elsewhere since `_fitting`; its text names options that are not ours
        raise _refusal(bench, transitions, _room()) from None


def _room() -> int:
    """Bytes that frames can have: of the devices or of this machine, wherever more of them fit."""
    free, machine = device_memory(jax.local_devices()), spare_memory()
    return machine if free is None else max(machine, int(FOR_FRAMES * free))


def _fitting(bench: Bench, wanted: int) -> int:
    """How many transitions the large replay has. Raises StoreError if neither those wanted nor 50 000 fit."""
    room, least = _room(), min(wanted, LEAST)
    if bench.stored_bytes(wanted) <= room:
        return wanted
    if bench.stored_bytes(least) > room:
        raise _refusal(bench, least, room)
    return max(least, _cut(bench, wanted, room))


def _cut(bench: Bench, wanted: int, room: int) -> int:
    """Thousands of transitions that surely fit, although the small replay and the networks take their place first."""
    return int(0.95 * wanted * room / bench.stored_bytes(wanted)) // FEW * FEW


def _refusal(bench: Bench, wanted: int, room: int) -> StoreError:
    """What does not fit, and the options that would."""
    fitting, width = _cut(bench, wanted, room), bench.trunk.features[0]
    fewer = range(len(bench.names) - 1, 0, -1)
    cameras = next((n for n in fewer if bench.stored_bytes(wanted, cameras=n) <= room), 0)
    halves = (width >> n for n in range(1, width.bit_length()) if bench.mode == "cached")
    channels = next((n for n in halves if bench.stored_bytes(wanted, channels=n) <= room), 0)
    hints = [f"--transitions {fitting}"] if fitting else []
    hints += [f"--cameras {cameras}"] if cameras else []
    hints += [f"--channels {channels}"] if channels else []
    return StoreError(
        f"a replay of {wanted} transitions, {len(bench.names)} cameras, needs {gigabytes(bench.stored_bytes(wanted))}, "
        f"and this machine has {gigabytes(room)} for it: {' or '.join([*hints, 'free memory'])}"
    )


def _announcement(bench: Bench, config: Config, large: int) -> str:
    needs = f"{config.mode}: needs {gigabytes(bench.stored_bytes(large))} for replay of {large} transitions"
    if large == config.transitions:
        return needs
    return f"{needs}; {config.transitions} would need {gigabytes(bench.stored_bytes(config.transitions))}, not here"


def table(figures: dict[str, Any]) -> str:
    """For people: one line per figure."""
    lines = []
    for name, value in figures.items():
        text = "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
        lines.append(f"{name:<32} {text:>12}")
    return "\n".join(lines)
