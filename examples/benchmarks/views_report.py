"""What the rows about cached views say: differences of areas, their intervals, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = Mapping[str, str]
EXACT = "81"  # views: every shift
WORST = -0.05  # the lower end of the interval must be above
SEEDS = 5  # that both must have: of a single one the "interval" is a point, and says nothing of chance
RESAMPLES = 10_000


def areas(rows: Sequence[Row], task: str, views: str) -> dict[str, float]:
    """Seed → area under the success curve."""
    return {row["seed"]: float(row["area"]) for row in rows if (row["task"], row["views"]) == (task, views)}


def lower_bound(differences: npt.ArrayLike, rng: np.random.Generator) -> float:
    """The 5 % quantile of the mean of resampled differences: the lower end of a 90 % interval."""
    values = np.asarray(differences, float)
    means = rng.choice(values, (RESAMPLES, values.size)).mean(axis=1)
    return float(np.quantile(means, 0.05))


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """A Markdown table, and for each task and number of views whether it does as well as every shift.

    That is None, and the table says so, until both have `SEEDS` seeds in common.
    """
    head = ["task", "views", "area of each seed", "difference to 81 views", "at least", "as good"]
    lines = [_line(head), "|" + "---|" * len(head)]
    judged: dict[str, bool | None] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        exact = areas(rows, task, EXACT)
        for views in dict.fromkeys(row["views"] for row in rows if row["task"] == task):
            found = areas(rows, task, views)
            cells = [task, views, ", ".join(f"{area:.2f}" for area in found.values())]
            if views == EXACT:
                lines.append(_line([*cells, "", "", ""]))
                continue
            differences = [found[seed] - exact[seed] for seed in sorted(found.keys() & exact.keys())]
            judged[f"{task} {views}"], said = _judge(differences)
            lines.append(_line([*cells, *said]))
    return {"lines": lines, "as_good": judged}


def _judge(differences: Sequence[float]) -> tuple[bool | None, list[str]]:
    """Whether that is as good, and the table's cells: the mean, the lower end, the judgement."""
    if len(differences) < SEEDS:
        return None, ["", "", f"not all rows are there yet ({len(differences)} of {SEEDS} seeds)"]
    least = lower_bound(differences, np.random.default_rng(0))
    good = least > WORST
    return good, [f"{np.mean(differences):+.3f}", f"{least:+.3f}", "yes" if good else "no"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """One panel per task: the mean success curve of each number of views, every seed a thin line."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if not tasks:
        return
    figure, panels = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 3.4), squeeze=False, sharey=True)
    for axes, task in zip(panels[0], tasks, strict=True):
        for number, views in enumerate(dict.fromkeys(row["views"] for row in rows if row["task"] == task)):
            curves = [_curve(row) for row in rows if (row["task"], row["views"]) == (task, views)]
            steps, colour = 1_000 * np.arange(1, len(curves[0]) + 1), f"C{number}"
            for curve in curves:
                axes.plot(steps, curve, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, np.mean(curves, axis=0), color=colour, label=f"{views} views")
        axes.set_title(task)
        axes.set_xlabel("env steps")
        axes.set_ylim(-0.03, 1.03)
    panels[0][0].set_ylabel("share of 20 episodes that succeed, alone")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(row: Row) -> npt.NDArray[np.float64]:
    return np.array(row["curve"].split(), float) / 20
