"""Can a classifier be trusted with the reward? ``python -m examples.benchmarks.classifier [--json FILE]``.

Rendered episodes of ``peg_insertion``, successes and near misses, are recorded once (a stopped recording goes on where
it was). Of the training frames 5 % get the wrong label; what counts is measured on other episodes with true labels.
"""

from __future__ import annotations

import csv
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from examples.benchmarks.classifier_scenes import Wanted, record
from serl_core.agents import calibration
from serl_core.agents.classifier import ClassifierConfig, Head, logits
from serl_core.judging.crossfit import Trained, Training, train
from serl_core.judging.encoded import Examples, FeatureFiles, gather
from serl_core.judging.figures import figures
from serl_core.judging.labelled import BINARY, SUCCESS, parse_source, recorded
from serl_core.judging.scorer import named_trunk
from serl_core.progress import progress
from serl_core.summary import check_writable, write_json

RESULTS = Path(__file__).parent / "results"
CAMERAS = ("front", "wrist")


@dataclass(frozen=True)
class Config:
    """Precision, recall and false successes of a classifier of peg_insertion."""

    data: Path = Path("runs/classifier-benchmark")  # recorded episodes and their features
    seeds: tuple[int, ...] = (100, 101, 102)  # of label noise and training
    noise: float = 0.05  # share of the training frames whose label is turned round
    training: tuple[int, int] = (80, 80)  # episodes to learn from: those that mean to succeed, and near misses
    more: int = 80  # further ones that mean to succeed: each shows the moment of success once
    play: int = 40  # and ones that go in and out of success, to show its limit from both sides
    held_out: tuple[int, int] = (80, 320)  # the same, to measure with
    views: int = 4  # of each frame in training
    learning: Training = field(default_factory=Training)  # of each row; its seed is the row's
    results: Path = RESULTS  # where CSV and PNG go
    json: Path | None = None  # also write the rows here


def material(config: Config, views: int, *wanted: Wanted) -> Examples:
    """The frames of sets of episodes, recorded and encoded as far as they were not yet."""
    sources = [parse_source(str(record(config.data, some))) for some in wanted]
    files = FeatureFiles(config.data / "features", named_trunk("small", None), CAMERAS, views, seed=0)
    with progress("reading (episodes)", sum(some.successes + some.failures + some.play for some in wanted)) as bar:
        return gather(chain.from_iterable(recorded(source, BINARY) for source in sources), files, CAMERAS, bar)


def spoiled(examples: Examples, share: float, rng: np.random.Generator) -> Examples:
    """The same with this share of the labels turned round, frame by frame."""
    wrong = rng.random(len(examples.labels)) < share
    return replace(examples, labels=np.where(wrong, 1 - examples.labels, examples.labels))


def scores(trained: Trained, network: ClassifierConfig, examples: Examples) -> np.ndarray:
    """Probability of success (N,) of every frame, by the mean of the heads: what an actor would see."""
    head, frames = Head(network, CAMERAS, len(BINARY)), np.arange(len(examples.labels))
    mean = np.mean([logits(head, member, examples.features, frames) for member in trained.members], axis=0)
    return calibration.softmax(mean + trained.prior, trained.temperature)[:, SUCCESS]


def measure(config: Config, seed: int, learnt: Examples, unseen: Examples) -> tuple[dict[str, Any], calibration.Curve]:
    """One row: train on spoiled labels, measure on true ones."""
    given = spoiled(learnt, config.noise, np.random.default_rng(seed))
    begun, used = time.perf_counter(), _cpu()
    trained = train(given, BINARY, BINARY[SUCCESS], replace(config.learning, seed=seed))
    took, used = time.perf_counter() - begun, _cpu() - used
    probable, truth = scores(trained, config.learning.network, unseen), unseen.labels == SUCCESS
    curve = calibration.precision_recall(probable, truth)
    belief = trained.beliefs[BINARY[SUCCESS]]
    flipped = given.labels != learnt.labels
    row = {
        "task": "peg_insertion",
        "method": "classifier",
        "expert": "scripted",  # who moved the arm in the recorded episodes
        "seed": seed,
        "label_noise": config.noise,
        "training_frames": len(given.labels),
        "training_successes": int((learnt.labels == SUCCESS).sum()),
        "wrong_labels": int(flipped.sum()),
        "suspected": int(trained.suspected.sum()),
        "suspected_rightly": int((trained.suspected & flipped).sum()),
        "k_of_n": f"{belief.k} of {belief.n}",
        **figures(probable, truth, unseen.owner, belief),
        "precision_at_recall_95": float(curve.precision[curve.recall >= 0.95].max()),
        "recall_at_precision_99": float(curve.recall[curve.precision >= 0.99].max(initial=0.0)),
        "training_s": round(took, 1),
        "training_cpu_s": round(used, 1),
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, curve


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def plot(path: Path, curves: Sequence[calibration.Curve], rows: Sequence[dict[str, Any]]) -> None:
    """Precision over recall, a line per seed, and where each threshold lies. Needs matplotlib (extra dashboard)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for curve, row in zip(curves, rows, strict=True):
        (line,) = axes.step(curve.recall, curve.precision, where="post", label=f"seed {row['seed']}")
        axes.plot(row["recall"], row["precision"], "o", color=line.get_color())
    axes.axhline(0.99, color="0.7", linewidth=0.8)
    axes.axvline(0.95, color="0.7", linewidth=0.8)
    axes.set(xlim=(0.8, 1.002), ylim=(0.9, 1.003), xlabel="recall", ylabel="precision")
    axes.set_title("peg_insertion: held-out frames; dots: the chosen thresholds", fontsize=10)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def main(config: Config) -> int:
    """Record, train once per seed, write CSV and PNG."""
    if config.json:
        check_writable(config.json)
    learnt = material(
        config,
        config.views,
        Wanted("training", *config.training, first_seed=3_000_000),
        Wanted("successes", config.more, 0, first_seed=3_200_000),
        Wanted("play", 0, 0, first_seed=3_300_000, play=config.play, steps=50),
    )
    unseen = material(config, 1, Wanted("held-out", *config.held_out, first_seed=3_100_000))
    rows, curves = [], []
    for seed in config.seeds:
        row, curve = measure(config, seed, learnt, unseen)
        rows.append(row)
        curves.append(curve)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    config.results.mkdir(parents=True, exist_ok=True)
    with (config.results / "classifier.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot(config.results / "classifier.png", curves, rows)
    if config.json:
        write_json(config.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Config)))
