"""Which class each recorded frame belongs to, by what was recorded and by the verdicts that came later.

A frame is named by its episode and the step that led to it, −1 for the first one. Of an episode
with a success the frames before it are none, those after a verdict's step are void, since nobody looked at them.

Of a recording that was made to show one class (``serl record --kind success`` or ``failure``) every frame is of that
class. There a success with its step is a word on the frame that the step led to, and on no other; several of them hold
together. A failure, which has no step, is a word on all frames; "pending" and "discarded" leave the recording out, and
whatever was said before them is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serl_core.config import ConfigError
from serl_core.data.episodes import EpisodeStore
from serl_core.data.labels import Label
from serl_core.types import EpisodeStart, Obs, Record, Step

OTHER, SUCCESS = 0, 1  # classes of a binary classifier
BINARY = ("other", "success")
VOID = -1
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
By = Literal["verdict", "kind", "folder"]  # what says of which class the frames of an episode are
Sayings = Mapping[tuple[str, int], Sequence[Label]]  # verdicts by actor and episode, the oldest first
KINDS = {"success": "success", "failure": "other"}  # recordings in which every frame is of one class, by their kind
REACTION = 3  # steps by which a person's verdict comes late: frames that may show a success already


@dataclass(frozen=True)
class Source:
    """A folder of episodes. ``name``: the class of all its frames; "" where the verdicts say it."""

    folder: Path
    name: str = ""


@dataclass(frozen=True)
class Recorded:
    """One episode: where it is, the class of each frame, what says so, and the frames themselves.

    ``labels`` (T,) int64, `VOID` for a frame that is not used; ``trusted`` (T,) bool: a person said so, against what
    was thought before. Frame t was led to by step t − 1.
    """

    folder: Path
    actor: str
    episode: int
    meta: Mapping[str, Any]
    by: By
    labels: Ints
    trusted: Bools
    frames: tuple[Obs, ...]

    @property
    def where(self) -> str:
        """For people."""
        return f"episode {self.episode} of {self.actor} in {self.folder}"


def parse_source(text: str) -> Source:
    """FOLDER, a run directory, or CLASS=FOLDER. Raises `ConfigError` if there are no episodes."""
    name, _, folder = text.rpartition("=")
    for path in (Path(folder) / "episodes", Path(folder)):
        if any(path.glob("*.mcap")):
            return Source(path, name)
    raise ConfigError(f"{folder} holds no episodes: give a run directory, or a folder of episodes such as RUN/demos")


def class_names(sources: Iterable[Source]) -> tuple[str, ...]:
    """The classes of these sources, in a fixed order: two by verdicts, or those that the sources name."""
    named = sorted({source.name for source in sources if source.name})
    unnamed = any(not source.name for source in sources)
    if unnamed and set(named) - set(BINARY):
        raise ConfigError(
            f"{', '.join(named)} are named classes, but another folder has none: name all of them, CLASS=FOLDER"
        )
    return BINARY if unnamed or not set(named) - set(BINARY) else tuple(named)


def recorded(source: Source, classes: tuple[str, ...]) -> Iterator[Recorded]:
    """Its episodes in the order in which they began. Nothing on disk is changed."""
    store = EpisodeStore(source.folder)
    sayings: dict[tuple[str, int], list[Label]] = {}
    for label in store.labels.news():
        sayings.setdefault((label.actor, label.episode), []).append(label)
    running: dict[str, tuple[EpisodeStart, list[Step]]] = {}
    for record in store.records(as_recorded=True):
        yield from _take(record, running, source, classes, sayings)
    for start, steps in running.values():  # whose actor died: frames are frames
        yield from _episode(start, steps, source, classes, sayings)


def _take(
    record: Record,
    running: dict[str, tuple[EpisodeStart, list[Step]]],
    source: Source,
    classes: tuple[str, ...],
    sayings: Sayings,
) -> Iterator[Recorded]:
    if isinstance(record, EpisodeStart):
        before = running.pop(record.actor, None)
        running[record.actor] = (record, [])
        if before is not None:
            yield from _episode(*before, source, classes, sayings)
    elif record.actor in running and not record.aborted:
        steps = running[record.actor][1]
        if record.step == len(steps):  # after a damaged record the rest of its episode is left out
            steps.append(record)


def _episode(
    start: EpisodeStart,
    steps: list[Step],
    source: Source,
    classes: tuple[str, ...],
    sayings: Sayings,
) -> Iterator[Recorded]:
    said = sayings.get((start.actor, start.episode), ())
    if said and said[-1].verdict in ("pending", "discarded"):
        return
    by, (labels, trusted) = _labelled(start, steps, source, classes, said)
    frames = (start.obs, *(step.next_obs for step in steps))
    yield Recorded(source.folder, start.actor, start.episode, start.meta, by, labels, trusted, frames)


def _labelled(
    start: EpisodeStart, steps: list[Step], source: Source, classes: tuple[str, ...], said: Sequence[Label]
) -> tuple[By, tuple[Ints, Bools]]:
    """What says of which class the frames are, and what it says: `Recorded.labels` and `Recorded.trusted`."""
    kind = str(start.meta.get("kind", ""))
    if source.name:
        count = len(steps) + 1
        return "folder", (np.full(count, classes.index(source.name), np.int64), np.zeros(count, np.bool_))
    if kind in KINDS:
        return "kind", whole_frames(kind, len(steps) + 1, said)
    return "verdict", judged_frames(start, steps, said[-1] if said else None)


def whole_frames(kind: str, count: int, said: Sequence[Label]) -> tuple[Ints, Bools]:
    """The class of each of ``count`` frames that were recorded to show one, and which of them a person corrected."""
    recorded_as = BINARY.index(KINDS[kind])
    labels, trusted = np.full(count, recorded_as, np.int64), np.zeros(count, np.bool_)
    for label in said:
        if label.verdict == "success":
            frame = slice(label.step + 1, label.step + 2)
            trusted[frame] |= (labels[frame] != SUCCESS) & (label.source == "person")
            labels[frame] = SUCCESS
        else:
            labels[:] = OTHER if label.verdict == "failure" else recorded_as
            trusted[:] = False
    return labels, trusted


def judged_frames(start: EpisodeStart, steps: list[Step], label: Label | None) -> tuple[Ints, Bools]:
    """The class of each frame (T,), and which of them a person corrected (T,)."""
    claimed = np.array([False, *(step.success for step in steps)])
    for step in steps:
        claimed[step.step + 1 - step.ago * step.success : step.step + 2] |= step.success
    labels = np.where(claimed, SUCCESS, OTHER).astype(np.int64)
    trusted = np.zeros(len(labels), np.bool_)
    by_person = label is not None and label.source == "person"
    if label is not None and label.verdict == "failure":
        labels[:] = OTHER
        trusted = claimed & by_person
    elif label is not None:
        begun = label.step + 1
        labels[:begun], labels[begun + 1 :] = OTHER, VOID
        labels[begun : begun + 1] = SUCCESS
        trusted[begun : begun + 1] = by_person
    if label is not None and label.wrong:
        trusted[label.wrong_step + 1 : label.wrong_step + 2] = True
    if by_person or str(start.meta.get("judge", "")).startswith("person"):
        _unsure(labels)
    return labels, trusted


def _unsure(labels: npt.NDArray[np.int64]) -> None:
    """What a person saw only after their reaction time may be a success already: neither class."""
    found = np.flatnonzero(labels == SUCCESS)
    if found.size:
        labels[max(0, found[0] - REACTION) : found[0]] = VOID
