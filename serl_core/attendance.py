"""A person at the robot: their device, the consoles they speak through, and the session that listens to both."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from robot_servers.interface import RobotError
from robot_servers.keys import ClientKeys
from robot_servers.stop import send_stop
from serl_core.config import ConfigError
from serl_core.envs.attention import AttentiveClock, Ears
from serl_core.pairs import AnyTask
from serl_core.session import Session
from serl_core.teleop import keyboard
from serl_core.teleop.build import open_device
from serl_core.teleop.buttons import SayingButtons
from serl_core.teleop.console import Console, Event
from serl_core.teleop.consoles import open_console
from serl_core.teleop.device import Device
from serl_core.teleop.spec import parse_spec
from serl_core.teleop.terminal import Listener
from serl_core.teleop.terminal_console import parse_keys

log = logging.getLogger(__name__)

WITHOUT_DEVICE = ("none", "scripted")  # operators that need none


@dataclass(frozen=True)
class Attendance:
    """``session`` is the one given, but listens to ``ears`` once per control period; ``device`` if a person has one."""

    session: Session
    ears: Ears
    device: Device | None


def attended_by(
    session: Session,
    console: Console,
    device: Device | None,
    stop: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
    look: Callable[[], object] = lambda: None,
) -> Attendance:
    """A session at which ``console`` is heard. ``stop`` ends every wait for the person; others as of `Ears`."""
    ears = Ears(console, (session.robot, *session.partners), stop, pause, look)
    return Attendance(replace(session, clock=AttentiveClock(session.clock, ears)), ears, device)


class Wanted(Protocol):
    """What of a command's configuration says who is at the robot, and how they are heard.

    ``robot``: its address, LEFT,RIGHT of two arms; ``operator``: "none", "scripted", or a device as
    `serl_core.teleop.spec` says; ``console`` and ``console_keys`` as of `open_console`; ``buttons``: what further
    buttons of the device say (`parse_buttons`).
    """

    @property
    def robot(self) -> str: ...
    @property
    def operator(self) -> str: ...
    @property
    def console(self) -> str: ...
    @property
    def console_keys(self) -> str: ...
    @property
    def buttons(self) -> str: ...


@contextlib.contextmanager
def attending(
    wanted: Wanted,
    session: Session,
    task: AnyTask,
    stop: Callable[[], bool],
    token_file: Path | None = None,
    keys: ClientKeys | None = None,
) -> Iterator[Attendance]:
    """Open the device and the consoles that are ``wanted`` until the end of the block.

    STOP reaches the robots past the loop, which may hang. Raises `ConfigError` for what cannot be meant, RobotError
    for what cannot be used.
    """
    states = [robot.state for robot in (session.robot, *session.partners)]
    listeners: list[Listener] = []  # of the one terminal that device and console share
    shared = listeners if "keys" in wanted.console.split("+") else None
    saying = parse_buttons(wanted.buttons)
    with contextlib.ExitStack() as stack:
        device: Device | None = None
        if wanted.operator not in WITHOUT_DEVICE:
            device = stack.enter_context(open_device(wanted.operator, len(task.arms), states, shared, saying))
            if session.robot.metadata.clock == "lockstep":
                log.warning("the simulation runs as fast as it can, faster than hands: serve it with --clock realtime")
        heard = stack.enter_context(
            open_console(
                wanted.console,
                lambda reason: stop_all(wanted.robot, reason, keys),
                keys=wanted.console_keys,
                token_file=token_file,
                listeners=listeners,
            )
        )
        if device is None or not saying:
            yield attended_by(session, heard, device, stop)
            return
        device = SayingButtons(device, saying, heard.say, lambda reading: reading.pressed)
        yield attended_by(session, heard, device, stop, look=device.read)


def check_wanted(wanted: Wanted, arms: int) -> None:
    """Raises `ConfigError` for words that no device could be meant by: to be called before a robot is asked for."""
    saying = parse_buttons(wanted.buttons)
    if wanted.operator not in WITHOUT_DEVICE:
        spec = parse_spec(wanted.operator, arms)
        both = sorted(parse_keys(wanted.console_keys).keys() & set(keyboard.KEYS)) if spec.kind == "keyboard" else []
        if both:
            raise ConfigError(
                f"--console-keys: {', '.join(both)} would say something and move the arm; use another key"
            )
    elif saying:
        raise ConfigError(f"--buttons are those of a device, and --operator {wanted.operator} has none: name one")


def parse_buttons(text: str) -> dict[str, Event]:
    """Which button says what, from "start=success,select=undo"; names as ``serl teleop test`` shows them.

    Raises `ConfigError` naming what is wrong.
    """
    found: dict[str, Event] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, event = part.rpartition("=")
        if not separator or not name or event not in set(Event):
            raise ConfigError(f'button "{part}": write BUTTON=EVENT, with an event of {", ".join(Event)}')
        if event == Event.STOP:
            raise ConfigError(f'button "{part}": the loop reads buttons and may hang: STOP is on the keys and the page')
        found[name] = Event(event)
    return found


def stop_all(address: str, reason: str, keys: ClientKeys | None = None) -> None:
    """STOP every robot of LEFT,RIGHT, from any thread. Raises RobotError where it is not certain that one stops."""
    problems = []
    for where in address.split(","):
        try:
            send_stop(where, reason, keys)
        except RobotError as error:
            problems.append(str(error))
    if problems:
        raise RobotError("; ".join(problems))
