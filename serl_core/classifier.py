"""``serl classifier``: train a classifier of success on recorded episodes, measure it, look at its mistakes.

Training runs beside a learner: actors that judge by the file take the new version at their next episode.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from serl_core.agents.calibration import softmax
from serl_core.agents.classifier import logits
from serl_core.config import ConfigError
from serl_core.judging.crossfit import Trained, Training, train
from serl_core.judging.encoded import Examples, FeatureFiles, gather
from serl_core.judging.figures import about, measured, summary
from serl_core.judging.file import Classifier, load_classifier
from serl_core.judging.gallery import mistakes, page, pictures
from serl_core.judging.labelled import Recorded, Source, class_names, parse_source, recorded
from serl_core.judging.plots import curves
from serl_core.judging.scorer import cameras_of_task, check_fits, named_trunk, trunk_of
from serl_core.nets.trunks import FrozenTrunk
from serl_core.pairs import AnyTask
from serl_core.progress import progress
from serl_core.summary import check_writable, write_json
from serl_core.tasks import load_task


@dataclass(frozen=True)
class Config:
    """Train a classifier on recorded episodes, evaluate one, or show its confident mistakes as a page."""

    action: Annotated[Literal["train", "eval", "gallery"], tyro.conf.Positional]  # what to do
    data: Annotated[tuple[str, ...], tyro.conf.Positional]  # runs or folders of episodes; CLASS=FOLDER names a class
    file: Path  # the classifier: written by train, read by eval and gallery
    task: str = "pick_cube"  # task by name, or the path of a task file
    cameras: tuple[str, ...] = ()  # which of the task's it looks through; without, all of them
    success: str = "success"  # the class that is a success
    ruin: tuple[str, ...] = ()  # classes that end an episode as a failure
    views: int = 4  # of each frame in training, all but one shifted by up to 4 pixels
    trunk: str = "small"  # frozen image trunk: small, resnet10, resnet18; best the policy's own
    trunk_weights: Path | None = None  # its weights; the small one comes with the package
    features: Path | None = None  # where features are kept, to be thrown away at will; without, FILE.features
    training: Training = field(default_factory=Training)
    page: Path | None = None  # where train and gallery write the mistakes; without, FILE.html
    most: int = 60  # mistakes on it
    json: Path | None = None  # also write the figures here


@dataclass(frozen=True)
class Material:
    """What there is to learn from or to measure with."""

    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    cameras: tuple[str, ...]
    examples: Examples

    def episodes(self, task: str) -> Iterator[Recorded]:
        """All of them, as recorded for ``task``."""
        return of_task(self.sources, self.classes, task)


def of_task(sources: tuple[Source, ...], classes: tuple[str, ...], task: str) -> Iterator[Recorded]:
    """The episodes of the sources. Raises `ConfigError` for one that was recorded for another task."""
    for source in sources:
        for episode in recorded(source, classes):
            name = episode.meta.get("task", task)
            if name != task:
                raise ConfigError(f"{episode.where} was recorded for the task {name}, not {task}: leave it out")
            yield episode


def read_material(
    config: Config, task: AnyTask, classes: tuple[str, ...], cameras: tuple[str, ...], trunk: FrozenTrunk, views: int
) -> Material:
    """The frames of all episodes, encoded as far as they were not before. Raises `ConfigError`."""
    sources = tuple(parse_source(text) for text in config.data)
    classes = classes or class_names(sources)
    unknown = {source.name for source in sources if source.name} - set(classes)
    if unknown:
        raise ConfigError(f"{config.file} knows {', '.join(classes)}, not {', '.join(sorted(unknown))}")
    folder = config.features or config.file.with_name(f"{config.file.name}.features")
    files = FeatureFiles(folder, trunk, cameras, views, config.training.seed)
    with progress("reading (episodes)", 0) as bar:
        examples = gather(of_task(sources, classes, task.name), files, cameras, bar)
    return Material(sources, classes, cameras, examples)


def train_classifier(config: Config) -> dict[str, Any]:
    """Train, write the file and the page of held-out mistakes; the figures."""
    task = load_task(config.task)
    cameras = chosen_cameras(config, task)
    trunk = named_trunk(config.trunk, config.trunk_weights)
    material = read_material(config, task, (), cameras, trunk, config.views)
    strange = {config.success, *config.ruin} - set(material.classes)
    if strange:
        raise ConfigError(f"no class {', '.join(sorted(strange))} among {', '.join(material.classes)}: see --success")
    begun = time.perf_counter()
    trained = train(material.examples, material.classes, config.success, config.training, lambda text: print(text))
    report = {**trained.report, "seconds": round(time.perf_counter() - begun, 1)}
    made = assemble(config, task, material, trunk, trained, report)
    made.save(config.file)
    print(summary(report))
    text = "Mistakes of heads that had not seen the episode"
    write_page(config, material, trained.held_out, report, text, trained.suspected)
    if report["suspected"]:
        print(
            f"the suspected frames come first on that page; on one of its own: {gallery_command(config)}\n"
            "if their labels are right, train again with --training.suspects keep"
        )
    return report


def gallery_command(config: Config) -> str:
    """What shows the frames of the same data that the classifier contradicts."""
    weights = ("--trunk-weights", str(config.trunk_weights)) if config.trunk_weights else ()
    page = config.file.with_name(f"{config.file.name}.gallery.html")
    words = ("serl", "classifier", "gallery", *config.data, "--file", str(config.file), *weights, "--page", str(page))
    return shlex.join(words)


def assemble(
    config: Config, task: AnyTask, material: Material, trunk: FrozenTrunk, trained: Trained, report: dict[str, Any]
) -> Classifier:
    """What goes into the file."""
    return Classifier(
        task=task.name,
        cameras=tuple(sorted(material.cameras)),
        classes=material.classes,
        success=config.success,
        ruin=config.ruin,
        trunk=(trunk.spec.name, trunk.digest),
        network=config.training.network,
        members=trained.members,
        prior=tuple(trained.prior.tolist()),
        temperature=trained.temperature,
        beliefs=trained.beliefs,
        report=report,
    )


def chosen_cameras(config: Config, task: AnyTask) -> tuple[str, ...]:
    """Those asked for, or all. Raises `ConfigError` for one that the task has not."""
    there = cameras_of_task(task)
    strange = [name for name in config.cameras if name not in there]
    if strange:
        raise ConfigError(f"the task {task.name} sees with {', '.join(there)}, not with {', '.join(strange)}")
    return tuple(sorted(config.cameras or there))


def scored(config: Config) -> tuple[Classifier, Material, npt.NDArray[np.float64]]:
    """A classifier, what it is measured with, and its probabilities (N, classes) of that."""
    classifier = load_classifier(config.file)
    task = load_task(classifier.task)
    check_fits(classifier, config.file, task)
    trunk = trunk_of(classifier, config.file, config.trunk_weights)
    material = read_material(config, task, classifier.classes, classifier.cameras, trunk, 1)
    return classifier, material, probabilities(classifier, material.examples)


def probabilities(classifier: Classifier, examples: Examples) -> npt.NDArray[np.float64]:
    """(N, classes), of every frame."""
    frames = np.arange(len(examples.labels))
    each = [logits(classifier.head, member, examples.features, frames) for member in classifier.members]
    return softmax(np.mean(each, axis=0) + np.array(classifier.prior), classifier.temperature)


def evaluate_classifier(config: Config) -> dict[str, Any]:
    """Measure on other episodes than those of training; the figures."""
    report = evaluation(*scored(config))
    print(summary(report))
    return report


def evaluation(classifier: Classifier, material: Material, values: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The figures, every label taken at its word."""
    examples, classes = material.examples, classifier.classes
    frames = {"held_out": np.ones(len(examples.labels), np.bool_)}
    found = measured(values, examples, classes, classifier.beliefs, classifier.success, frames)
    return {**about(examples, classes), "version": classifier.version, **found}


