"""Table and picture of the learning benchmark: ``python -m examples.benchmarks.report [RESULTS]``.

Reads ``learning-*.csv``, prints a Markdown table (all seeds, pooled Wilson interval) and draws ``learning.png``.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from serl_core.summary import wilson

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "hil": "this project: demonstrations and interventions",
    "no_operator": "the same without interventions",
    "rlpd": "plain RLPD without interventions",
    "rlpd_more_demos": "plain RLPD, the operator's steps as more demonstrations",
    "bc": "behaviour cloning of the demonstrations",
    "operator": "the scripted operator alone",
}


@dataclass(frozen=True)
class Group:
    """All seeds of one method on one task."""

    task: str
    method: str
    rows: Sequence[dict[str, str]]

    @property
    def successes(self) -> list[int]:
        """Successes of each seed."""
        return [int(row["successes"]) for row in self.rows]

    @property
    def episodes(self) -> int:
        """Evaluation episodes of all seeds together."""
        return sum(int(row["episodes"]) for row in self.rows)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson bounds of the pooled success rate."""
        return wilson(sum(self.successes), self.episodes)

    def middle(self, name: str) -> float | None:
        """Median of a column over the seeds that have it."""
        values = [float(row[name]) for row in self.rows if row.get(name)]
        return median(values) if values else None


def read_groups(results: Path) -> list[Group]:
    """One group per task and method, in the order of `NAMES`."""
    groups = []
    for path in sorted(results.glob("learning-*.csv")):
        with path.open() as file:
            rows = list(csv.DictReader(file))
        task = path.stem.removeprefix("learning-").replace("-", " from ")
        for method in NAMES:
            mine = [row for row in rows if row["method"] == method]
            if mine:
                groups.append(Group(task, method, mine))
    return groups


def table(groups: Sequence[Group]) -> str:
    """Markdown, one line per task and method."""
    head = ["task", "method", "successes of each seed", "95 % interval", "steps of a success", "env steps"]
    head += ["operator's share", "UTD", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for group in groups:
        low, high = group.interval
        steps, helped = group.middle("env_steps"), group.middle("intervention_steps")
        wall = group.middle("wall_s")
        cells: list[Any] = [
            group.task,
            NAMES[group.method],
            ", ".join(map(str, group.successes)) + f" of {group.rows[0]['episodes']}",
            f"{low:.1%} to {high:.1%}",
            _text(group.middle("mean_success_steps"), ".1f"),
            _text(steps, ".0f"),
            _text(helped / steps if helped is not None and steps else None, ".0%"),
            _text(group.middle("achieved_utd"), ".1f"),
            _text(wall / 60 if wall else None, ".1f"),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def draw(groups: Sequence[Group], path: Path) -> None:
    """Pooled success rates with their intervals, and every seed as a dot."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(groups) + 1.2))
    for row, group in enumerate(reversed(groups)):
        rate = sum(group.successes) / group.episodes
        low, high = group.interval
        axes.barh(row, rate, color="tab:blue" if group.method == "hil" else "0.75", height=0.6)
        spread = [[max(0.0, rate - low)], [max(0.0, high - rate)]]  # rounding may put a bound on the wrong side
        axes.errorbar(rate, row, xerr=spread, color="black", capsize=3)
        for result in group.rows:
            axes.plot(int(result["successes"]) / int(result["episodes"]), row, "k.", markersize=4, alpha=0.5)
    axes.set_yticks(range(len(groups)), [f"{group.task}: {NAMES[group.method]}" for group in reversed(groups)])
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("autonomous success after training (dots: seeds)")
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")  # the axis label is longer than its axis
    plt.close(figure)


def main(results: Path) -> int:
    """Print the table and write the picture."""
    groups = read_groups(results)
    if not groups:
        print(f"no learning-*.csv in {results}: run python -m examples.benchmarks.learning first", file=sys.stderr)
        return 1
    print(table(groups))
    draw(groups, results / "learning.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))
