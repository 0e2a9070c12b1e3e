"""Who listens to a UR: its newest measurement, when that came, and how long nothing has come."""

from __future__ import annotations

from collections.abc import Callable

from robot_servers.drivers.ur_checks import RobotClock, safety
from robot_servers.drivers.ur_link import Sample, UrLink
from robot_servers.interface import RobotError

ANSWER_TIME = 5.0  # s for a first package, a running program, an unlocked brake


class Listener:
    """Takes packages from ``link``, ``period`` s apart. After ``silence`` s without a new one it is `deaf`."""

    def __init__(
        self,
        link: UrLink,
        period: float,
        silence: float,
        now: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._link = link
        self._period = period
        self._silence = silence
        self._now = now
        self._sleep = sleep
        self._clock = RobotClock()
        self._sample: Sample | None = None
        self._heard = 0.0  # when the newest package came
        self._free = 0.0  # when the arm was last seen without a protective stop

    @property
    def sample(self) -> Sample:
        """The newest package. Raises `RobotError` before the first."""
        if self._sample is None:
            raise RobotError("the UR is not connected: call connect()")
        return self._sample

    @property
    def connected(self) -> bool:
        return self._sample is not None

    def forget(self) -> None:
        self._sample = None

    def listen(self) -> bool:
        """Take the newest package; whether there is a new one. A link that has failed is silent, until `recover`."""
        old = self._sample
        try:
            sample = self._link.sample()
        except RobotError:
            return False
        if old is not None and sample.timestamp == old.timestamp:
            return False
        if safety(sample).fault != "protective":
            self._free = self._now()
        self._sample, self._heard = sample, self._now()
        return True

    def listen_on(self, patience: int) -> None:
        """Like `listen`, but when nothing has come for so many periods, wait until something does, or it is deaf."""
        late = self._now() - self._heard > patience * self._period
        if self.listen() or not late or self.deaf():
            return
        while not self.listen() and not self.deaf():
            self._sleep(0.25 * self._period)

    def wait(self, done: Callable[[Sample], bool], otherwise: str) -> None:
        """Listen until a new package is ``done``. Raises `RobotError` after `ANSWER_TIME`."""
        begun = self._now()
        while not (self.listen() and done(self.sample)):
            if self._now() - begun > ANSWER_TIME:
                raise RobotError(f"the UR {otherwise}: look at its pendant, then try again")
            self._sleep(self._period)

    def deaf(self) -> bool:
        return self._now() - self._heard > self._silence

    def protected(self) -> float:
        """For how long (s) the arm has been in a protective stop."""
        return self._now() - self._free

    def time(self) -> float:
        """Of the newest measurement, s on our clock.

        It goes on while packages are missing, so that whoever counts in it sees the silence.
        """
        return self._now() if self.deaf() else self._clock.time(self.sample.timestamp, self._heard)
