"""One physical device, one thread: it is read at once when it speaks, watched, and opened again when it comes back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from robot_servers.interface import Array
from serl_core.teleop.device import TWIST, DeviceError, Reading

log = logging.getLogger(__name__)

PERIOD = 0.003  # s of one poll at most: over 200 of them a second, also while the device is silent
BACK_OFF = 0.5  # s between attempts to open a device that is gone
FROZEN = 3.0  # s for which a hand never holds a stick without any change, and a pad that is out of range does
PUSHED = 0.1  # of the full range: sticks rest that far off their centre, gamepads have a dead band for it
RATE_WINDOW = 1.0  # s over which rates are measured


@dataclass(frozen=True)
class Motion:
    """What a hand does at the device now.

    ``twist`` (6,) float64 in [−1, 1], translation then rotation in the frame of the hand: x away from the person,
    y to the left, z up. ``buttons``: whether the gripper is to close, to open, and the clutch if there is one.
    ``pressed``: names of all buttons and keys that are down, for people to read.
    """

    twist: Array = field(default_factory=lambda: np.zeros(TWIST))
    buttons: tuple[bool, ...] = (False, False)
    pressed: tuple[str, ...] = ()


class Source(Protocol):
    """A physical device, used by one thread at a time. Constructors open nothing."""

    label: str  # for people: what it is, and where
    buttons: int  # how many entries its motions have there, also while it is silent or gone: at least `BUTTONS`
    names: tuple[str, ...]  # of all that its motions can have in ``pressed``; valid after `open`
    repeats: bool  # it goes on speaking for as long as it is pushed, so that silence means that something is wrong;
    # of one that tells of changes only, silence for longer than `FROZEN` s while it is pushed does

    def open(self) -> None:
        """Raises `DeviceError`, also if it is open already elsewhere."""
        ...

    def close(self) -> None:
        """Never raises; closing twice is fine."""
        ...

    def poll(self, wait: float) -> Motion | None:
        """What the hand does, as soon as the device speaks; None if it did not within ``wait`` s.

        Raises `DeviceError` when the device is gone.
        """
        ...


@dataclass(frozen=True)
class Vitals:
    """How a device does: reports and polls a second, and what is wrong ("" if nothing)."""

    reports: float
    polls: float
    trouble: str


@dataclass(frozen=True)
class _Seen:
    """The newest motion; ``spoke`` and ``checked``: when the device said so, and was last asked (s, monotonic)."""

    motion: Motion
    spoke: float
    checked: float
    trouble: str = ""


class Reader:
    """Satisfies `Device`. `read` only copies what the thread has seen: it never waits. ``now`` is monotonic, s."""

    def __init__(self, source: Source, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._rest = Motion(buttons=(False,) * source.buttons)  # what has not been heard of is not pressed
        self._seen = _Seen(self._rest, 0.0, 0.0, f"{source.label} is not open")  # replaced as a whole: no lock needed
        self._reports, self._polls = _Rate(), _Rate()

    @property
    def label(self) -> str:
        """What it is, and where."""
        return self._source.label

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its buttons and keys; valid after `open`."""
        return self._source.names

    def open(self) -> Self:
        """Raises `DeviceError` if the device cannot be used now; once open, it may go and come back."""
        self._source.open()
        self._seen = _Seen(self._rest, self._now(), self._now())
        self._closing.clear()
        self._thread = threading.Thread(target=self._work, name=f"reader of {self.label}", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Let go of the device. Closing twice is fine."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._source.close()
        self._seen = _Seen(self._rest, self._seen.spoke, self._seen.checked, f"{self.label} is closed")

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self) -> None:
        """An episode begins: a device has nothing to forget."""

    def read(self) -> Reading:
        """The newest reading; twist (6,) in the frame of the hand, see `Motion`."""
        seen = self._seen
        if seen.trouble:
            return Reading(self._rest.twist, self._rest.buttons, connected=False, age=self._now() - seen.checked)
        now, motion = self._now(), seen.motion
        doubted = self._frozen(seen, now) or (self._source.repeats and motion.twist.any())
        age = now - (seen.spoke if doubted else seen.checked)
        return Reading(motion.twist, motion.buttons, True, max(0.0, age), motion.pressed)

    def vitals(self) -> Vitals:
        """For displays."""
        now, seen = self._now(), self._seen
        return Vitals(self._reports.value(now), self._polls.value(now), seen.trouble)

    # ── the thread ──

    def _work(self) -> None:
        try:
            self._watch()
        finally:
            if not self._closing.is_set():  # whatever it was, an arm must not follow the last motion for even 0.3 s
                self._lost(f"{self.label}: its driver failed, start the command again")

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                motion = self._source.poll(PERIOD)
            except DeviceError as error:
                self._lost(str(error))
                self._come_back()
                continue
            self._keep(motion)

    def _keep(self, motion: Motion | None) -> None:
        now = self._now()
        self._polls.count(now)
        if motion is None:
            before = self._seen
            self._seen = _Seen(before.motion, before.spoke, now)
            if self._frozen(self._seen, now) and not self._frozen(before, before.checked):
                log.warning(
                    "%s is pushed and has not changed for %g s: it counts as lost, as if it were out of range; let go "
                    "of it and push again (an end stop or a directional pad can be held for no longer)",
                    self.label,
                    FROZEN,
                )
        else:
            self._reports.count(now)
            self._seen = _Seen(motion, now, now)

    def _frozen(self, seen: _Seen, now: float) -> bool:
        pushed = float(np.abs(seen.motion.twist).max()) > PUSHED
        return not self._source.repeats and pushed and now - seen.spoke > FROZEN

    def _lost(self, trouble: str) -> None:
        if not self._seen.trouble:
            log.warning("%s; nobody can take over with it until it is back", trouble)
        self._seen = _Seen(self._rest, self._seen.spoke, self._seen.checked, trouble)

    def _come_back(self) -> None:
        """Open the device again, however long that takes."""
        self._source.close()
        while not self._closing.wait(BACK_OFF):
            try:
                self._source.open()
            except DeviceError as error:
                self._lost(str(error))
                continue
            log.warning("%s is back", self.label)
            self._seen = _Seen(self._rest, self._now(), self._now())
            return


class _Rate:
    """Counts a second's worth of events, one window behind. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._begun, self._count = 0.0, 0
        self._last = (0.0, 0.0)  # when the last full window ended, and its rate

    def count(self, now: float) -> None:
        if now - self._begun >= RATE_WINDOW:
            self._last = (now, self._count / (now - self._begun))
            self._begun, self._count = now, 0
        self._count += 1

    def value(self, now: float) -> float:
        ended, rate = self._last
        return rate if now - ended < 2 * RATE_WINDOW else 0.0
