"""The further buttons of a device: one press says one thing."""

from __future__ import annotations

import numpy as np

from robot_servers.interface import RobotError
from serl_core.teleop.buttons import SayingButtons
from serl_core.teleop.console import Event
from serl_core.teleop.device import Reading


class Pedal:
    """A device whose buttons are set by the test."""

    def __init__(self) -> None:
        self.buttons = (False, False, False, False)
        self.connected = True
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def read(self) -> Reading:
        return Reading(np.zeros(6), self.buttons, self.connected)


def presses(pedal: Pedal, said: list[tuple[Event, str]], buttons: SayingButtons, *states: str) -> list[Event]:
    """What is said while the buttons go through ``states``, e.g. "0010"; "-": unplugged."""
    for state in states:
        pedal.connected = state != "-"
        pedal.buttons = tuple(letter == "1" for letter in state.ljust(4, "0"))
        buttons.read()
    events = [event for event, source in said if source == "button"]
    said.clear()
    return events


def test_a_press_says_its_event_once():
    """Guards against a verdict for every step for which a foot rests on the pedal."""
    pedal, said = Pedal(), list[tuple[Event, str]]()
    buttons = SayingButtons(
        pedal, {"2": Event.SUCCESS, "3": Event.HOLD}, lambda event, source: said.append((event, source))
    )
    assert presses(pedal, said, buttons, "0000", "0010", "0010") == [Event.SUCCESS]
    assert set(presses(pedal, said, buttons, "0000", "0011")) == {Event.SUCCESS, Event.HOLD}
    assert presses(pedal, said, buttons, "0000", "1100") == []  # the gripper's
    buttons.reset()
    assert pedal.resets == 1


def test_a_button_that_is_down_when_the_device_appears_says_nothing():
    """Guards against a verdict because a plug was pushed in, or a worn button stuck."""
    pedal, said = Pedal(), list[tuple[Event, str]]()
    buttons = SayingButtons(pedal, {"2": Event.SUCCESS}, lambda event, source: said.append((event, source)))
    assert presses(pedal, said, buttons, "0010", "0010") == []
    assert presses(pedal, said, buttons, "0000", "-", "0010", "0010") == []
    assert presses(pedal, said, buttons, "0000", "0010") == [Event.SUCCESS]


def test_the_reading_passes_and_a_failed_stop_does_not_end_the_loop():
    """Guards the control loop: the motion goes on whatever comes of what was said."""
    pedal = Pedal()

    def fail(event: Event, source: str) -> None:
        raise RobotError("NOT STOPPED, use the hardware stop")

    buttons = SayingButtons(pedal, {"2": Event.STOP}, fail)
    buttons.read()
    pedal.buttons = (True, False, True, False)
    assert buttons.read().buttons == (True, False, True, False)


def test_buttons_may_have_names():
    """Guards devices that name their buttons instead of numbering them."""
    pedal, said, down = Pedal(), list[Event](), set[str]()
    buttons = SayingButtons(pedal, {"menu": Event.UNDO}, lambda event, _: said.append(event), lambda _: down)
    buttons.read()
    down.add("MENU")  # a name is typed as it is remembered
    buttons.read()
    buttons.read()
    assert said == [Event.UNDO]