def write_page(
    config: Config,
    material: Material,
    values: npt.NDArray[np.float64],
    report: Mapping[str, Any],
    text: str,
    suspected: npt.NDArray[np.bool_] | None = None,
) -> int:
    """The page of mistakes, suspected frames (N,) first, below the curves of the report; how many are on it."""
    path = config.page or config.file.with_name(f"{config.file.name}.html")
    all_of_them = mistakes(material.examples, values, material.classes, suspected)
    found = all_of_them[: config.most]
    task = load_classifier(config.file).task
    seen = pictures(found, material.episodes(task), material.cameras)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(f"{config.file.name}: {len(found)} confident mistakes", text, found, seen, curves(report)))
    more = f", the first of {len(all_of_them)} (--most)" if len(found) < len(all_of_them) else ""
    print(f"{len(found)} mistakes in {path}{more}")
    return len(found)


def show_gallery(config: Config) -> dict[str, Any]:
    """The mistakes on the episodes given; how many there are."""
    classifier, material, values = scored(config)
    report = evaluation(classifier, material, values)
    return {"mistakes": write_page(config, material, values, report, "Mistakes on the episodes given")}


ACTIONS = {"train": train_classifier, "eval": evaluate_classifier, "gallery": show_gallery}


def main(config: Config) -> int:
    """Do it, and write the figures."""
    if not config.data:
        raise ConfigError("no episodes given: runs, or folders such as RUN/demos")
    if config.json:
        check_writable(config.json)
    report = ACTIONS[config.action](config)
    if config.json:
        write_json(config.json, report)
    return 0
