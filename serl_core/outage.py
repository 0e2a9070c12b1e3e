"""A robot server that dies does not end its actor: the episode does, and the next one waits for the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, final

import gymnasium as gym

from robot_servers.channel import NoAnswer
from robot_servers.interface import Metadata, Robot, RobotError

log = logging.getLogger(__name__)

LOOK = 0.2  # s between looks whether the server is back


@final
class OutlivesServer(gym.Wrapper[Any, Any, Any, Any]):
    """Waits in `reset` until ``robots``, the clients that ``env`` drives, are answered again, and resets then.

    An episode under way ends by itself, since the environment aborts a step that the robot does not answer.
    ``hear`` is called in the wait: what a person says in it counts afterwards.
    Raises the `RobotError` of the outage if ``stop()`` says so meanwhile, and one if another robot comes back.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        robots: Sequence[Robot],
        stop: Callable[[], bool],
        say: Callable[[str], None] = log.warning,
        sleep: Callable[[float], None] = time.sleep,
        hear: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(env)
        self._robots = tuple(robots)
        self._stop = stop
        self._say = say
        self._sleep = sleep
        self._hear = hear

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of the environment, as soon as there is a server."""
        before = self._who_they_are()
        while True:
            try:
                return self.env.reset(seed=seed, options=options)
            except NoAnswer as outage:
                self._say(f"{outage}; waiting until it is started again")
                self._wait(before, outage)
                self._say("the robot server is back")

    def _wait(self, before: list[Metadata], outage: NoAnswer) -> None:
        while not self._reconnected():
            if self._stop():
                raise outage
            self._sleep(LOOK)
            self._hear()
        self._hear()  # a HOLD until now must not wait for the reset that follows
        if self._who_they_are() != before:
            raise RobotError("the robot server came back with another robot, scene or cameras: start the actor again")

    def _reconnected(self) -> bool:
        """Whether the server answers; its STOP and its shared memory are looked up anew, too."""
        try:
            for robot in self._robots:
                robot.close()
                robot.connect()
        except RobotError as error:
            log.info("%s", error)
            return False
        return True

    def _who_they_are(self) -> list[Metadata]:
        return [robot.metadata for robot in self._robots]
