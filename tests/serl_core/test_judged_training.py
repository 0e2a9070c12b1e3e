"""A run that learns from state under a judge that sees: what it is shown, when its success counts, what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from env_parts import REACH, Arm
from person_parts import scoring

from examples.benchmarks.interventions import Config, main
from examples.benchmarks.interventions_judge import Sighted, Witness
from examples.benchmarks.interventions_report import by_judge_and_oracle
from examples.benchmarks.rlif_training import insert
from serl_core.data.replay import Replay
from serl_core.data.sampling import Sampling
from serl_core.envs.build import build_env
from serl_core.judging.audit import Audited
from serl_core.rollout import Decision, Identity, rollout
from serl_core.types import Record, Step

FIRST = 4  # step at which the judge begins to see success
TASK = replace(REACH, max_steps=12)


def judged(true_from: int, episodes: int, first: int = FIRST) -> tuple[list[Record], Witness, list[int]]:
    """Episodes of an arm that stands still, judged by its pictures; the truth is a success from a step on."""
    arm, looks, steps, records = Arm(cameras=("front",)), [], [0], []

    def look() -> dict[str, np.ndarray]:
        picture = arm.robot.frames()["front"].image
        looks.append(len(picture))
        return {"front": picture}

    def truth() -> dict:
        steps[0] += 1
        return {**arm.truth(), "success": steps[0] > true_from}

    judge = Audited(Sighted(scoring(first), look), truth)
    witness = Witness(lambda step: judge.true_success)
    env = build_env(TASK, arm.robot, obs="state", clock=arm.clock(TASK), truth=arm.truth, judge=judge)
    still = Decision(np.zeros(4, np.float32)[: TASK.action_dim])
    rollout(
        env,
        lambda obs: still,
        [lambda record: records.append(record), witness],
        identity=Identity("a"),
        seeds=range(episodes),
    )
    return records, witness, looks


def test_the_judge_sees_pictures_and_the_policy_does_not() -> None:
    """Guards the price of a step: one look per step for the judge, nothing rendered for who learns from state."""
    records, _, looks = judged(true_from=99, episodes=1)
    steps = [record for record in records if isinstance(record, Step)]
    assert [set(step.next_obs) for step in steps] == [{"state"}] * len(steps)
    assert len(looks) == len(steps) == FIRST + 2 and set(looks) == {128}
    assert (steps[-1].success, steps[-1].ago) == (True, 1)


def test_both_words_are_counted_beside_each_other() -> None:
    """Guards the figure that shows a policy which learns to please the judge."""
    _, witness, _ = judged(true_from=FIRST + 2, episodes=3)  # the truth is none in the first episode
    found = witness.figures()
    assert (found["oracle_successes"], found["false_successes"], found["missed_successes"]) == (2, 1, 0)
    assert [found[f"{name}_by_quarter"] for name in ("episodes", "judged", "oracle")] == [
        "0 1 1 1",
        "0 1 1 1",
        "0 0 1 1",
    ]
    _, witness, _ = judged(true_from=0, episodes=2, first=99)
    found = witness.figures()
    assert (found["oracle_successes"], found["missed_successes"], found["judged_by_quarter"]) == (2, 2, "0 0 0 0")


def test_a_success_that_was_confirmed_late_is_learnt_where_it_began() -> None:
    """Guards the reward: in training without a store nobody else dates it."""
    records, _, _ = judged(true_from=0, episodes=1)
    replay = Replay(50, records[0].obs, TASK.action_dim, dict)  # type: ignore[union-attr]
    assert sum(insert(replay, record) for record in records) == FIRST + 2
    found = replay.gather(np.sort(replay.slots("online")), Sampling(0.9))
    assert found["reward"].tolist() == [0.0] * FIRST + [1.0] and found["discount"][-1] == 0.0


def test_a_missing_classifier_is_said_before_anything_runs(tmp_path) -> None:
    """Guards hours of other rows before the one that cannot be measured."""
    with pytest.raises(SystemExit, match="--judge FILE"):
        main(Config(methods=("hil", "hil-judged"), results=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_report_has_a_line_where_a_classifier_judged() -> None:
    """Guards the report: sums over seeds, and nothing where there is nothing."""
    names = ("training_successes", "oracle_successes", "training_episodes", "false_successes", "missed_successes")
    row = {"method": "hil-judged", **dict(zip(names, ("30", "29", "40", "1", "0"), strict=True))}
    assert by_judge_and_oracle([{"method": "hil"}]) == []
    (line,) = by_judge_and_oracle([{"method": "hil"}, row, row])
    assert "60 successes of 80 episodes by the classifier, 58 by the oracle; 2 false, 0 missed" in line
