"""All real cameras of one server, a thread for each: a slow or dead one delays neither another nor the caller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from robot_servers.cameras.feed import Device, Feed, Wait
from robot_servers.interface import CameraHealth, Frame, RobotError

FIRST = 10.0  # s for the first picture: some devices need seconds to start
GOODBYE = 2.0  # s for all threads to end


class Rig:
    """Satisfies `Cameras`. ``now`` is the server's monotonic clock, ``first`` s bound the wait for first pictures."""

    def __init__(
        self,
        devices: tuple[Device, ...],
        now: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
        first: float = FIRST,
    ) -> None:
        views = [view for device in devices for view in device.views]
        self.sizes: Mapping[str, tuple[int, int]] = {view.name: view.size for view in views}
        if len(self.sizes) < len(views):
            raise RobotError("two cameras have the same name; give each its own")
        self.devices = devices
        self._feeds = tuple(Feed(device, now, wait) for device in devices)
        self._now = now
        self._first = first
        self._used = False

    def __enter__(self) -> Rig:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start all devices at once. Raises `RobotError`, with everything closed, if one gives no first picture.

        Once only: a device that hung may still be held by its thread.
        """
        if self._used:
            raise RobotError("these cameras were opened before: make a new Rig")
        self._used = True
        for feed in self._feeds:
            feed.start()
        due = self._now() + self._first
        wrong = [text for feed in self._feeds if (text := feed.settled(max(0.0, due - self._now())))]
        if wrong:
            self.close()
            raise RobotError("; ".join(wrong))

    def close(self) -> None:
        for feed in self._feeds:
            feed.stop()
        due = self._now() + GOODBYE
        for feed in self._feeds:
            feed.join(max(0.0, due - self._now()))

    def frames(self) -> dict[str, Frame]:
        """The newest frame of every camera; a camera in a fault keeps its last one, whose time says how old it is."""
        return {name: frame for feed in self._feeds for name, frame in feed.frames().items()}

    def health(self) -> dict[str, CameraHealth]:
        """A fault is seen here within 0.5 s, whatever the device's driver does."""
        return {view.name: health for feed in self._feeds for health in [feed.health()] for view in feed.views}
