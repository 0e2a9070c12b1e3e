from dataclasses import replace

import numpy as np
import pytest
from classifier_parts import step
from env_parts import REACH, Arm

from serl_core.envs.build import build_env
from serl_core.envs.rewards import OracleJudge, PersonJudge, RuleJudge, Verdict
from serl_core.judging.audit import audited, audits
from serl_core.metrics import Metrics, read
from serl_core.teleop.console import Event, Said

STAY = np.zeros(4, np.float32)


class Script:
    """Judges by the number of the step."""

    def __init__(self, verdicts: dict[int, Verdict]) -> None:
        self.verdicts, self.step = verdicts, 0
        self.resets = 0

    @property
    def name(self) -> str:
        return f"script {self.resets}"

    def reset(self) -> None:
        self.resets += 1

    def judge(self, obs, info) -> Verdict:
        self.step += 1
        return self.verdicts.get(self.step, Verdict(0.0, False, False))


def run(judge, steps: int = 3):
    arm = Arm()
    env = build_env(
        replace(REACH, max_steps=steps), arm.robot, obs="state", clock=arm.clock(), truth=arm.truth, judge=judge
    )
    env.reset(seed=0)
    ends = []
    while not (ends and (ends[-1][1] or ends[-1][2])):
        _, reward, terminated, truncated, info = env.step(STAY)
        ends.append((reward, terminated, truncated, info["success"]))
    return ends


def test_without_a_judge_nothing_is_rewarded_and_only_time_ends_an_episode():
    """Guards against inventing a reward."""
    assert run(None) == [(0.0, False, False, False)] * 2 + [(0.0, False, True, False)]


def test_success_in_the_last_step_is_a_termination():
    """Guards the value of a late success: bootstrapping past it would spoil it."""
    assert run(Script({3: Verdict(1.0, True, True)}))[-1] == (1.0, True, False, True)


def test_success_and_failure_end_the_episode_at_once():
    """Guards the difference between a judge's end and the clock's."""
    assert len(run(Script({2: Verdict(1.0, True, True)}))) == 2
    assert run(Script({2: Verdict(-1.0, False, True)}))[-1] == (-1.0, True, False, False)


def test_a_success_may_go_on():
    """Guards judges of progress: a reward without an end passes through."""
    assert run(Script({1: Verdict(0.5, True, False)}))[0] == (0.5, False, False, True)


@pytest.mark.parametrize("success", [True, False])
def test_the_oracle_reads_the_truth(success):
    """Guards the measure of all evaluations."""
    verdict = OracleJudge(lambda: {"success": np.bool_(success)}).judge({}, {})
    assert verdict == Verdict(float(success), success, success)


def test_an_aborted_step_is_not_judged():
    """Guards against a success that was read from the observation before a fault."""
    arm = Arm()
    judge = Script({1: Verdict(1.0, True, True)})
    env = build_env(REACH, arm.robot, obs="state", clock=arm.clock(), truth=arm.truth, judge=judge)
    env.reset(seed=0)
    arm.robot.advance(1.0)
    _, reward, terminated, truncated, info = env.step(STAY)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)


def test_a_rule_on_the_measured_state_judges():
    """Guards judges without any picture or truth."""
    assert run(RuleJudge(lambda state: state.time > 0.25), steps=5)[-1] == (1.0, True, False, True)
    assert run(RuleJudge(lambda state: False))[-1] == (0.0, False, True, False)


@pytest.mark.parametrize(
    ("event", "end"), [(Event.SUCCESS, (1.0, True, False, True)), (Event.FAILURE, (0.0, True, False, False))]
)
def test_a_person_goes_before_another_judge(event, end):
    """Guards the last word: a person who sees a failure must overrule a classifier that sees success."""
    said = [[], [], [Said(event, "key", 0.0)]]  # at the reset, in step 1, in step 2
    judge = PersonJudge(lambda: said.pop(0), Script({2: Verdict(0.5, True, False)}))
    assert run(judge, steps=5)[-1] == end and judge.name == "person, else script 1"


def test_what_was_said_before_the_episode_judges_nothing():
    """Guards the next episode against a verdict on the last one."""
    said = [[Said(Event.SUCCESS, "key", 0.0)]]
    assert run(PersonJudge(lambda: said.pop() if said else []))[-1] == (0.0, False, True, False)


def test_an_audited_judge_decides_alone_and_its_errors_are_counted(tmp_path):
    """Guards the comparison of training success by judge and by truth: only their gap shows a cheated judge."""
    truth = {"success": False}
    judge = audited(Script({2: Verdict(1.0, True, True)}), lambda: truth)
    (audit,) = audits(judge, Metrics(tmp_path / "judge.jsonl"))
    assert run(judge, steps=5)[-1] == (1.0, True, False, True)
    audit(step("a", 0, 1, {}, success=True, terminated=True))
    truth["success"] = True
    assert run(judge)[-1] == (0.0, False, True, False)
    audit(step("a", 1, 2, {}, truncated=True))
    rows = read(tmp_path / "judge.jsonl")
    assert [(row["success"], row["true_success"]) for row in rows] == [(True, False), (False, True)]
    assert (rows[-1]["false_successes"], rows[-1]["missed_successes"]) == (1, 1)
    assert audited(None, lambda: truth) is None and audits(None, Metrics(tmp_path / "none")) == []
