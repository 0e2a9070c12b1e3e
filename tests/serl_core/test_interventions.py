"""The study of what a person's help saves: a row as it is measured, and where its judgement turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.benchmarks import interventions, rlif_training
from examples.benchmarks.interventions import FIELDS, Benchmark, Config, main
from examples.benchmarks.interventions_report import first_crossing, verdict
from examples.benchmarks.rlif_rows import Rows
from serl_core.summary import read_json

# ── figures ──


@pytest.mark.parametrize(
    ("curve", "number"),
    [
        ([], None),
        ([20], None),  # nobody knows yet whether it lasts
        ([18, 18], 1),
        ([17, 18, 18, 0], 2),
        ([18, 17, 18, 17], None),
        ([20, 17, 19, 18], 3),
        ([0] * 15 + [18], None),
    ],
)
def test_the_bar_is_crossed_where_two_points_in_a_row_are_at_it(curve: Sequence[int], number: int | None) -> None:
    """Guards the steps to the bar, the number that the study is about."""
    assert first_crossing(curve) == number


def row(method: str, seed: int, steps: int, share: float = 0.09, crossed: bool = True) -> dict[str, str]:
    """What a report reads."""
    return {
        **dict.fromkeys(FIELDS, "0"), "method": method, "seed": str(seed), "steps_to_bar": str(steps),
        "crossed": str(crossed), "curve": "18 18", "successes": "9", "episodes": "10", "share_last_quarter": str(share),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("alone", "shares", "met"),
    [
        ((4000, 8000), (0.09, 0.09, 0.2), True),
        ((4000, 7900), (0.09, 0.09, 0.2), False),  # not twice as many steps
        ((4000, 8000), (0.0, 0.1, 0.1), False),  # the operator of the median run has not tapered off
    ],
)
def test_the_judgement_turns_at_both_goals(alone: tuple[int, int], shares: Sequence[float], met: bool) -> None:
    """Guards a goal that is called met: means of the steps, the median of the shares."""
    hil = [row("hil", seed, 3000, share) for seed, share in enumerate(shares)]
    found = verdict([*hil, row("alone", 0, alone[0]), row("alone", 1, alone[1], crossed=False), row("alone", 2, 6000)])
    assert found["met"] is met
    assert any("4000, > " in line and "6000" in line for line in found["lines"])  # a censored run is marked


def test_nothing_is_judged_while_the_seeds_differ(tmp_path: Path) -> None:
    """Guards against a comparison of different seeds while the study goes on; also the command's file and picture."""
    rows = Rows(tmp_path / "interventions.csv", FIELDS, 4)
    for one in (row("hil", 0, 2000), row("hil", 1, 2000), row("alone", 0, 8000)):
        rows.append(one)
    config = Config(methods=(), results=tmp_path, json=tmp_path / "found.json")
    assert main(config) == 0
    assert read_json(tmp_path / "found.json")["met"] is None
    rows.append(row("alone", 1, 2000))
    assert main(config) == 0
    assert read_json(tmp_path / "found.json")["times_fewer"] == 2.5
    assert (tmp_path / "interventions.png").read_bytes().startswith(b"\x89PNG")


# ── as it is measured ──


def test_a_row_as_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the command: demonstrations, training under takeovers, grid and evaluation; its numbers mean nothing."""
    monkeypatch.setattr(rlif_training, "START_AFTER", 20)
    monkeypatch.setattr(interventions, "GRID", 40)
    monkeypatch.setattr(interventions, "GRID_EPISODES", 1)
    config = Config(methods=("hil",), seeds=(0,), env_steps=80, demonstrations=1, utd=1, episodes=1, results=tmp_path)
    assert main(config) == 0
    benchmark = Benchmark(config)
    (found,) = benchmark.rows.read()
    assert set(found) == set(FIELDS) and all(found[name] for name in FIELDS if name != "mean_success_steps")
    assert (found["task"], found["method"], found["expert"], found["seed"]) == ("peg_insertion", "hil", "scripted", "0")
    assert (found["env_steps"], found["updates"], found["episodes"]) == ("80", "60", "1")
    assert len(found["curve"].split()) == 2 and found["judge"] == "oracle"
    assert (found["crossed"], found["steps_to_bar"]) == ("False", "80")  # never: a censored run counts as its budget
    assert 10 < int(found["demo_steps"]) < 120
    assert benchmark.has("hil", 0)
    assert benchmark.extra("hil", 0) == 0 and benchmark.extra("more-demos", 0) == int(found["intervention_steps"])
    with pytest.raises(ValueError, match="measure hil with seed 7 first"):
        benchmark.extra("more-demos", 7)
