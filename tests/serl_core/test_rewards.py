from dataclasses import replace

import numpy as np
import pytest
from env_parts import REACH, Arm

from serl_core.envs.build import build_env
from serl_core.envs.rewards import OracleJudge, Verdict

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
