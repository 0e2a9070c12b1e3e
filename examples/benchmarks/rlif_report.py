"""What the rows of the RLIF study say: the table, the judgement per task, and the picture."""

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
    """The table as Markdown lines, and per task whether both goals are met, None where rows are missing."""
    head = ["task", "takeovers", "method", *(f"{level} expert" for level in LEVELS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task in tasks_of(rows):
        for rule in dict.fromkeys(row["rule"] for row in rows if row["task"] == task):
            for method in methods_of(rows):
                cells = [_cell(scores(rows, task=task, rule=rule, method=method, expert=level)) for level in LEVELS]
                if any(cells):
                    lines.append("| " + " | ".join([task, rule, method, *cells]) + " |")
    judged = {task: judge(rows, task) for task in tasks_of(rows)}
    lines += [f"{task}: {_said(verdict)}" for task, verdict in judged.items()]
    return {"lines": lines, "tasks": judged}


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
    """One panel per task: scores by skill under the value gap, every seed a dot; the baselines as lines."""
    tasks = tasks_of(rows)
    if not tasks:
        return
    figure, panels = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.4), squeeze=False, sharey=True)
    for axes, task in zip(panels[0], tasks, strict=True):
        for method in methods_of(rows):
            _draw_method(axes, rows, task, method)
        axes.set_title(task)
        axes.set_xticks(range(len(LEVELS)), [f"{level}\nexpert" for level in LEVELS])
        axes.set_ylim(-0.03, 1.03)
    panels[0][0].set_ylabel("share of episodes that succeed, alone")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_method(axes: Any, rows: Sequence[Row], task: str, method: str) -> None:
    colour = COLOURS.get(method, "tab:red")
    alone = scores(rows, task=task, rule="none", method=method)
    if alone:
        axes.axhline(mean(alone), color=colour, linestyle=":", label=f"{method}, without takeovers")
        return
    columns = [scores(rows, task=task, rule="value-gap", method=method, expert=level) for level in LEVELS]
    places = [place for place, values in enumerate(columns) if values]
    axes.plot(places, [mean(columns[place]) for place in places], color=colour, label=method)
    for place in places:
        axes.plot([place] * len(columns[place]), columns[place], ".", color=colour, alpha=0.6)
