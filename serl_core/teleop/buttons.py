"""The further buttons of a device say things: verdicts and hold under the fingers that move the arm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias, final

from robot_servers.interface import RobotError
from serl_core.teleop.console import Event
from serl_core.teleop.device import Device, Reading
from serl_core.teleop.inbox import Unheard

log = logging.getLogger(__name__)

Pressed: TypeAlias = Callable[[Reading], Collection[str]]


def by_number(reading: Reading) -> Collection[str]:
    """The numbers of the buttons that are down; 0 and 1 are the gripper's."""
    return {str(number) for number, down in enumerate(reading.buttons) if down}


@final
class SayingButtons:
    """``device``, of which each press of a button named in ``events`` says its event: ``say`` gets it and "button".

    ``pressed`` names the buttons that are down; in names small and capital letters are alike. One that is down when the
    device appears counts once it was let go.
    """

    def __init__(
        self,
        device: Device,
        events: Mapping[str, Event],
        say: Callable[[Event, str], object],
        pressed: Pressed = by_number,
    ) -> None:
        self._device = device
        self._events = {name.casefold(): event for name, event in events.items()}
        self._say = say
        self._pressed = pressed
        self._up: set[str] = set()  # seen released

    def reset(self) -> None:
        """An episode begins."""
        self._device.reset()

    def read(self) -> Reading:
        """The newest reading, as it is."""
        reading = self._device.read()
        down = {name.casefold() for name in self._pressed(reading)}
        for name in self._events.keys() & down & self._up if reading.connected else ():
            self._pass_on(self._events[name])
        self._up = self._events.keys() - down if reading.connected else set()
        return reading

    def _pass_on(self, event: Event) -> None:
        try:
            self._say(event, "button")
        except (RobotError, Unheard) as error:
            log.error("%s", error)
