"""``serl recover``: a person at the arm says that it is safe to go on after a STOP, a user stop, a fault or a hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.client import RobotClient
from robot_servers.interface import RobotError
from robot_servers.keys import load_client_keys

WORD = "recover"


@dataclass(frozen=True)
class Config:
    """End a STOP, a user stop, a fault or a hold: the arm stays where it is, and starts softly with the next reset."""

    address: Annotated[str, tyro.conf.Positional]  # of the robot server, e.g. tcp://127.0.0.1:5555; or LEFT,RIGHT
    yes: bool = False  # do not ask: you have looked at the arm
    keys: Path | None = None  # folder of this machine's keys, for a server that demands them


def main(config: Config) -> int:
    """Show what stopped it, ask, and recover; several robots one after the other, until one is refused."""
    return 0 if all(recovered(config, address) for address in config.address.split(",")) else 1


def recovered(config: Config, address: str) -> bool:
    """Whether the robot at ``address`` was brought back."""
    with RobotClient(address, keys=load_client_keys(config.keys) if config.keys else None) as robot:
        status = robot.status()
        print(f"{robot.metadata.robot} is {status.mode}{': ' + status.reason if status.reason else ''}")
        if status.health.gripper:
            print(f"its gripper: {status.health.gripper}")
        if not config.yes and not confirmed():
            print("nothing was changed")
            return False
        robot.recover()
        print(f"now {robot.status().mode}")
    return True


def confirmed() -> bool:
    """Whether a person typed the word. Raises `RobotError` where nobody can."""
    try:
        return input(f'Is everybody clear of the arm, and is it safe to go on? Type "{WORD}": ').strip() == WORD
    except EOFError:
        raise RobotError("nobody is here to confirm: say --yes if somebody has looked at the arm") from None
