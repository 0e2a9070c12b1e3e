"""From a device's name on a command line to a device that can be read: the one place that knows all of them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from robot_servers.interface import RobotState
from serl_core.config import ConfigError
from serl_core.teleop import gamepad, keyboard
from serl_core.teleop.ask import tell_apart
from serl_core.teleop.device import Device
from serl_core.teleop.gamepad import Gamepad
from serl_core.teleop.keyboard_display import DisplayKeyboard
from serl_core.teleop.keyboard_terminal import TerminalKeyboard
from serl_core.teleop.pair import HANDS, PairDevice
from serl_core.teleop.reader import Reader, Source
from serl_core.teleop.shaped import ShapedDevice
from serl_core.teleop.spacemouse import SpaceMouse
from serl_core.teleop.spec import DeviceSpec, parse_spec
from serl_core.teleop.terminal import Listener, Terminal

log = logging.getLogger(__name__)

LEGENDS: Mapping[str, str] = {"keyboard": keyboard.LEGEND, "gamepad": gamepad.LEGEND}  # what to press for what
States = Sequence[Callable[[], RobotState]]


@contextlib.contextmanager
def open_device(
    spec: str,
    arms: int = 1,
    states: States = (),
    listeners: list[Listener] | None = None,
    saying: Collection[str] = (),
) -> Iterator[Device]:
    """The device that ``spec`` names (`serl_core.teleop.spec`), open until the end of the block.

    ``arms``: how many it leads; its readings are as long as `Reading` says. ``states``: where each arm is, needed by
    ``frame=base``. ``listeners``: of a `Terminal` that the caller opens afterwards; a keyboard that needs the terminal
    adds itself to them instead of opening it. ``saying``: names of buttons that it must have (`SayingButtons`). Raises
    `ConfigError` for a spec that cannot be meant and for a button that is missing, and `DeviceError` for a device that
    cannot be used now, each in one line.
    """
    asked = parse_spec(spec, arms)
    if asked.shape.frame == "base" and len(states) < arms:
        raise ConfigError(f"{asked.kind}: frame=base needs a robot that says where its tool points; leave it out here")
    with open_readers(asked, listeners) as readers:
        _check_names(saying, readers)
        log.info("input from %s", " and ".join(reader.label for reader in readers))
        hands = [
            ShapedDevice(reader, asked.shape, states[number] if states else None)
            for number, reader in enumerate(readers)
        ]
        yield hands[0] if len(hands) == 1 else PairDevice(*hands)


@contextlib.contextmanager
def open_readers(spec: DeviceSpec, listeners: list[Listener] | None = None) -> Iterator[list[Reader]]:
    """The devices themselves, one for each hand: their readings are in the frame of the hand, as they come."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Reader(source)) for source in sources_of(spec, listeners)]


def sources_of(spec: DeviceSpec, listeners: list[Listener] | None = None) -> list[Source]:
    """The devices behind a spec, one for each hand. Opens none, unless it has to ask a person which is which."""
    if spec.word == "ask":
        ports = tell_apart()
        return [SpaceMouse(ports[hand], _buttons(spec.options)) for hand in HANDS]
    if spec.kind == "keyboard":
        return [_keyboard(spec.word, listeners)]
    places = [spec.options[hand] for hand in HANDS if hand in spec.options]
    if spec.kind == "gamepad":
        return [Gamepad(place) for place in places or [spec.word]]
    return [SpaceMouse(place, _buttons(spec.options)) for place in places or [spec.options.get("port", "")]]


def _keyboard(word: str, listeners: list[Listener] | None) -> Source:
    """The terminal's keys where there is a terminal, unless those of the display are asked for.

    A display tells of keys that are let go of and of several at once, but not for which tab or pane of the focused
    window they are meant: what moves an arm by keys that were typed elsewhere has to be asked for.
    """
    if word == "display" or (not word and has_display() and not Terminal(()).exists):
        return DisplayKeyboard()
    keyboard = TerminalKeyboard(shared=listeners is not None)
    if listeners is not None:
        listeners.append(keyboard)
    return keyboard


def _check_names(saying: Collection[str], readers: Sequence[Reader]) -> None:
    named = [[f"{hand} {name}" for name in reader.names] for hand, reader in zip(HANDS, readers, strict=False)]
    known = [name for names in named for name in names] if len(readers) > 1 else [*readers[0].names]
    missing = [name for name in saying if name.casefold() not in map(str.casefold, known)]
    if missing:
        labels = " and ".join(reader.label for reader in readers)
        raise ConfigError(f'{labels}: no button "{missing[0]}"; it has: {", ".join(known) or "none with a name"}')


def _buttons(options: Mapping[str, str]) -> tuple[str, ...]:
    clutch = (options["clutch"],) if "clutch" in options else ()
    return options.get("close", ""), options.get("open", ""), *clutch


def has_display() -> bool:
    """Whether there is an X display whose keys other programs may watch; those of Wayland they may not."""
    return bool(os.environ.get("DISPLAY")) and os.environ.get("XDG_SESSION_TYPE") != "wayland"
