"""How far a classifier's numbers can be believed: precision and recall, calibration, and the choice of a threshold.

``scores`` (N,) are probabilities of success, ``truth`` (N,) bool says what was one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
DOUBT = 0.1  # probability below which a label is doubted
TEMPERATURES = np.geomspace(0.2, 20.0, 200)


@dataclass(frozen=True)
class Curve:
    """Precision and recall at every threshold that matters, from the strictest to the most generous, (M,) each."""

    threshold: Floats
    precision: Floats
    recall: Floats

    @property
    def average_precision(self) -> float:
        """Area under the curve, by steps."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))


@dataclass(frozen=True)
class Reliability:
    """Scores in bins of equal width, without the empty ones: their mean, the share of successes, their number; (B,)."""

    probability: Floats
    share: Floats
    frames: npt.NDArray[np.integer]


def precision_recall(scores: Floats, truth: Bools) -> Curve:
    """The curve over all thresholds. Raises ValueError without a success: there is no recall."""
    if not truth.any():
        raise ValueError("precision and recall need at least one success")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of each group of equal scores
    return Curve(scores[order][last], hits[last] / (last + 1), hits[last] / truth.sum())


def thinned(curve: Curve, most: int) -> Curve:
    """At most so many points of it, for drawing; those after full recall are left out, precision only falls there."""
    end = int(np.searchsorted(curve.recall, 1.0))
    kept = np.unique(np.linspace(0, end, most).round().astype(int))
    return Curve(curve.threshold[kept], curve.precision[kept], curve.recall[kept])


def at_threshold(scores: Floats, truth: Bools, threshold: float) -> dict[str, float]:
    """Counts and rates at one threshold. A precision without any claim is 1, a recall without any success too."""
    claimed = scores >= threshold
    true = int((claimed & truth).sum())
    false = int((claimed & ~truth).sum())
    return {
        "precision": true / (true + false) if true + false else 1.0,
        "recall": true / int(truth.sum()) if truth.any() else 1.0,
        "false_positive_rate": false / max(1, int((~truth).sum())),
        "false_positives": false,
        "successes": int(truth.sum()),
        "others": int((~truth).sum()),
    }


def choose_threshold(scores: Floats, truth: Bools, false_positive_rate: float) -> float:
    """A threshold that at most this share of what is no success reaches, at least 0.5.

    Half-way, in logits, between the best score that has to be refused and what 95 % of the successes reach, where
    these lie apart: few frames say little about the very last of them.
    """
    others = np.sort(_log_odds(scores[~truth]))[::-1]
    allowed = int(false_positive_rate * len(others))
    refused = others[allowed] if allowed < len(others) else 0.0
    reached = np.quantile(_log_odds(scores[truth]), 0.05) if truth.any() else refused
    middle = max(0.0, refused + max(0.0, reached - refused) / 2)
    return float(np.nextafter(1 / (1 + np.exp(-middle)), 1.0))


def _log_odds(scores: Floats) -> npt.NDArray[np.float64]:
    clipped = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    return np.log(clipped / (1 - clipped))


def softmax(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    powers = np.exp(scaled)
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_temperature(logits: Floats, labels: npt.NDArray[np.integer]) -> float:
    """What to divide logits (N, classes) by so that ``labels`` (N,) are most probable (Guo et al. 2017, 1706.04599)."""
    rows = np.arange(len(labels))
    losses = [-np.log(softmax(logits, t)[rows, labels] + 1e-12).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration_error(scores: Floats, truth: Bools, bins: int = 10) -> float:
    """Expected calibration error: how far, on average, a probability is from the share of successes among its like."""
    found = reliability(scores, truth, bins)
    return float((found.frames * np.abs(found.probability - found.share)).sum() / max(1, len(scores)))


def reliability(scores: Floats, truth: Bools, bins: int = 10) -> Reliability:
    """How probabilities compare with the share of successes among their like: on the diagonal they are true."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = counts > 0
    mean, share = (np.bincount(place, values, bins)[some] / counts[some] for values in (scores, truth))
    return Reliability(mean, share, counts[some])


def suspects(probabilities: Floats, labels: npt.NDArray[np.integer]) -> Bools:
    """Which labels (N,) are probably wrong, by probabilities (N, classes) of models that never saw them.

    As in confident learning (Northcutt et al. 2021, arXiv 1911.00068), with a fixed bound in the place of each class's
    mean probability: where one class is rare, wrong labels drag its mean down, and most of them would be believed.
    """
    return probabilities[np.arange(len(labels)), labels] < DOUBT
