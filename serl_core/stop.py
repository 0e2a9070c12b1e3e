"""``serl stop``: STOP a robot, from any machine that reaches its server, whoever owns it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.interface import RobotError
from robot_servers.keys import load_client_keys
from robot_servers.stop import send_stop


@dataclass(frozen=True)
class Config:
    """Stop a robot: damped, then its controller off. Not safety-rated: keep the hardware stop in reach."""

    address: Annotated[str, tyro.conf.Positional]  # of the robot server, e.g. tcp://127.0.0.1:5555; or LEFT,RIGHT
    reason: str = "serl stop"  # shown to everyone until somebody recovers the robot
    keys: Path | None = None  # folder of this machine's keys, for a server that demands them


def main(config: Config) -> int:
    """Stop it, or say that it is not certain. Of several, one that does not answer keeps no other from stopping."""
    keys, problems = load_client_keys(config.keys) if config.keys else None, []
    for address in config.address.split(","):
        try:
            send_stop(address, config.reason, keys)
        except RobotError as error:
            problems.append(str(error))
    if problems:
        raise RobotError("; ".join(problems))
    print(f"stopped; when it is safe to go on: serl recover {config.address}")
    return 0
