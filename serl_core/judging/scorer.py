"""A classifier's file as the environment's judge: the newest version at each episode's begin, features shared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from serl_core.config import ConfigError, Observation, Task
from serl_core.envs.rewards import Judge, RuleJudge
from serl_core.envs.robot_env import observation_space
from serl_core.envs.scored import Belief, ScoreJudge, Stage
from serl_core.judging.file import Classifier, load_classifier
from serl_core.nets.encoders import FRAME
from serl_core.nets.once import EncodedOnce
from serl_core.nets.trunks import SMALL, FrozenTrunk, load_named
from serl_core.nets.weights import WeightsError
from serl_core.pairs import AnyTask
from serl_core.types import Obs

log = logging.getLogger(__name__)

RULE = "rule"  # of --judge: the task's own rule on the measured state


@final
class FileScorer:
    """Scores with the classifier in ``path``, and reads it again at an episode's begin if the file has changed.

    A new version that cannot be used is logged, and the old one goes on. ``weights``: file of the trunk, the small
    one comes with the package. Raises `ConfigError` for a classifier of another task, cameras or trunk.
    """

    def __init__(self, path: Path, task: AnyTask, once: EncodedOnce, weights: Path | None = None) -> None:
        self._path = path
        self._task = task
        self._once = once
        self._seen = _stamp(path)
        self.classifier = load_classifier(path)
        check_fits(self.classifier, path, task)
        self._trunk = trunk_of(self.classifier, path, weights)
        self._encode = self._encoder()
        self._warm_up()

    @property
    def name(self) -> str:
        """The file and its version."""
        return f"{self._path.name}@{self.classifier.version}"

    @property
    def beliefs(self) -> Mapping[str, Belief]:
        """Of the present version."""
        return self.classifier.beliefs

    def reset(self) -> None:
        """Take a newer version, if there is one."""
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._replace(load_classifier(self._path))
        except ConfigError as error:
            log.error("the classifier stays in version %s: %s", self.classifier.version, error)

    def score(self, obs: Obs) -> Mapping[str, float]:
        """A probability for each class. Raises `ConfigError` where the environment shows no pictures."""
        features = self._encode(obs)
        return self.classifier.probabilities({name: features[name] for name in self.classifier.cameras})

    def _replace(self, newer: Classifier) -> None:
        check_fits(newer, self._path, self._task)
        if newer.trunk[1] != self._trunk.digest or newer.classes != self.classifier.classes:
            raise ConfigError(f"{self._path} now has another trunk or other classes: start again to use it")
        check_believed(newer, self._path, tuple(self.beliefs))
        self.classifier = newer
        self._encode = self._encoder()
        self._warm_up()
        log.warning("from this episode on the judge is %s", self.name)

    def _encoder(self) -> Callable[[Obs], dict[str, npt.NDArray[Any]]]:
        return self._once.encoder(self._trunk, self.classifier.cameras)

    def _warm_up(self) -> None:
        """Compile now: within a control step it would cost the arm its command."""
        self.score({name: np.zeros(FRAME, np.uint8) for name in cameras_of_task(self._task)})


def cameras_of_task(task: AnyTask) -> tuple[str, ...]:
    """Names of the pictures in an observation, of two arms e.g. "left_wrist"."""
    return tuple(name for name in observation_space(task, "pixels") if name != "state")


def check_fits(classifier: Classifier, path: Path, task: AnyTask) -> None:
    """Raises `ConfigError` for a classifier that was made for something else."""
    if classifier.task != task.name:
        raise ConfigError(f"{path} judges the task {classifier.task}, not {task.name}: train one for it")
    missing = [name for name in classifier.cameras if name not in cameras_of_task(task)]
    if missing:
        raise ConfigError(
            f"{path} looks through {', '.join(missing)}, the task {task.name} has {', '.join(cameras_of_task(task))}: "
            "train it again with the task's cameras"
        )


def check_believed(classifier: Classifier, path: Path, names: Sequence[str]) -> None:
    """Raises `ConfigError` unless it has a threshold for each of these classes; an older file has one for success."""
    unknown = [name for name in names if name not in classifier.beliefs]
    if unknown:
        raise ConfigError(
            f"{path} has no threshold for {', '.join(unknown)}, only for {', '.join(classifier.beliefs)}: it is of an "
            "older version, train it again"
        )


def trunk_of(classifier: Classifier, path: Path, weights: Path | None) -> FrozenTrunk:
    """The trunk whose features it reads. Raises `ConfigError` if this machine has another one."""
    name, digest = classifier.trunk
    trunk = named_trunk(name, weights)
    if trunk.digest != digest:
        raise ConfigError(f"{path} was trained on other weights of the trunk {name}: use the same file of weights")
    return trunk


def named_trunk(name: str, weights: Path | None) -> FrozenTrunk:
    """A trunk with its weights. Raises `ConfigError` saying what is missing."""
    if weights is None and name != "small":
        raise ConfigError(f"the trunk {name} does not come with the package: give --trunk-weights FILE")
    try:
        return load_named(name, weights if name != "small" else weights or SMALL)
    except (WeightsError, OSError) as error:
        raise ConfigError(str(error)) from error


def chosen_judge(
    text: str, task: AnyTask, obs: Observation, once: EncodedOnce, weights: Path | None = None, reward: float = 0.0
) -> Judge | None:
    """The judge that ``text`` names: "" is the task's own (None), "rule", or classifier files in the order of stages.

    FILE takes the file's own class of success for the stage, FILE:CLASS another one. ``reward`` is that of each
    stage before the last. Raises `ConfigError` where that cannot work.
    """
    if not text:
        return None
    if text == RULE:
        if not isinstance(task, Task) or task.rule is None:
            raise ConfigError(f"the task {task.name} has no rule: set rule= in its file, or choose another --judge")
        return RuleJudge(task.rule)
    if obs != "pixels":
        raise ConfigError("a classifier judges pictures: give --obs pixels, or choose another --judge")
    stages = [_stage(part, task, once, weights) for part in text.split(",")]
    most = 1.0 + reward * (len(stages) - 1)
    if most > task.returns[1]:
        raise ConfigError(
            f"{len(stages)} stages at {reward:g} each and a success at 1 come to {most:g}, more than the highest "
            f"return of the task {task.name}: set returns=(0.0, {most:g}) in its file"
        )
    return ScoreJudge(stages, reward)


def _stage(text: str, task: AnyTask, once: EncodedOnce, weights: Path | None) -> Stage:
    name, _, wanted = text.partition(":")
    scorer = FileScorer(Path(name), task, once, weights)
    classifier = scorer.classifier
    wanted = wanted or classifier.success
    if wanted not in classifier.classes:
        raise ConfigError(f'{name} has no class "{wanted}", only {", ".join(classifier.classes)}')
    ruin = classifier.ruin if wanted == classifier.success else ()
    check_believed(classifier, Path(name), (wanted, *ruin))
    return Stage(scorer, wanted, ruin)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file is replaced; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
