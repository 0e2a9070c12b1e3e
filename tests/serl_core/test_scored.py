from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serl_core.config import ConfigError
from serl_core.envs.rewards import FAILURE, NOTHING, Verdict
from serl_core.envs.scored import Belief, Confirmation, ScoreJudge, Stage


@dataclass
class Script:
    """Plays back probabilities of "success"; what is left goes to "other", or to "broken" where it is 0."""

    scores: list[float]
    belief: Belief = field(default_factory=lambda: Belief(0.8, 2, 3))
    broken: Belief = field(default_factory=lambda: Belief(0.8, 2, 3))
    resets: int = 0
    step: int = 0

    @property
    def name(self) -> str:
        return f"script@{self.resets}"

    @property
    def beliefs(self) -> dict[str, Belief]:
        return {"success": self.belief, "broken": self.broken}

    def reset(self) -> None:
        self.resets, self.step = self.resets + 1, 0

    def score(self, obs):
        value = self.scores[self.step]
        self.step += 1
        return {"success": value, "broken": float(value == 0.0)}


def verdicts(judge: ScoreJudge, steps: int) -> list[Verdict]:
    return [judge.judge({}, {}) for _ in range(steps)]


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(0, 3))
def test_confirmation_is_k_of_the_last_n_and_points_at_the_first_of_them(hits, k, more):
    """Guards the debounce against counting hits that are too old, and against a success dated wrongly."""
    n = k + more
    count = Confirmation(Belief(0.5, k, n))
    for index, hit in enumerate(hits):
        window = hits[max(0, index - n + 1) : index + 1]
        found = count.update(hit)
        assert (found is not None) == (sum(window) >= k)
        if found is not None:
            assert hits[index - found] and not any(hits[max(0, index - n + 1) : index - found])


def test_one_bright_frame_is_no_success():
    """Guards the debounce: a flicker must not end an episode with a reward."""
    assert verdicts(ScoreJudge([Stage(Script([0.1, 0.9, 0.1, 0.1, 0.9, 0.1]), "success")]), 6) == [NOTHING] * 6


def test_a_confirmed_success_began_at_its_first_frame():
    """Guards the date of the reward: it belongs to the first frame of the run, not to the last."""
    judge = ScoreJudge([Stage(Script([0.1, 0.9, 0.1, 0.9]), "success")])
    assert verdicts(judge, 4) == [NOTHING, NOTHING, NOTHING, Verdict(1.0, True, True, ago=2)]


def test_a_reset_forgets_half_a_confirmation():
    """Guards against a success that began in the episode before."""
    script = Script([0.9, 0.9])
    judge = ScoreJudge([Stage(script, "success")])
    judge.judge({}, {})
    judge.reset()
    assert judge.judge({}, {}) == NOTHING and script.resets == 1 and judge.name == "success by script@1"


@pytest.mark.parametrize("reward", [0.0, 0.25])
def test_stages_are_reached_in_turn_and_only_the_last_succeeds(reward):
    """Guards chains: a later stage's score must not count before the earlier one is confirmed."""
    sure = Belief(0.8, 1, 1)
    first, second = Script([0.1, 0.9, 0.9, 0.9], sure), Script([0.9, 0.9], sure)
    judge = ScoreJudge([Stage(first, "success"), Stage(second, "success")], reward)
    assert verdicts(judge, 3) == [NOTHING, Verdict(reward, False, False), Verdict(1.0, True, True)]
    assert second.step == 1


def test_a_ruined_episode_ends_in_failure():
    """Guards n-way judges: a dropped part ends the episode without reward, once it is confirmed."""
    judge = ScoreJudge([Stage(Script([0.0, 0.0]), "success", ruin=("broken",))])
    assert verdicts(judge, 2) == [NOTHING, FAILURE]


def test_each_class_is_believed_at_its_own_threshold():
    """Guards n-way judges against a threshold that was chosen for another class: there it promises nothing."""
    sure, unsure = Belief(0.8, 1, 1), Belief(0.3, 1, 1)
    assert verdicts(ScoreJudge([Stage(Script([0.5], sure, unsure), "success", ruin=("broken",))]), 1) == [NOTHING]
    wanted = ScoreJudge([Stage(Script([0.0, 0.5], sure, unsure), "broken"), Stage(Script([0.5], unsure), "success")])
    assert verdicts(wanted, 2) == [Verdict(0.0, False, False), Verdict(1.0, True, True)]
    never = Stage(Script([0.0], sure, Belief(0.99999, 2, 2)), "success", ruin=("broken",))
    assert verdicts(ScoreJudge([never]), 1) == [NOTHING]


@pytest.mark.parametrize("wrong", [(0.5, 3, 2), (0.5, 0, 1), (1.0, 1, 1), (np.nan, 1, 1)])
def test_beliefs_that_can_never_or_always_hold_are_refused(wrong):
    """Guards against 3 of 2 frames, and thresholds that no probability reaches."""
    with pytest.raises(ConfigError, match="1 ≤ k ≤ n"):
        Belief(*wrong)
