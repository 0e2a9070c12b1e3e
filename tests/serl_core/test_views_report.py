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


def test_nothing_is_judged_without_all_views() -> None:
    """Guards against a verdict of an unfinished study."""
    assert verdict(rows("4", [0.5, 0.6]))["as_good"] == {}


def test_the_interval_grows_with_the_spread() -> None:
    """Guards the bootstrap: one bad seed of five lowers the bound below the mean."""
    narrow, wide = ([-0.02] * 5, [0.1, 0.1, 0.1, 0.1, -0.5])
    bounds = [lower_bound(values, np.random.default_rng(0)) for values in (narrow, wide)]
    assert bounds[0] == pytest.approx(-0.02) and bounds[1] < -0.1
