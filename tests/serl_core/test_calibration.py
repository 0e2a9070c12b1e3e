import numpy as np
import pytest

from serl_core.agents import calibration

RNG = np.random.default_rng(0)


def drawn(count: int = 4000):
    """Scores that are true probabilities, and what came of them."""
    scores = RNG.uniform(0, 1, count)
    return scores, RNG.uniform(0, 1, count) < scores


def test_the_curve_agrees_with_counting_at_every_threshold():
    """Guards precision and recall against an off-by-one, also where scores are equal."""
    scores, truth = np.array([0.9, 0.7, 0.7, 0.4, 0.2]), np.array([True, False, True, True, False])
    curve = calibration.precision_recall(scores, truth)
    for threshold, precision, recall in zip(curve.threshold, curve.precision, curve.recall, strict=True):
        counted = calibration.at_threshold(scores, truth, threshold)
        assert (counted["precision"], counted["recall"]) == (precision, recall)
    assert curve.threshold.tolist() == [0.9, 0.7, 0.4, 0.2]


def test_the_threshold_keeps_the_false_positive_rate():
    """Guards the promise that so many other frames at most are taken for a success."""
    scores, truth = np.clip(RNG.normal(0.3, 0.15, 5000), 0.01, 0.99), np.arange(5000) < 500
    scores[truth] = np.clip(RNG.normal(0.7, 0.15, 500), 0.01, 0.99)
    for wanted in (0.0, 0.001, 0.01):
        threshold = calibration.choose_threshold(scores, truth, wanted)
        assert calibration.at_threshold(scores, truth, threshold)["false_positive_rate"] <= wanted
        assert threshold >= 0.5


def test_a_threshold_between_classes_that_lie_apart_keeps_off_both():
    """Guards against a threshold just above the last training frame, which the next one would reach."""
    scores, truth = np.array([0.01, 0.02, 0.03, 0.97, 0.98, 0.99]), np.arange(6) > 2
    assert 0.4 < calibration.choose_threshold(scores, truth, 0.0) < 0.6


def test_temperature_mends_confidence_that_is_too_high():
    """Guards calibration: logits five times too large must come back to what they were."""
    scores, truth = drawn()
    logits = np.stack([np.zeros_like(scores), np.log(scores / (1 - scores))], axis=1)
    found = calibration.fit_temperature(5 * logits, truth.astype(int))
    assert 4.0 < found < 6.0
    before = calibration.calibration_error(calibration.softmax(5 * logits)[:, 1], truth)
    after = calibration.calibration_error(calibration.softmax(5 * logits, found)[:, 1], truth)
    assert after < 0.03 < before


def test_doubtful_labels_are_those_that_strangers_contradict():
    """Guards the search for wrong labels, where a class is so rare that wrong labels are half of it."""
    labels = np.array([0] * 90 + [1] * 10)
    sure = np.where(np.arange(100) < 95, 0.03, 0.96)  # the first five "successes" show none
    found = calibration.suspects(np.stack([1 - sure, sure], axis=1), labels)
    assert np.flatnonzero(found).tolist() == [90, 91, 92, 93, 94]


def test_without_a_success_there_is_no_recall():
    """Guards against a curve of zeros that looks like a bad classifier."""
    with pytest.raises(ValueError, match="at least one success"):
        calibration.precision_recall(np.array([0.5]), np.array([False]))


def test_a_thinned_curve_keeps_both_ends_up_to_full_recall():
    """Guards what is drawn: thousands of points per curve, or a curve that stops short of what it shows."""
    scores, truth = drawn()
    curve = calibration.precision_recall(scores, truth)
    few = calibration.thinned(curve, 50)
    assert len(few.recall) == 50 < len(curve.recall) and few.recall[0] == curve.recall[0]
    assert few.recall[-1] == 1.0 and few.precision[-1] == curve.precision[np.argmax(curve.recall)]
    apart = calibration.precision_recall(np.array([0.9, 0.8, 0.2]), np.array([True, True, False]))
    assert calibration.thinned(apart, 50).recall.tolist() == [0.5, 1.0]


def test_reliability_compares_each_bin_with_what_came_of_it():
    """Guards the curve by which probabilities are believed, and its empty bins and the score 1."""
    found = calibration.reliability(np.array([0.11, 0.19, 0.95, 1.0]), np.array([False, True, True, True]))
    np.testing.assert_allclose(found.probability, [0.15, 0.975])
    assert (found.share.tolist(), found.frames.tolist()) == ([0.5, 1.0], [2, 2])
    assert calibration.calibration_error(np.array([0.11, 0.19]), np.array([False, True])) == pytest.approx(0.35)
