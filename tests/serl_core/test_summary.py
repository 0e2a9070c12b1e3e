from dataclasses import replace

import numpy as np
import pytest

from serl_core.summary import Tally, read_json, wilson, write_json
from serl_core.types import EpisodeStart, Judgement, Step, Verdict


def step(index: int, *, last: bool = False, success: bool = False, who: str = "policy", takeover: int = -1) -> Step:
    zeros = np.zeros(1, np.float32)
    return Step(
        actor="a", episode=0, step=index, action=zeros, proposal=zeros, target=np.zeros(7), bent=False,
        next_obs={}, reward=0.0, grasp_penalty=0.0, terminated=last and success, truncated=last and not success,
        success=success, who=who, takeover=takeover, policy_version=0, time=0.0,  # type: ignore[arg-type]
    )  # fmt: skip


def test_wilson_bounds_match_published_values():
    """Guards the interval that every reported success rate carries (Wilson 1927; 95/100 → 0.888 to 0.978)."""
    low, high = wilson(95, 100)
    assert (low, high) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_tally_tells_autonomous_successes_from_aided_ones():
    """Guards the success rate shown during training: a rescue by the operator is not the policy's success."""
    tally = Tally()
    for episode_steps in (
        [step(0), step(1, last=True, success=True)],
        [step(0, who="operator", takeover=0), step(1, who="operator", takeover=0, last=True, success=True)],
        [step(0), step(1, last=True)],
    ):
        tally(EpisodeStart("a", 0, {}))
        for record in episode_steps:
            tally(record)
    assert [episode.operator_steps for episode in tally.episodes] == [0, 2, 0]
    assert (tally.steps, tally.operator_steps, tally.successes, len(tally.takeovers)) == (6, 2, 2, 1)
    assert tally.evaluation()["mean_success_steps"] == 2.0


def test_json_is_replaced_whole(tmp_path):
    """Guards against a reader that sees half a summary."""
    path = tmp_path / "deep" / "summary.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


def test_what_a_person_says_of_an_episode_counts_in_place_of_its_record():
    """Guards the successes shown while it trains: denied, granted while it runs, taken back as a whole, or awaited."""
    tally = Tally()
    for number, early in enumerate((None, "success", None)):
        tally(EpisodeStart("a", number, {}))
        tally(step(0))
        if early:
            tally.judge(Judgement("a", number, early, 1, "anna", 0.0))
        tally(replace(step(1, last=True, success=number == 2), episode=number))
    assert [episode.success for episode in tally.episodes] == [False, True, True]
    denied: list[tuple[int, Verdict]] = [(2, "pending"), (2, "failure"), (1, "discarded")]
    for number, verdict in denied:
        tally.judge(Judgement("a", number, verdict, -1, "anna", 0.0))
    assert [(one.success, one.discarded) for one in tally.episodes] == [(False, False), (False, True), (False, False)]
    assert tally.evaluation()["episodes"] == 2 and tally.successes == 0
