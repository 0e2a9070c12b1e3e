"""How fast, how small and how steady link, store and replay are: ``python -m examples.benchmarks.transport``.

Every figure is that of this machine at this moment; the throughput is given as a ratio to a bare pyzmq push
whose receiver writes the same bytes to the same disk, measured in turns with it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro

from examples.benchmarks.compression import compression
from examples.benchmarks.transport_ends import PARAMS, pictures, step
from robot_servers.keys import make_keys
from serl_core.data.replay import Replay
from serl_core.transport import LearnerLink
from serl_core.types import EpisodeStart

RESULTS = Path(__file__).parent / "results"
EPISODE = 100  # steps
BATCH = 256


@dataclass(frozen=True)
class Config:
    """Measure link, store and replay."""

    transitions: int = 3000  # of one round
    rounds: int = 5  # in turns with the baseline; medians count
    replay_gb: float = 8.0  # memory that the large replay may take
    folder: Path | None = None  # where spool, store and baseline write; default: the system's temporary folder
    json: Path | None = None  # also write the figures here


# ── the link ─────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def end(role: str, folder: Path, address: str = "tcp://127.0.0.1:*", count: int = 0) -> Iterator[subprocess.Popen[str]]:
    """One end as a process; killed afterwards."""
    command = [sys.executable, "-m", "examples.benchmarks.transport_ends"]
    options = ["--role", role, "--address", address, "--folder", str(folder), "--count", str(count)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"{process.args} ended without a figure")
    return line.strip()


def between(serving: str, calling: str, config: Config, count: int, keys: bool = False) -> dict[str, float]:
    """The figures of the calling end."""
    with tempfile.TemporaryDirectory(dir=config.folder) as name, contextlib.ExitStack() as stack:
        if keys:
            make_keys(Path(name) / "keys")
        server = stack.enter_context(end(serving, Path(name)))
        address = said(server).split()[1]
        with end(calling, Path(name), address, count) as caller:
            return json.loads(said(caller))


def throughput(config: Config) -> dict[str, float]:
    """Transitions per second of the link and of the baseline, in turns; the ratio is the median of the turns'."""
    raw, ours, secured = [], [], []
    for _ in range(config.rounds):
        raw.append(between("pull", "push", config, config.transitions)["per_s"])
        ours.append(between("learner", "actor", config, config.transitions)["per_s"])
        secured.append(between("learner", "actor", config, config.transitions, keys=True)["per_s"])
    ratios = [one / other for one, other in zip(ours, raw, strict=True)]
    return {
        "transitions_per_s": median(ours),
        "curve_transitions_per_s": median(secured),
        "raw_push_per_s": median(raw),
        "ratio": median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def slow_down(seconds: float = 2.0, turns: int = 5) -> float:
    """By which share a computing learner is slower while it publishes every second to an actor."""
    matrix = np.ones((256, 512), np.float32)

    def updates(link: LearnerLink, version: int | None) -> int:
        done, until, publish_at = 0, time.perf_counter() + seconds, time.perf_counter()
        while time.perf_counter() < until:
            if version is not None and time.perf_counter() >= publish_at:
                publish_at += 1.0
                link.publish(version := version + 1, PARAMS, {"at": time.monotonic()})
            np.dot(matrix, matrix.T)
            done += 1
        return done

    quiet, publishing = [], []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        link = stack.enter_context(LearnerLink("tcp://127.0.0.1:*"))
        stack.enter_context(end("waiting", folder, link.address, 1 << 30))
        for turn in range(turns):
            quiet.append(updates(link, None))
            publishing.append(updates(link, 1000 * turn))
    return 1.0 - sum(publishing) / sum(quiet)


# ── replay ───────────────────────────────────────────────────────────────────────────────────────


def filled(transitions: int, side: int) -> Replay:
    """A replay of episodes with two cameras; every page of it has been touched."""
    observations = pictures(side)
    example = {name: np.zeros_like(value) for name, value in observations[0].items()}
    replay = Replay(transitions + transitions // EPISODE + 1, example, action_dim=7, discount=0.97)
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
    rng, durations = np.random.default_rng(0), []
    for _ in range(310):  # long enough to outlast a burst of other work
        turn = []
        for replay in replays:
            begun = time.perf_counter()
            replay.sample(rng, BATCH, 1)
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


def link_figures(config: Config) -> dict[str, float]:
    """Everything about the link but its throughput."""
    weights = between("publisher", "waiting", config, 100)
    spooling = between("learner", "paced", config, 1000)
    return {
        "weights_p50_ms": weights["p50_ms"],
        "weights_p99_ms": weights["p99_ms"],
        "weights_bytes": sum(value.nbytes for value in PARAMS.values()),
        "publishing_slow_down": slow_down(),
        "spool_p50_ms": spooling["p50_ms"],
        "spool_p99_ms": spooling["p99_ms"],
        "packing_alone_p99_ms": spooling["bare_p99_ms"],
    }


def measure(config: Config) -> Iterator[dict[str, float]]:
    """All figures, and on what machine."""
    yield {"cores": os.cpu_count() or 0, "load": os.getloadavg()[0]}
    yield throughput(config)
    yield link_figures(config)
    yield replay_figures(config)
    yield compression()
    yield {"load_at_the_end": os.getloadavg()[0]}


def main(config: Config) -> int:
    """Measure, print, and write the CSV."""
    figures: dict[str, float] = {}
    for part in measure(config):
        for name, value in part.items():
            figures[name] = round(value, 4) if value < 100 else round(value)
            print(f"{name:32} {figures[name]}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "transport.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "value"])
        writer.writerows(figures.items())
    if config.json:
        config.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m examples.benchmarks.transport", description=__doc__)))
