"""How fast, how small and how steady link, store and replay are: ``python -m examples.benchmarks.transport``.

Every figure is that of this machine at this moment; the throughput is given as a ratio to a bare pyzmq push
whose receiver writes the same bytes to the same disk, measured in turns with it.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np
import tyro

from examples.benchmarks.compression import compression
from examples.benchmarks.publishing import slow_down
from examples.benchmarks.records import pictures, step
from examples.benchmarks.transport_ends import PARAMS
from examples.benchmarks.transport_pairs import between, throughput
from serl_core.data.replay import Replay, as_frames
from serl_core.data.sampling import Sampling, sample
from serl_core.types import EpisodeStart

RESULTS = Path(__file__).parent / "results"
Part = Literal["throughput", "weights", "spool", "publishing", "replay", "compression"]
PARTS: tuple[Part, ...] = get_args(Part)
EPISODE = 100  # steps
BATCH = 256


@dataclass(frozen=True)
class Config:
    """Measure link, store and replay."""

    transitions: int = 1000  # of one round
    rounds: int = 30  # in turns with the baseline; medians count
    pairs: int = 30  # of blocks of a learner that does and does not publish
    replay_gb: float = 8.0  # memory that the large replay may take
    folder: Path | None = None  # where spool, store and baseline write; default: the system's temporary folder
    json: Path | None = None  # also write the figures here
    parts: tuple[Part, ...] = PARTS  # what to measure


# ── replay ───────────────────────────────────────────────────────────────────────────────────────


def filled(transitions: int, side: int) -> Replay:
    """A replay of episodes with two cameras; every page of it has been touched."""
    observations = pictures(side)
    example = {name: np.zeros_like(value) for name, value in observations[0].items()}
    replay = Replay(transitions + transitions // EPISODE + 1, example, 7, as_frames)
    for number in range(transitions):
        episode, index = divmod(number, EPISODE)
        obs = observations[number % len(observations)]
        if index == 0:
            replay.insert(EpisodeStart("actor", episode, obs))
        replay.insert(step("actor", index, obs, episode, last=index == EPISODE - 1))
    return replay


def memory_ratio(replay: Replay, transitions: int, side: int) -> float:
    """Its memory as a ratio to the raw bytes of the distinct frames."""
    return replay.memory_bytes / ((transitions + transitions // EPISODE) * (2 * side * side * 3 + 80))


def sampling(replays: list[Replay]) -> list[float]:
    """Median time of drawing a batch of pairs from each, ms; in turns, so that other work slows all of them down."""
    spec, durations = replays[0].sampling(Sampling(0.97, BATCH)), []
    key = jax.random.PRNGKey(0)
    draw = jax.jit(functools.partial(sample, spec=spec, updates=1))
    for _ in range(310):  # long enough to outlast a burst of other work
        turn, key = [], jax.random.split(key)[0]
        for replay in replays:
            begun = time.perf_counter()
            jax.block_until_ready(draw(replay.table(), key))
            turn.append(1000 * (time.perf_counter() - begun))
        durations.append(turn)
    return np.median(durations[10:], axis=0).tolist()


def largest_side(gigabytes: float, transitions: int) -> int:
    """The largest camera, up to 128 pixels, of which so many transitions fit, two cameras each."""
    return min(128, int((gigabytes * 1e9 / transitions / 6.1) ** 0.5) // 4 * 4)


def replay_figures(config: Config) -> dict[str, float]:
    """Sampling at 1 k and 200 k, with cameras small enough for this machine; and at 1 k and as many as fit of 128²."""
    side = largest_side(config.replay_gb, 200_000)
    large = min(200_000, int(config.replay_gb * 1e9 / (6.1 * 128 * 128)))
    small, many = sampling([filled(1_000, side), filled(200_000, side)])
    replays = [filled(1_000, 128), filled(large, 128)]
    small_128px, many_128px = sampling(replays)
    return {
        "bytes_per_transition_ratio": memory_ratio(replays[0], 1_000, 128),
        "sample_ms_1k": small,
        "sample_ms_200k": many,
        "sample_side": side,
        "sample_ms_1k_128px": small_128px,
        "sample_ms_large_128px": many_128px,
        "large_transitions": large,
    }


# ── the report ───────────────────────────────────────────────────────────────────────────────────


def weights(config: Config) -> dict[str, float]:
    """From publishing until the actor has them, while nothing else happens on the link."""
    took = between("publisher", "waiting", config.folder, 100)
    size = sum(value.nbytes for value in PARAMS.values())
    return {"weights_p50_ms": took["p50_ms"], "weights_p99_ms": took["p99_ms"], "weights_bytes": size}


def spool(config: Config) -> dict[str, float]:
    """What handing a record over adds to a control loop."""
    return between("learner", "paced", config.folder, 2000)


def measure(config: Config) -> Iterator[dict[str, float]]:
    """All figures, and on what machine."""
    measured: dict[Part, Callable[[], dict[str, float]]] = {
        "throughput": lambda: throughput(config.transitions, config.rounds, config.folder),
        "weights": lambda: weights(config),
        "spool": lambda: spool(config),
        "publishing": lambda: slow_down(config.pairs),
        "replay": lambda: replay_figures(config),
        "compression": compression,
    }
    yield {"cores": os.cpu_count() or 0}
    for part in config.parts:
        yield {**measured[part](), f"load_at_{part}": os.getloadavg()[0]}


def main(config: Config) -> int:
    """Measure, print, and write what is asked for."""
    figures: dict[str, float] = {}
    for part in measure(config):
        for name, value in part.items():
            figures[name] = round(value, 4) if value < 100 else round(value)
            print(f"{name:32} {figures[name]}", flush=True)
    write_results(figures)
    if config.json:
        config.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def write_results(figures: dict[str, float]) -> None:
    """Into the CSV beside this file; figures of parts that were not measured stay there."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "transport.csv"
    rows = list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "value"])
        writer.writerows({**dict(rows), **figures}.items())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.transport", description=__doc__)))
