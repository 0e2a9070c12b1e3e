"""A classifier from labelled frames, and what to expect of it on episodes that it has never seen.

Episodes are dealt into folds; each of the heads that together make the classifier learns from all folds but one,
which ends its training in time and then tells how good it is. So every episode is judged by a head that has not
seen it: by these scores labels are suspected, probabilities calibrated and the threshold chosen. What is used in
the end, the mean of all heads, is at least as good.

A frame whose label all evidence contradicts is left out of training and of the choice of the threshold, since a wrong
label would spoil both. But what looks like one may be the hardest example of its class, rightly labelled: so the report
has its figures twice, without these frames ("held_out") and taking every label at its word ("as_labelled").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serl_core.agents import calibration
from serl_core.agents.classifier import ClassifierConfig, Floats, Head, Ints, fit, log_shares, logits
from serl_core.config import ConfigError
from serl_core.envs.scored import Belief
from serl_core.judging.encoded import Examples
from serl_core.judging.figures import about, measured
from serl_core.nets.encoders import Params

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Training:
    """How a classifier is trained and what is wanted of it."""

    folds: int = 4  # heads, each of which is judged by the episodes it has not seen; at least 2
    suspects: Literal["leave out", "keep"] = "leave out"  # frames whose label contradicts confident heads
    emphasis: int = 4  # a frame that a person corrected counts so many times
    false_positive_rate: float = 5e-4  # share of the other frames that may be taken for a success
    k: int = 2  # frames over the threshold …
    n: int = 3  # … of so many, that confirm a success
    network: ClassifierConfig = field(default_factory=ClassifierConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.emphasis < 1 or not 0 <= self.false_positive_rate < 1:
            raise ConfigError("training: folds ≥ 2, emphasis ≥ 1, 0 ≤ false_positive_rate < 1")
        Belief(0.5, self.k, self.n)


@dataclass(frozen=True)
class Trained:
    """The heads, how to read them, and what they said of the episodes that each had not seen.

    ``prior`` (C,) is added to the mean of the heads' logits, the sum divided by ``temperature``. ``beliefs`` has the
    threshold of each class. ``held_out`` (N, C) are probabilities, ``suspected`` (N,) the frames that were left out.
    """

    members: tuple[Params, ...]
    prior: Floats
    temperature: float
    beliefs: Mapping[str, Belief]
    held_out: npt.NDArray[np.float64]
    suspected: Bools
    report: dict[str, Any]


def train(
    examples: Examples,
    classes: tuple[str, ...],
    success: str,
    config: Training,
    tell: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Raises `ConfigError` if a class is missing, or occurs in one episode only."""
    head = Head(config.network, tuple(sorted(examples.features)), len(classes))
    folds = deal(examples, classes, config.folds, np.random.default_rng(config.seed))
    suspected = _doubtful(head, examples, folds, config, tell)
    scores, fitted = _cross(head, examples, folds, suspected, config, tell)
    sure = ~suspected
    temperature = calibration.fit_temperature(scores[sure], examples.labels[sure])
    held_out = calibration.softmax(scores, temperature)
    beliefs = choose_beliefs(held_out[sure], examples.labels[sure], classes, config)
    doubted = np.bincount(examples.labels[suspected], minlength=len(classes)).tolist()
    frames = {"held_out": sure, "as_labelled": np.ones_like(sure)}
    report = {
        **about(examples, classes),
        "suspected": int(suspected.sum()),
        "suspected_of": dict(zip(classes, doubted, strict=True)),
        "wanted_false_positive_rate": config.false_positive_rate,
        "updates": [member.updates for member in fitted],
        "temperature": temperature,
        **measured(held_out, examples, classes, beliefs, success, frames),
    }
    prior = log_shares(examples.labels[sure], len(classes))
    return Trained(tuple(m.params for m in fitted), prior, temperature, beliefs, held_out, suspected, report)


def _doubtful(head: Head, examples: Examples, folds: Ints, config: Training, tell: Callable[[str], None]) -> Bools:
    """Frames (N,) whose label heads that have not seen them contradict, but no person gave; none where all are kept."""
    nothing = np.zeros(len(examples.labels), np.bool_)
    if config.suspects == "keep":
        return nothing
    scores, _ = _cross(
        head, examples, folds, nothing, config, lambda text: tell(f"looking for doubtful labels, {text}")
    )
    suspected = calibration.suspects(calibration.softmax(scores), examples.labels) & ~examples.trusted
    return suspected & ~_emptied(suspected, examples.labels, head.classes)


def choose_beliefs(
    scores: npt.NDArray[np.float64], labels: Ints, classes: tuple[str, ...], config: Training
) -> dict[str, Belief]:
    """A threshold for each class, by its own probabilities; scores (N, C), labels (N,)."""
    chosen = [
        calibration.choose_threshold(scores[:, number], labels == number, config.false_positive_rate)
        for number in range(len(classes))
    ]
    return {name: Belief(threshold, config.k, config.n) for name, threshold in zip(classes, chosen, strict=True)}


def deal(examples: Examples, classes: tuple[str, ...], folds: int, rng: np.random.Generator) -> Ints:
    """The fold (N,) of each frame: whole episodes, the classes spread evenly. Raises `ConfigError`."""
    shown = [np.unique(examples.owner[examples.labels == number]) for number in range(len(classes))]
    for name, episodes in zip(classes, shown, strict=True):
        if not len(episodes):
            raise ConfigError(
                f'no frame of class "{name}", only of {_others(classes, name)}: record some (serl record), or say '
                "which episodes were one (serl label)"
            )
        if len(episodes) < 2:
            raise ConfigError(
                f'no held-out episode: class "{name}" occurs in one episode only; record at least another one'
            )
    fold = np.full(int(examples.owner.max()) + 1, -1)
    dealt = 0
    for episodes in sorted(shown, key=len):  # the rarest class first: it must reach every fold that it can
        for episode in rng.permutation(episodes):
            if fold[episode] < 0:
                fold[episode] = dealt % min(folds, min(map(len, shown)))
                dealt += 1
    return fold[examples.owner]


def _others(classes: tuple[str, ...], name: str) -> str:
    return ", ".join(f'"{other}"' for other in classes if other != name)


def _cross(
    head: Head, examples: Examples, folds: Ints, suspected: Bools, config: Training, tell: Callable[[str], None]
) -> tuple[Floats, list[Any]]:
    """Logits (N, C) of all frames by heads that did not see their episodes, and the heads."""
    scores = np.zeros((len(folds), head.classes), np.float32)
    fitted = []
    for fold in range(int(folds.max()) + 1):
        tell(f"head {fold + 1} of {folds.max() + 1}")
        usable = np.flatnonzero((folds != fold) & ~suspected)
        emphasised = np.concatenate([usable, np.repeat(usable[examples.trusted[usable]], config.emphasis - 1)])
        unseen = np.flatnonzero(folds == fold)
        stop_by = unseen[~suspected[unseen]]
        fitted.append(fit(head, examples.features, examples.labels, emphasised, stop_by, config.seed + fold))
        prior = log_shares(examples.labels[usable], head.classes)
        scores[unseen] = logits(head, fitted[-1].params, examples.features, unseen) + prior
    return scores, fitted


def _emptied(suspected: Bools, labels: Ints, classes: int) -> Bools:
    """Frames of classes of which nearly all are suspected: then it is the heads that are wrong."""
    doubted = [
        suspected[labels == number].mean() > 0.8 if (labels == number).any() else False for number in range(classes)
    ]
    return np.array(doubted)[labels]
