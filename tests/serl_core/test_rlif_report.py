"""What is said of the rows of the RLIF study: exactly, where the judgement turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.benchmarks.rlif_report import draw, judge, verdicts

POOR, GOOD = (0.5, 0.25), (0.9, 0.9)  # of RLIF and HG-DAgger, just enough


def rows(poor: tuple[float, float] = POOR, good: tuple[float, float] = GOOD) -> list[dict[str, str]]:
    """Two seeds of each, with these means, under takeovers by the value gap; and rows that must not count."""
    found = []
    for expert, means in (("poor", poor), ("good", good)):
        for method, mean in zip(("rlif", "hg-dagger"), means, strict=True):
            found += [row(method, expert, seed, mean + (0.1 if seed else -0.1)) for seed in (0, 1)]
    found += [{**row("hg-dagger", "poor", 0, 1.0), "rule": "random-30"}, row("hg-dagger", "medium", 0, 1.0)]
    return [*found, {**row("bc", "good", 0, 0.75), "rule": "none"}]


def row(method: str, expert: str, seed: int, score: float) -> dict[str, str]:
    return {
        "task": "reacher", "method": method, "expert": expert, "rule": "value-gap", "seed": str(seed),
        "score": f"{score:.6f}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("poor", "good", "met"),
    [
        (POOR, GOOD, True),
        ((0.49, 0.2), GOOD, False),  # less than one half
        ((0.5, 0.26), GOOD, False),  # less than twice HG-DAgger's
        (POOR, (0.89, 0.9), False),  # worse than HG-DAgger with the good expert
    ],
)
def test_the_judgement_turns_at_each_of_its_three_goals(
    poor: tuple[float, float], good: tuple[float, float], met: bool
) -> None:
    """Guards a goal that is called met: by means over the seeds, by the value gap, by the right experts."""
    found = judge(rows(poor, good), "reacher")
    assert found["met"] is met
    assert (found["rlif_poor"], found["hg_dagger_poor"]) == pytest.approx(poor)


def test_without_all_rows_nothing_is_judged() -> None:
    """Guards against a comparison of different seeds while the study goes on."""
    some = [one for one in rows() if (one["method"], one["expert"], one["seed"]) != ("hg-dagger", "poor", "1")]
    assert judge(some, "reacher") == {"met": None}
    assert "not all rows are there yet" in verdicts(some)["lines"][-1]


def test_the_tables_have_a_line_for_each_condition_and_method() -> None:
    """Guards what is copied into the README."""
    lines = verdicts(rows())["lines"]
    assert "| reacher | value-gap | rlif | 0.50 (0.40, 0.60) |  | 0.90 (0.80, 1.00) |" in lines
    assert "| reacher | hg-dagger | 1.00, –, – |  |  |" in lines  # at random, in 30 % of the steps
    assert not any(line.startswith("| reacher | rlif | ") for line in lines)  # nothing was measured
    assert "| reacher | none | bc |  |  | 0.75 (0.75) |" in lines
    assert lines[-1].startswith("reacher: met (rlif_poor 0.50, hg_dagger_poor 0.25")


def test_the_picture_can_be_drawn_while_rows_are_missing(tmp_path: Path) -> None:
    """Guards a report in the middle of a study."""
    path = tmp_path / "rlif.png"
    draw([], path)
    assert not path.exists()
    draw([one for one in rows() if one["expert"] != "good" or one["method"] == "bc"], path)
    assert path.read_bytes().startswith(b"\x89PNG")
