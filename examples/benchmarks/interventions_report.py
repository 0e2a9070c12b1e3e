"""What the rows about interventions say: first crossings, the judgement, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = Mapping[str, str]
GRID_EPISODES, BAR = 20, 18  # episodes at a point of the grid, and how many of them must succeed
FEWER, SHARE = 2.0, 0.1  # the goals: so many times fewer steps, and less of the operator in the last quarter
COLOURS = {
    **{"hil": "tab:blue", "alone": "tab:orange", "more-demos": "0.5", "penalty": "tab:green", "aged": "tab:red"},
    "hil-judged": "tab:purple",
}


def first_crossing(curve: Sequence[int]) -> int | None:
    """The number, from 1, of the first of two points in a row at the bar; None if there are none."""
    for number, (now, then) in enumerate(pairwise(curve), start=1):
        if min(now, then) >= BAR:
            return number
    return None


def figures(rows: Sequence[Row], method: str, name: str) -> list[float]:
    """A column of a method, one value per seed."""
    return [float(row[name]) for row in rows if row["method"] == method]


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """A Markdown table, and whether the goals are met; None while ``hil`` and ``alone`` have not the same seeds."""
    head = ["method", "steps to the bar of each seed", "mean", "final success", "operator", "in the last quarter"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method in dict.fromkeys(row["method"] for row in rows):
        steps = figures(rows, method, "steps_to_bar")
        crossed = [row["crossed"] == "True" for row in rows if row["method"] == method]
        told = ", ".join(f"{'' if there else '> '}{value:.0f}" for value, there in zip(steps, crossed, strict=True))
        final = mean(figures(rows, method, "successes")) / mean(figures(rows, method, "episodes"))
        shares = (mean(figures(rows, method, name)) for name in ("operator_share", "share_last_quarter"))
        lines.append(
            "| "
            + " | ".join([method, told, f"{mean(steps):.0f}", f"{final:.2f}", *map("{:.1%}".format, shares)])
            + " |"
        )
    lines += by_judge_and_oracle(rows)
    ours, alone = figures(rows, "hil", "steps_to_bar"), figures(rows, "alone", "steps_to_bar")
    if not ours or len(ours) != len(alone):
        return {"lines": lines, "met": None}
    times, share = mean(alone) / mean(ours), median(figures(rows, "hil", "share_last_quarter"))
    met = times >= FEWER and share < SHARE
    lines.append(f"{'met' if met else 'missed'}: {times:.2f} times fewer steps, operator {share:.1%} at the end")
    return {"lines": lines, "times_fewer": round(times, 3), "share_last_quarter": round(share, 4), "met": met}


def by_judge_and_oracle(rows: Sequence[Row]) -> list[str]:
    """A line about runs that a classifier judged, where there are some: its word beside the truth."""
    mine = [row for row in rows if row["method"] == "hil-judged"]
    if not mine:
        return []
    names = ("training_successes", "oracle_successes", "training_episodes", "false_successes", "missed_successes")
    judged, true, episodes, false, missed = (sum(int(row[name]) for row in mine) for name in names)
    return [
        f"hil-judged, in training: {judged} successes of {episodes} episodes by the classifier, {true} by the oracle; "
        f"{false} false, {missed} missed"
    ]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Successes at each point of the grid: every run a thin line, the mean of a method a thick one."""
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(7, 4))
    for method in dict.fromkeys(row["method"] for row in rows):
        curves = [[int(x) for x in row["curve"].split()] for row in rows if row["method"] == method]
        length = min(map(len, curves))
        points = [1000 * (place + 1) for place in range(length)]
        for curve in curves:
            axes.plot(points, curve[:length], color=COLOURS[method], linewidth=0.6, alpha=0.5)
        middle = [mean(curve[place] for curve in curves) for place in range(length)]
        axes.plot(points, middle, color=COLOURS[method], linewidth=2, label=method)
    axes.axhline(BAR, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(0, GRID_EPISODES + 1, 4))
    axes.set_xlabel("steps of training")
    axes.set_ylabel(f"successes of {GRID_EPISODES}, alone")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
