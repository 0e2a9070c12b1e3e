"""Where SERL's routes are served and in which dialect: as a value, and on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import get_args

from robot_servers.serl_dialect import DEFAULT_PORT, Dialect, GripperKind, GripperNumbers


@dataclass(frozen=True)
class HttpOptions:
    """``host`` and ``port`` (0: a free one) to listen on, and whose numbers the gripper has."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    insecure: bool = False
    gripper: GripperNumbers = field(default_factory=GripperNumbers)


def add_http_options(parser: argparse.ArgumentParser) -> None:
    """The options of the HTTP face."""
    port = f"serve SERL's HTTP routes there, e.g. {DEFAULT_PORT}; 0 takes a free one"
    parser.add_argument("--http-port", type=int, help=f"{port}; closed unless given")
    parser.add_argument("--http-host", default="127.0.0.1", help="address for them; others than loopback: --insecure")
    dialect = "gripper numbers of these routes, or of the server behind the robot serl_http"
    parser.add_argument("--http-dialect", choices=get_args(Dialect), default="hil-serl", help=dialect)
    kind = "what /move_gripper 255 means: closed (robotiq) or open (hand)"
    parser.add_argument("--http-gripper", choices=get_args(GripperKind), default="robotiq", help=kind)


def http_options(port: int | None, host: str, insecure: bool, gripper: GripperNumbers) -> HttpOptions | None:
    """The options of the face, or None where no port was given: then it stays closed."""
    return None if port is None else HttpOptions(host, port, insecure, gripper)
