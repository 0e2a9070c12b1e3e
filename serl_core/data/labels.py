"""Verdicts on recorded episodes, in a layer beside the recordings, which are never touched.

``labels.jsonl`` in a store's folder has one JSON object per line, appended and never changed: ``actor``, ``episode``,
``verdict`` ("success", "failure", "pending", or "discarded": recorded, but not to be used), ``step`` (of the first
frame of success, −1 otherwise), ``source`` (what judged: "person", "classifier", "oracle"), ``who`` (its name or
version; "silence" where a person was asked and did not answer), ``wall_time`` (s since 1970), and ``wrong``: that the
judge of the run was wrong about step ``wrong_step`` ("false_success", "missed_success"), or "" and −1.
Of several verdicts on an episode the last line counts, whatever the clocks said.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final, get_args

from serl_core.data.segments import StoreError
from serl_core.types import EpisodeStart, Judgement, Record, Step, Verdict, Wrong, check_wrong

log = logging.getLogger(__name__)

MAX_LINE = 64 << 10  # bytes; no verdict is longer
SUCCESS_REWARD = 1.0  # of the step that led to success, and of no other


@dataclass(frozen=True)
class Label:
    """One verdict on one episode; fields as in the module's text. Raises ValueError unless they fit each other."""

    actor: str
    episode: int
    verdict: Verdict
    source: str
    who: str
    wall_time: float
    step: int = -1
    wrong: Wrong = ""
    wrong_step: int = -1

    def __post_init__(self) -> None:
        texts = isinstance(self.actor, str) and isinstance(self.source, str) and isinstance(self.who, str)
        if not texts or type(self.episode) is not int or type(self.step) is not int:
            raise ValueError(f"label {self!r:.200}: a field has the wrong type")
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"label: verdict {self.verdict!r:.40} is none of {', '.join(get_args(Verdict))}")
        if (self.step >= 0) != (self.verdict == "success"):
            raise ValueError(f'label: step {self.step} with verdict "{self.verdict}"; a success has one, nothing else')
        if not isinstance(self.wall_time, int | float):
            raise ValueError(f"label: wall_time {self.wall_time!r:.40} is no number")
        if not isinstance(self.wrong, str) or type(self.wrong_step) is not int:
            raise ValueError(f"label {self!r:.200}: a field has the wrong type")
        check_wrong(self.wrong, self.wrong_step)


@dataclass(frozen=True)
class Outcome:
    """What a step comes to: task reward, the end of its episode, success."""

    reward: float
    terminated: bool
    truncated: bool
    success: bool


def judged(label: Label | None, number: int, recorded: Outcome) -> Outcome | None:
    """The outcome of step ``number`` under a verdict; None if it came after the success, or was discarded.

    A success ends the episode at its frame. Where a success was recorded and is denied, what would have followed is
    unknown: a truncation, without reward. The end by a failure stays as it was recorded.
    """
    if label is None or label.verdict == "pending":
        return recorded
    if label.verdict == "discarded":
        return None
    if label.verdict == "success" and number >= label.step:
        return Outcome(SUCCESS_REWARD, True, False, True) if number == label.step else None
    if not recorded.success:
        return recorded
    return Outcome(0.0, False, recorded.terminated or recorded.truncated, False)


def relabelled(records: Iterator[Record], labels: Mapping[tuple[str, int], Label]) -> Iterator[Record]:
    """``records`` as the verdicts have them; what came after a success, or was discarded, is left out."""
    for record in records:
        label = labels.get((record.actor, record.episode))
        if isinstance(record, EpisodeStart) or label is None:
            yield record
            continue
        outcome = judged(label, record.step, recorded_outcome(record))
        if outcome is not None:
            yield replace(record, **asdict(outcome))


def confirmed(step: Step, wall_time: float) -> Label | None:
    """The verdict that a success brings with it which was confirmed some steps after it began."""
    if not step.success or step.ago <= 0:
        return None
    return Label(step.actor, step.episode, "success", "classifier", "confirmed late", wall_time, step.step - step.ago)


def label_of(judgement: Judgement) -> Label:
    """The verdict that a person sent after the episode."""
    return Label(source="person", **asdict(judgement))


@dataclass(frozen=True)
class HardExample:
    """A step whose observation (``next_obs``) a judge got wrong, as a person says."""

    actor: str
    episode: int
    step: int
    wrong: Wrong


def hard_examples(labels: Mapping[tuple[str, int], Label]) -> list[HardExample]:
    """What a classifier should learn better, of the labels that count (`LabelLayer.newest`)."""
    wrong = [label for label in labels.values() if label.wrong]
    return [HardExample(label.actor, label.episode, label.wrong_step, label.wrong) for label in wrong]


def recorded_outcome(step: Step) -> Outcome:
    """What was recorded."""
    return Outcome(step.reward, step.terminated, step.truncated, step.success)


@final
class LabelLayer:
    """The verdicts on the episodes of the store in ``root``. Any process may add one at any time."""

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / "labels.jsonl"
        self._read = 0  # up to which byte `news` has read

    def add(self, label: Label) -> None:
        """Append a verdict; it survives a power loss. Raises `StoreError`; then nothing was added."""
        line = json.dumps(asdict(label), ensure_ascii=False).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise StoreError(f"{self.path}: a verdict of {len(line)} bytes; at most {MAX_LINE} are allowed")
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                _append(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write ({error}); free space on this disk") from error

    def add_once(self, label: Label) -> None:
        """Like `add`, but nothing if exactly this was said before: what a crash repeats counts once."""
        if label not in LabelLayer(self.path.parent).news():
            self.add(label)

    def add_unless_spoken(self, label: Label) -> None:
        """Like `add`, but nothing if a person has judged the episode: no judge takes their word back.

        They may say it in the period in which a success is confirmed, or before a record that a crash repeats.
        """
        known = self.newest().get((label.actor, label.episode))
        if known is None or known.source != "person":
            self.add(label)

    def newest(self) -> dict[tuple[str, int], Label]:
        """The verdict that counts of each episode, by actor session and number."""
        return {(label.actor, label.episode): label for label in LabelLayer(self.path.parent).news()}

    def news(self) -> list[Label]:
        """The verdicts added since the last call, all of them at first. Malformed lines are logged and left out."""
        try:
            if self.path.stat().st_size == self._read:  # asked with every update: a third of opening the file
                return []
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        found: list[Label] = []
        with file:
            file.seek(self._read)
            while (line := file.readline(MAX_LINE)).endswith(b"\n") or len(line) == MAX_LINE:
                label = _parsed(line, f"{self.path}, byte {self._read}")
                self._read += len(line)
                found += [label] if label else []
        return found


def _append(fd: int, line: bytes) -> None:
    """All of ``line`` or nothing; a torn line of a crash before it is closed first."""
    size = os.fstat(fd).st_size
    whole = line if size == 0 or os.pread(fd, 1, size - 1) == b"\n" else b"\n" + line
    try:
        if os.write(fd, whole) < len(whole):
            raise OSError("the disk is full")
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise


def _parsed(line: bytes, where: str) -> Label | None:
    try:
        tree: Any = json.loads(line)
        if not isinstance(tree, dict):
            raise ValueError("not an object")
        return Label(**tree)
    except (ValueError, TypeError, RecursionError) as error:
        log.error("%s: a verdict that cannot be read is left out: %s", where, error)
        return None
