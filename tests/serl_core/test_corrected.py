"""What a person denied: the learner forgets the reward, and the next version of the classifier gets it right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_parts import QUICK, config, observe, picture, step, write_store
from learner_parts import episode, feed, learner, size_of

from serl_core.classifier import main
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label, label_of
from serl_core.data.sampling import Sampling
from serl_core.judging import crossfit
from serl_core.judging.encoded import Examples, Place
from serl_core.judging.scorer import FileScorer
from serl_core.learner import Learner
from serl_core.nets.once import EncodedOnce
from serl_core.tasks import load_task
from serl_core.types import EpisodeStart, Judgement

RNG = np.random.default_rng(0)


def nearly() -> dict[str, Any]:
    """What the judge takes for a success: it looks like one from the front only."""
    return {"state": np.zeros(3, np.float32), "front": picture(True, RNG), "wrist": picture(False, RNG)}


def write_false_successes(folder: Path, episodes: range) -> None:
    with EpisodeStore(folder) as store:
        for number in episodes:
            store.append(EpisodeStart("demo", number, observe(False, RNG), "online", {"task": "pick_cube"}))
            store.append(step("demo", number, 0, observe(False, RNG)))
            store.append(step("demo", number, 1, nearly(), success=True, terminated=True))


def test_a_denied_success_is_none_for_the_next_version(tmp_path: Path) -> None:
    """Guards the way round: a person's word, the label beside the recording, training again, the judge that reloads."""
    data, file = write_store(tmp_path / "episodes"), tmp_path / "c.npz"
    write_false_successes(data, range(6, 10))
    assert main(config("train", data, file)) == 0
    judge = FileScorer(file, load_task("pick_cube"), EncodedOnce())
    before = judge.name
    assert judge.score(nearly())["success"] >= judge.beliefs["success"].threshold
    for number in range(6, 10):
        EpisodeStore(data).labels.add(
            Label("demo", number, "failure", "person", "anna", 1.0, wrong="false_success", wrong_step=1)
        )
    assert main(config("train", data, file)) == 0
    judge.reset()
    assert judge.name != before
    threshold = judge.beliefs["success"].threshold
    assert judge.score(nearly())["success"] < threshold <= judge.score(observe(True, RNG))["success"]


def rewards(one: Learner) -> list[float]:
    return one.replay.gather(np.sort(one.replay.slots("online")), Sampling(0.9))["reward"].tolist()


@pytest.mark.parametrize("said", ["to the actor", "by serl label"])
def test_a_learner_that_goes_on_follows_the_verdict(tmp_path: Path, said: str) -> None:
    """Guards learning from a reward that is known to be false; the updates that were paid for are not paid again."""
    size = size_of()
    with learner(tmp_path) as learnt:
        one, _ = learnt
        feed(learnt, episode(0, "pppp", size))
        assert rewards(one) == [0, 0, 0, 1]
        false = Judgement("a-1", 0, "failure", -1, "anna", 1.0, "false_success", 3)
        if said == "to the actor":
            feed(learnt, [false])
        else:
            EpisodeStore(tmp_path / "episodes").labels.add(label_of(false))
        feed(learnt, episode(1, "pppp", size))
        assert rewards(one) == [0, 0, 0, 0, 0, 0, 0, 1] and one.limiter.stored == 8


def test_a_corrected_frame_counts_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the emphasis: one correction among thousands of frames would change nothing."""
    labels = np.tile([0, 0, 1], 4)
    owner = np.repeat(np.arange(4), 3)
    features = {"front": np.zeros((12, 1, 4, 16), np.float16)}
    corrected = np.isin(np.arange(12), [4])
    places = tuple(Place(tmp_path, "demo", int(episode), frame) for frame, episode in enumerate(owner))
    some = Examples(features, labels, owner, corrected, places)
    drawn: list[np.ndarray] = []
    fit = crossfit.fit

    def noted(head: Any, known: Any, named: Any, train: np.ndarray, *rest: Any) -> Any:
        drawn.append(train)
        return fit(head, known, named, train, *rest)

    monkeypatch.setattr(crossfit, "fit", noted)
    training = crossfit.Training(folds=2, network=replace(QUICK, updates=20), suspects="keep", emphasis=5)
    crossfit.train(some, ("other", "success"), "success", training)
    counts = [np.bincount(train, minlength=12) for train in drawn]
    assert len(counts) == 2 and sorted(int(count[4]) for count in counts) == [0, 5]
    assert {int(count[frame]) for count in counts for frame in range(12) if frame != 4} == {0, 1}
