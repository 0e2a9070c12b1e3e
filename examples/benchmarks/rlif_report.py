"""What the rows of the RLIF study say: the tables, the judgement per task, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = Mapping[str, str]
LEVELS = ("poor", "medium", "good")
JUDGED = ("none", "value-gap")  # rules of takeovers, as the rows call them …
RATES = ("random-30", "random-50", "random-85")  # … and those that are reported only
TIMES, ABSOLUTE = 2.0, 0.5  # with the poor expert: RLIF at least so many times HG-DAgger's score, and at least this
COLOURS = {"rlif": "tab:blue", "hg-dagger": "tab:orange", "bc": "0.6", "rlpd": "0.3"}


def scores(rows: Sequence[Row], **wanted: str) -> list[float]:
    """Scores of the rows in which these columns have these values, one per seed."""
    return [float(row["score"]) for row in rows if all(row[name] == value for name, value in wanted.items())]


def tasks_of(rows: Sequence[Row]) -> list[str]:
    """In the order in which they appear."""
    return list(dict.fromkeys(row["task"] for row in rows))


def methods_of(rows: Sequence[Row]) -> list[str]:
    """In the order in which they appear, those with takeovers first."""
    names = dict.fromkeys(row["method"] for row in rows)
    return sorted(names, key=lambda name: name in ("bc", "rlpd"))


def verdicts(rows: Sequence[Row]) -> dict[str, Any]:
    """The tables as Markdown lines, and per task whether both goals are met, None where rows are missing."""
    judged = {task: judge(rows, task) for task in tasks_of(rows)}
    lines = [*judged_table(rows), "", *random_table(rows), ""]
    lines += [f"{task}: {_said(verdict)}" for task, verdict in judged.items()]
    return {"lines": lines, "tasks": judged}


def judged_table(rows: Sequence[Row]) -> list[str]:
    """Per task and method the mean by the expert's skill, every seed in brackets."""
    lines = _head(["task", "takeovers", "method", *(f"{level} expert" for level in LEVELS)])
    for task in tasks_of(rows):
        for rule in JUDGED:
            for method in methods_of(rows):
                cells = [_cell(scores(rows, task=task, rule=rule, method=method, expert=level)) for level in LEVELS]
                if any(cells):
                    lines.append("| " + " | ".join([task, rule, method, *cells]) + " |")
    return lines


def random_table(rows: Sequence[Row]) -> list[str]:
    """Per task and method the means by the rate of takeovers, of the poor, the medium and the good expert."""
    lines = _head(["task", "method", *(f"{rate[-2:]} % of the steps" for rate in RATES)])
    for task in tasks_of(rows):
        for method in methods_of(rows):
            cells = [_means(rows, task=task, rule=rate, method=method) for rate in RATES]
            if any(cells):
                lines.append("| " + " | ".join([task, method, *cells]) + " |")
    return lines


def _head(names: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _means(rows: Sequence[Row], **wanted: str) -> str:
    found = [scores(rows, **wanted, expert=level) for level in LEVELS]
    return ", ".join(f"{mean(values):.2f}" if values else "–" for values in found) if any(found) else ""


def judge(rows: Sequence[Row], task: str) -> dict[str, Any]:
    """The goals on one task: means over the seeds, under takeovers by the value gap."""
    found: dict[str, Any] = {}
    for level in ("poor", "good"):
        ours = scores(rows, task=task, rule="value-gap", method="rlif", expert=level)
        theirs = scores(rows, task=task, rule="value-gap", method="hg-dagger", expert=level)
        if not ours or len(ours) != len(theirs):
            return {"met": None}
        found |= {f"rlif_{level}": round(mean(ours), 3), f"hg_dagger_{level}": round(mean(theirs), 3)}
    poor, good = found["rlif_poor"], found["rlif_good"]
    rescued = poor >= ABSOLUTE and poor >= TIMES * found["hg_dagger_poor"]
    return {**found, "met": rescued and good >= found["hg_dagger_good"]}


def _cell(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})" if values else ""


def _said(verdict: Mapping[str, Any]) -> str:
    if verdict["met"] is None:
        return "not all rows are there yet"
    figures = ", ".join(f"{name} {value:.2f}" for name, value in verdict.items() if name != "met")
    return f"{'met' if verdict['met'] else 'missed'} ({figures})"


def draw(rows: Sequence[Row], path: Path) -> None:
    """One column of panels per task: scores by skill under the value gap, every seed a dot, and the baselines as
    lines; below, the means by skill for each rate of takeovers at random, the rarer the lighter."""
    tasks = tasks_of(rows)
    if not tasks:
        return
    figure, panels = plt.subplots(2, len(tasks), figsize=(4 * len(tasks), 6.4), squeeze=False, sharey=True)
    for (judged, random), task in zip(panels.T, tasks, strict=True):
        for method in methods_of(rows):
            _draw_method(judged, rows, task, method)
            for shade, rate in zip((0.3, 0.6, 1.0), RATES, strict=True):
                _draw_skills(random, rows, f"{method}, {rate[-2:]} %", shade, task=task, rule=rate, method=method)
        judged.set_title(task)
        for axes in (judged, random):
            axes.set_xticks(range(len(LEVELS)), [f"{level}\nexpert" for level in LEVELS])
            axes.set_ylim(-0.03, 1.03)
    for axes, rule in zip(panels[:, 0], ("by the value gap", "at random"), strict=True):
        axes.set_ylabel(f"successes, alone\n(takeovers {rule})")
    for axes in panels[:, -1]:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_method(axes: Any, rows: Sequence[Row], task: str, method: str) -> None:
    alone = scores(rows, task=task, rule="none", method=method)
    if alone:
        axes.axhline(mean(alone), color=_colour(method), linestyle=":", label=f"{method}, without takeovers")
        return
    for place, values in _draw_skills(axes, rows, method, 1.0, task=task, rule="value-gap", method=method).items():
        axes.plot([place] * len(values), values, ".", color=_colour(method), alpha=0.6)


def _draw_skills(
    axes: Any, rows: Sequence[Row], label: str, shade: float, **wanted: str
) -> Mapping[int, Sequence[float]]:
    """A line through the means of these rows by the expert's skill; returns the values at each skill's place."""
    found = [scores(rows, **wanted, expert=level) for level in LEVELS]
    places = {place: values for place, values in enumerate(found) if values}
    if places:
        means = [mean(values) for values in places.values()]
        axes.plot(list(places), means, color=_colour(wanted["method"]), alpha=shade, label=label)
    return places


def _colour(method: str) -> str:
    return COLOURS.get(method, "tab:red")
