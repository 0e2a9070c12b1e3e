"""One device, one thread: it opens the device, reads it, watches it, and opens it again when it fails."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_servers.cameras.device import Camera, CameraLost, ClockMap, NoPicture, Shot
from robot_servers.cameras.views import View
from robot_servers.interface import CameraHealth, Frame, RobotError

log = logging.getLogger(__name__)

STALE = 0.4  # s without a new picture that are a fault: flagged well within 0.5 s
READ_WAIT = 0.2  # s of one read, so that closing is noticed soon
LOST = 1.0  # s without a new picture after which the device is opened again
BACK_OFF = (0.5, 1.0, 2.0, 5.0)  # s between attempts to open it; the last one repeats
RATE_WINDOW = 2.0  # s over which the rate is measured
SLOW = 0.5  # of the rate asked for; less is a fault

Wait = Callable[[threading.Event, float], bool]  # like Event.wait: whether it is set, after at most so many seconds


@dataclass(frozen=True)
class Device:
    """One camera and the named images made from it."""

    camera: Camera
    views: tuple[View, ...]


class Feed:
    """Keeps the newest frames of one `Device`. `frames` and `health` only copy what is there: they never wait.

    ``now`` is the server's monotonic clock.
    """

    def __init__(self, device: Device, now: Callable[[], float], wait: Wait = threading.Event.wait) -> None:
        self._camera, self._views = device.camera, device.views
        self._now, self._wait = now, wait
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._news = threading.Condition()  # guards what follows
        self._frames: dict[str, Frame] = {}
        self._since = 0.0  # server clock of the newest picture, before the first one that of `start`
        self._arrivals: deque[float] = deque()  # server clock, no older than RATE_WINDOW
        self._opened = 0.0
        self._trouble = ""  # why there are no pictures, as the device says
        self._failures = 0  # failed attempts and losses in a row
        # of the thread alone
        self._clock = ClockMap(device.camera.latency)
        self._last: Shot | None = None  # kept while the device is opened again: it may still show the same picture
        self._first = True  # of this session: its number says nothing yet
        self._shift = 0  # added to the device's numbers, so that they go on after it is opened again

    @property
    def label(self) -> str:
        return self._camera.label

    @property
    def views(self) -> tuple[View, ...]:
        return self._views

    def start(self) -> None:
        """Once only: a thread that hangs in its driver may still be there after `stop`."""
        self._since = self._now()
        self._thread = threading.Thread(target=self._work, name=f"camera {self.label}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end; `join` waits for it."""
        self._closing.set()

    def join(self, timeout: float) -> None:
        """A device that hangs in its driver is left behind after ``timeout`` s: its thread ends with the process."""
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.warning("%s hangs in its driver; it is left behind", self.label)
        self._thread = None

    def settled(self, timeout: float) -> str:
        """Wait until there is a first frame or a first failure: what is wrong, or empty."""
        with self._news:
            if self._news.wait_for(lambda: self._frames or self._trouble, timeout):
                return "" if self._frames else self._trouble
        return f"{self.label}: it opens, but no first picture came in time: does another program use it?"

    def frames(self) -> dict[str, Frame]:
        with self._news:
            return dict(self._frames)

    def health(self) -> CameraHealth:
        """The same for every view of the device: they come from one picture."""
        with self._news:
            now = self._now()
            captured = next((frame.time for frame in self._frames.values()), self._since)
            rate = sum(arrival > now - RATE_WINDOW for arrival in self._arrivals) / RATE_WINDOW
            return CameraHealth(max(0.0, now - captured), rate, self._fault(now, rate))

    def _fault(self, now: float, rate: float) -> str:
        if self._trouble:
            return self._trouble
        silence = now - self._since
        if silence > STALE:
            return f"{self.label}: no new picture for {silence:.1f} s: frozen, or not opened yet"
        if now - self._opened > 2 * RATE_WINDOW and rate < SLOW * self._camera.fps:
            return (
                f"{self.label}: {rate:.1f} of {self._camera.fps:g} frames/s: give it more light or a locked "
                "exposure, and a USB 3 port of its own"
            )
        return ""

    # ── the thread ──

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self._session()
            except RobotError as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("%s: its driver failed; it is opened again", self.label)
                self._failed(f"{self.label}: its driver failed: {type(error).__name__}: {error}")
            finally:
                self._camera.close()
            self._wait(self._closing, BACK_OFF[min(self._failures, len(BACK_OFF)) - 1])

    def _session(self) -> None:
        """From opening the device to losing it: raises `RobotError`, or returns because the feed is closing."""
        self._camera.open()
        self._clock, self._first = ClockMap(self._camera.latency), True
        opened = self._now()
        with self._news:
            self._opened = opened
        fresh = opened
        while not self._closing.is_set():
            if self._read():
                fresh = self._now()
            elif self._now() - fresh > LOST:
                raise CameraLost(f"{self.label}: no new picture for {LOST:g} s; it is opened again")

    def _read(self) -> bool:
        """Whether a picture came which is not the last one again."""
        try:
            shot = self._camera.read(READ_WAIT)
        except NoPicture:
            return False
        arrival = self._now()
        if self._last is not None and self._repeats(self._last, shot):
            return False
        if self._first:
            self._shift = max(0, self._newest_number() + 1 - shot.number)
        self._last, self._first = shot, False
        self._publish(shot, arrival)
        return True

    def _repeats(self, last: Shot, shot: Shot) -> bool:
        if not self._first and shot.number == last.number:
            return True
        return self._camera.noisy and np.array_equal(shot.image, last.image)

    def _newest_number(self) -> int:
        return max((frame.number for frame in self._frames.values()), default=-1)

    def _publish(self, shot: Shot, arrival: float) -> None:
        time = self._clock.capture(shot.stamp, arrival)
        number = shot.number + self._shift
        frames = {view.name: _frame(view, shot, time, number) for view in self._views}
        with self._news:
            if self._trouble:
                log.warning("%s is back", self.label)
            self._frames, self._since, self._trouble, self._failures = frames, arrival, "", 0
            self._arrivals.append(arrival)
            while self._arrivals[0] < arrival - RATE_WINDOW:
                self._arrivals.popleft()
            self._news.notify_all()

    def _failed(self, text: str) -> None:
        with self._news:
            if self._frames and not self._failures:  # at the start, `Rig.open` says it
                log.warning("%s", text)
            self._failures += 1
            self._trouble = text
            self._news.notify_all()


def _frame(view: View, shot: Shot, time: float, number: int) -> Frame:
    """Read-only, because every caller gets the same one."""
    image, depth = view.image(shot), view.depth(shot)
    image.setflags(write=False)
    if depth is not None:
        depth.setflags(write=False)
    return Frame(image, time, number, depth=depth)
