import numpy as np

from serl_core.envs.scored import Belief
from serl_core.judging.figures import by_episode, points


def test_episodes_are_counted_as_the_judge_would_see_them():
    """Guards the figure that matters: false successes of whole episodes after confirmation."""
    scores = np.array([0.9, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9])
    truth = np.array([False, False, False, False, False, True, False, True, True])
    owner = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    found = by_episode(scores, truth, owner, Belief(0.5, 2, 2))
    assert (found["failed_episodes"], found["false_successes"]) == (2, 1)
    assert (found["good_episodes"], found["confirmed"], found["early"]) == (2, 2, 1)


def test_an_episode_that_ends_before_its_success_can_be_confirmed_is_not_counted():
    """Guards against demonstrations, which end at the first frame of success, as successes that were missed."""
    scores, truth = np.array([0.1, 0.9, 0.1, 0.1, 0.1]), np.array([False, True, False, True, True])
    found = by_episode(scores, truth, np.array([0, 0, 1, 1, 1]), Belief(0.5, 2, 2))
    assert (found["good_episodes"], found["confirmed"], found["failed_episodes"]) == (1, 0, 0)


def test_a_class_that_nobody_shows_has_a_reliability_but_no_recall():
    """Guards the evaluation of failures alone: no curve of a recall that does not exist, and no crash."""
    found = points(np.array([0.1, 0.2]), np.zeros(2, bool))
    assert found["precision_recall"] == {"threshold": [], "precision": [], "recall": []}
    assert found["reliability"]["frames"] == [1, 1]
