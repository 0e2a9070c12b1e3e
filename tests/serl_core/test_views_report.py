"""How the ablation of cached views is judged."""

from __future__ import annotations

import numpy as np
import pytest

from examples.benchmarks.views_report import lower_bound, verdict


def rows(views: str, areas: list[float]) -> list[dict[str, str]]:
    return [
        {"task": "t", "views": views, "seed": str(seed), "area": str(area), "curve": "0 20"}
        for seed, area in enumerate(areas)
    ]


@pytest.mark.parametrize(("difference", "good"), [(0.0, True), (-0.03, True), (-0.2, False)])
def test_fewer_views_are_judged_by_their_difference_to_all(difference: float, good: bool) -> None:
    """Guards the judgement: seeds are compared in pairs, so that an easy seed hides nothing."""
    exact = [0.2, 0.9, 0.5, 0.7, 0.4]
    found = verdict([*rows("81", exact), *rows("4", [area + difference for area in exact])])
    assert found["as_good"] == {"t 4": good}
    assert found["lines"][-1].endswith(f"| {difference:+.3f} | {difference:+.3f} | {'yes' if good else 'no'} |")


@pytest.mark.parametrize(("exact", "ours"), [(0, 2), (1, 1), (4, 4), (4, 5), (5, 4)])
def test_nothing_is_judged_before_both_have_five_seeds(exact: int, ours: int) -> None:
    """Guards against a verdict of an unfinished study: equal areas of one seed would be "as good" for certain."""
    found = verdict([*rows("81", [0.5] * exact), *rows("4", [0.5] * ours)])
    assert found["as_good"] == {"t 4": None}
    assert found["lines"][-1].endswith(f"| not all rows are there yet ({min(exact, ours)} of 5 seeds) |")


def test_seeds_that_only_one_of_them_has_do_not_count() -> None:
    """Guards the pairs: five rows each, of which two have the same seeds, are two differences."""
    others = [{**row, "seed": str(int(row["seed"]) + 3)} for row in rows("4", [0.5] * 5)]
    assert verdict([*rows("81", [0.5] * 5), *others])["as_good"] == {"t 4": None}


def test_every_line_of_the_table_has_all_its_columns() -> None:
    """Guards the Markdown: a line with a cell too few is not shown as a table."""
    found = verdict([*rows("81", [0.5] * 5), *rows("4", [0.5] * 5), *rows("1", [0.5])])
    assert len(found["lines"]) == 5 and len({line.count("|") for line in found["lines"]}) == 1


def test_the_interval_grows_with_the_spread() -> None:
    """Guards the bootstrap: one bad seed of five lowers the bound below the mean."""
    narrow, wide = ([-0.02] * 5, [0.1, 0.1, 0.1, 0.1, -0.5])
    bounds = [lower_bound(values, np.random.default_rng(0)) for values in (narrow, wide)]
    assert bounds[0] == pytest.approx(-0.02) and bounds[1] < -0.1
