"""What a classifier's scores come to, in figures: frame by frame, and in whole episodes as a judge would see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from serl_core.agents import calibration
from serl_core.agents.classifier import Ints
from serl_core.envs.scored import Belief, Confirmation
from serl_core.judging.encoded import Examples

Bools = npt.NDArray[np.bool_]
POINTS = 100  # of a curve in a report


def about(examples: Examples, classes: tuple[str, ...]) -> dict[str, Any]:
    """How much there is of each class."""
    counts = np.bincount(examples.labels, minlength=len(classes)).tolist()
    return {"frames": dict(zip(classes, counts, strict=True)), "episodes": int(examples.owner.max()) + 1}


def figures(scores: npt.NDArray[Any], truth: Bools, owner: Ints, belief: Belief) -> dict[str, float]:
    """Frames and whole episodes at the threshold; scores (N,) in the order of recording, ``owner`` their episodes."""
    return {
        **calibration.at_threshold(scores, truth, belief.threshold),
        "average_precision": calibration.precision_recall(scores, truth).average_precision if truth.any() else 0.0,
        "calibration_error": calibration.calibration_error(scores, truth),
        "threshold": belief.threshold,
        **by_episode(scores, truth, owner, belief),
    }


def measured(
    scores: npt.NDArray[Any],
    examples: Examples,
    classes: tuple[str, ...],
    beliefs: Mapping[str, Belief],
    success: str,
    frames: Mapping[str, Bools],
) -> dict[str, Any]:
    """Part of a report: figures of the success; of every class that has a threshold, figures at it and curves.

    Scores are (N, C); all is told of each of the sets of ``frames`` (N,), under its name.
    """
    by_class = {
        name: _of_class(scores[:, number], examples.labels == number, examples.owner, beliefs[name], frames)
        for number, name in enumerate(classes)
        if name in beliefs
    }
    return {"success": success, **{which: by_class[success][which] for which in frames}, "classes": by_class}


def _of_class(
    scores: npt.NDArray[Any], truth: Bools, owner: Ints, belief: Belief, frames: Mapping[str, Bools]
) -> dict[str, Any]:
    found = {which: figures(scores[used], truth[used], owner[used], belief) for which, used in frames.items()}
    return {**found, "curves": {which: points(scores[used], truth[used]) for which, used in frames.items()}}


def points(scores: npt.NDArray[Any], truth: Bools) -> dict[str, dict[str, list[float]]]:
    """What to draw: "precision_recall", at most `POINTS` of it, none without a success, and "reliability"."""
    curve = calibration.Curve(*np.zeros((3, 0)))
    if truth.any():
        curve = calibration.thinned(calibration.precision_recall(scores, truth), POINTS)
    return {"precision_recall": _lists(curve), "reliability": _lists(calibration.reliability(scores, truth))}


def _lists(drawn: calibration.Curve | calibration.Reliability) -> dict[str, list[float]]:
    return {item.name: getattr(drawn, item.name).tolist() for item in fields(drawn)}


def by_episode(scores: npt.NDArray[Any], truth: Bools, owner: Ints, belief: Belief) -> dict[str, int]:
    """What confirmation makes of the frames: successes that are confirmed, and failures that are taken for one.

    A success that is confirmed before there is one (its first frame none yet) is early: as false as any. Episodes that
    end too soon after their success to be confirmed, as demonstrations do at its first frame, are not held against it.
    """
    counts = {"failed_episodes": 0, "false_successes": 0, "good_episodes": 0, "confirmed": 0, "early": 0}
    for number in np.unique(owner):
        mine = owner == number
        begun = confirmed_at(scores[mine] >= belief.threshold, belief)
        good = truth[mine]
        if not good.any():
            counts["failed_episodes"] += 1
            counts["false_successes"] += begun is not None
        elif begun is not None or good.sum() >= belief.k:
            counts["good_episodes"] += 1
            counts["confirmed"] += begun is not None
            counts["early"] += begun is not None and not good[begun]
    return counts


def confirmed_at(hits: Bools, belief: Belief) -> int | None:
    """The first frame of the confirmed run among the frames of an episode, None if nothing is confirmed."""
    count = Confirmation(belief)
    for index, hit in enumerate(hits):
        ago = count.update(bool(hit))
        if ago is not None:
            return index - ago
    return None


def summary(report: Mapping[str, Any]) -> str:
    """What a person wants to know, in a few lines."""
    counts = ", ".join(f"{count} {name}" for name, count in report["frames"].items())
    found = report["held_out"]
    lines = [
        f"{report['episodes']} episodes, frames: {counts}",
        f"held-out frames: {_frames(found)}; calibration error {found['calibration_error']:.3f}",
        f"held-out episodes: {_episodes(found)}",
        *_further(report, "held_out"),
    ]
    return "\n".join([*lines, *_doubts(report)])


def told_classes(report: Mapping[str, Any]) -> list[str]:
    """Those whose figures a person is told: the success first; of two classes the other one says nothing new."""
    others = [name for name in report["classes"] if name != report["success"]]
    return [report["success"], *(others if len(report["frames"]) > 2 else [])]


def _frames(found: Mapping[str, Any]) -> str:
    return f"precision {found['precision']:.1%}, recall {found['recall']:.1%} at threshold {found['threshold']:.3f}"


def _further(report: Mapping[str, Any], which: str) -> list[str]:
    """A line for each class but the success, of those that a person is told of."""
    classes = {name: report["classes"][name][which] for name in told_classes(report)[1:]}
    return [
        f'class "{name}": {_frames(found)}; confirmed in {found["confirmed"]} of {found["good_episodes"]} episodes '
        f"with it, {found['early']} of them early, in {found['false_successes']} of {found['failed_episodes']} others"
        for name, found in classes.items()
    ]


def _episodes(found: Mapping[str, Any]) -> str:
    return (
        f"{found['confirmed']} of {found['good_episodes']} successes confirmed, {found['early']} of them early; "
        f"{found['false_successes']} false ones in {found['failed_episodes']} failed episodes"
    )


def _doubts(report: Mapping[str, Any]) -> list[str]:
    """What the lines before leave out, and what they would be with it; nothing where nothing was left out."""
    if not report.get("suspected"):
        return []
    whole, doubted = report["as_labelled"], report["suspected_of"]
    named = ", ".join(f"{count} {name}" for name, count in doubted.items() if count)
    return [
        f"{report['suspected']} frames are suspected of a wrong label ({named}): they are left out above, and of the "
        f"wanted false-positive rate of {report['wanted_false_positive_rate']:.2%}",
        f"taking every label at its word: precision {whole['precision']:.1%}, recall {whole['recall']:.1%}, "
        f"false-positive rate {whole['false_positive_rate']:.2%} of the frames; {_episodes(whole)}",
        *_further(report, "as_labelled"),
    ]
