import numpy as np
import pytest
from classifier_parts import QUICK

from serl_core.agents.classifier import Head, fit, frame_logits, log_loss, logits
from serl_core.config import ConfigError
from serl_core.judging.crossfit import Training, choose_beliefs, deal, train
from serl_core.judging.encoded import Examples, Place
from serl_core.judging.figures import summary

HEAD = Head(QUICK, ("front",), 2)


def examples(episodes: int = 8, each: int = 12, last: int = 3) -> Examples:
    """Episodes whose ``last`` frames are a success, which one channel shows; those of odd number have none."""
    owner = np.repeat(np.arange(episodes), each)
    labels = ((np.arange(episodes * each) % each >= each - last) & (owner % 2 == 0)).astype(np.int64)
    features = np.random.default_rng(0).normal(0, 0.3, (len(owner), 2, 3, 4))
    features[..., 0, :] += 4.0 * labels[:, None, None]
    places = tuple(Place(None, "a", int(e), n) for n, e in enumerate(owner))  # type: ignore[arg-type]
    return Examples({"front": features.astype(np.float16)}, labels, owner, np.zeros(len(owner), bool), places)


def test_no_episode_is_split_and_each_fold_shows_each_class():
    """Guards the split: neighbouring frames on both sides make a useless classifier look perfect."""
    some = examples()
    folds = deal(some, ("other", "success"), 4, np.random.default_rng(0))
    for episode in range(8):
        assert len(set(folds[some.owner == episode])) == 1
    assert all(some.labels[folds == fold].any() for fold in range(4)) and set(folds) == {0, 1, 2, 3}
    with pytest.raises(ConfigError, match="one episode only"):
        deal(examples(2), ("other", "success"), 4, np.random.default_rng(0))


def test_wrong_labels_are_found_but_never_against_a_person():
    """Guards training on noisy labels, and a person's correction against being taken for noise."""
    some = examples(24, 24)
    some.labels[[3, 40, 100, 200]] = 1
    some.trusted[200] = True
    config = Training(folds=3, network=QUICK, emphasis=1)
    found = train(some, ("other", "success"), "success", config)
    assert set(np.flatnonzero(found.suspected)) >= {3, 40, 100} and not found.suspected[200]
    assert found.suspected.sum() <= 8 and found.report["held_out"]["average_precision"] > 0.9
    kept = train(some, ("other", "success"), "success", Training(folds=2, network=QUICK, suspects="keep"))
    assert not kept.suspected.any()


def test_training_ends_early_and_keeps_the_best():
    """Guards against the last parameters of an overfitted head: labels here are noise, there is nothing to learn."""
    some, labels = examples(), np.random.default_rng(0).integers(0, 2, 96)
    frames = np.arange(96)
    head = Head(QUICK.__class__(**{**vars(QUICK), "patience": 2, "updates": 2000}), ("front",), 2)
    found = fit(head, some.features, labels, frames[:64], frames[64:], seed=0)
    assert found.updates < 2000 and np.argmin(found.held_out) == len(found.held_out) - 3
    values = logits(head, found.params, some.features, frames[64:])
    assert log_loss(values, labels[64:]) < found.held_out[-1] + 0.05


def test_one_frame_scores_as_in_a_batch():
    """Guards the judge against other numbers than those that the threshold was chosen by."""
    some = examples()
    found = fit(HEAD, some.features, some.labels, np.arange(96), np.arange(96), seed=0)
    batch = logits(HEAD, found.params, some.features, np.arange(5))
    alone = frame_logits(HEAD, [found.params], {"front": some.features["front"][4, 0]})
    np.testing.assert_allclose(alone, batch[4], atol=0.05)  # of a batch the products are bfloat16
    with pytest.raises(ValueError, match="1 of 2 classes"):
        fit(HEAD, some.features, some.labels, np.flatnonzero(some.labels == 0), np.arange(9), seed=0)


def test_hard_examples_that_are_suspected_are_not_hidden():
    """Guards against a precision of 100 % where rightly labelled frames that look like a success were left out."""
    some = examples(36, 24, last=12)
    hard = np.isin(some.owner, (1, 3, 5)) & (np.arange(len(some.owner)) % 24 >= 21)
    some.features["front"][hard, :, 0] += 4.0
    found = train(some, ("other", "success"), "success", Training(folds=3, network=QUICK)).report
    left, whole = found["held_out"], found["as_labelled"]
    assert found["suspected"] == found["suspected_of"]["other"] >= 9
    assert (left["precision"], left["false_positives"], left["false_successes"]) == (1.0, 0, 0)
    assert whole["false_positives"] >= 9 and whole["precision"] <= 216 / 225
    assert whole["false_successes"] >= 3 and whole["failed_episodes"] == 18
    text = summary(found)
    assert f"{found['suspected']} frames are suspected of a wrong label" in text
    assert f"taking every label at its word: precision {whole['precision']:.1%}" in text
    assert (
        f"{whole['false_successes']} false ones in 18 failed episodes" in text
        and "wanted false-positive rate of 0.05%" in text
    )
    kept = train(some, ("other", "success"), "success", Training(folds=3, network=QUICK, suspects="keep")).report
    assert kept["suspected"] == 0 and kept["held_out"] == kept["as_labelled"] and "suspected" not in summary(kept)


def test_every_class_has_the_threshold_that_keeps_its_own_promise():
    """Guards n-way judges: a class that is told apart badly needs a higher threshold than the success."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 400)
    scores = np.zeros((1200, 3))
    scores[:, 1] = np.where(labels == 1, 0.9, 0.05) + rng.uniform(-0.04, 0.04, 1200)
    scores[:, 2] = np.where(labels == 2, 0.95, rng.uniform(0.0, 0.9, 1200)) * (1 - scores[:, 1])
    scores[:, 0] = 1 - scores[:, 1] - scores[:, 2]
    found = choose_beliefs(scores, labels, ("a", "b", "c"), Training(false_positive_rate=0.01))
    for number, name in enumerate("abc"):
        assert np.mean(scores[labels != number, number] >= found[name].threshold) <= 0.01
    assert found["c"].threshold > 0.8 > 0.6 > found["b"].threshold
    assert np.mean(scores[labels != 2, 2] >= found["b"].threshold) > 0.1


def test_a_report_has_the_figures_of_every_class():
    """Guards stages and ruin by other classes than the success: nobody could tell how good they are."""
    some = examples(16, 12, last=6)
    some.labels[(some.owner % 4 == 1) & (np.arange(192) % 12 >= 6)] = 2
    some.features["front"][some.labels == 2, :, 1] += 4.0
    names = ("other", "success", "broken")
    found = train(some, names, "success", Training(folds=2, network=QUICK))
    assert {*found.beliefs} == {*found.report["classes"]} == {*names}
    for name, belief in found.beliefs.items():
        assert found.report["classes"][name]["as_labelled"]["threshold"] == belief.threshold
    assert found.report["classes"]["broken"]["held_out"]["good_episodes"] == 4
    text = summary(found.report)
    assert 'class "broken": precision' in text and "of 4 episodes with it" in text and 'class "success"' not in text
