"""Facts that people write down in JSON files: limits of a workspace, tools."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

from robot_servers.interface import Limits, RobotError, Tool, nearest
from robot_servers.wire import WireError, from_tree, to_tree

T = TypeVar("T", Limits, Tool)


def read(kind: type[T], path: Path) -> T:
    """A ``kind`` from a JSON object with the names of its fields; what is left out keeps its default.

    Raises `RobotError` naming the file and the field for whatever does not fit.
    """
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RobotError(f"cannot read {path}: {error}") from error
    if not isinstance(given, dict):
        raise RobotError(f'{path}: expected an object, e.g. {{"{dataclasses.fields(kind)[0].name}": …}}')
    known = {item.name: item.default for item in dataclasses.fields(kind)}
    for name in given:
        if name not in known:
            raise RobotError(f'{path}: unknown field "{name}"{nearest(name, known)}')
    for name, default in known.items():
        if name not in given and default is dataclasses.MISSING:
            raise RobotError(f"{path}: the field {name} is missing, and only you know it")
    values = {name: to_tree(default) for name, default in known.items() if default is not dataclasses.MISSING}
    try:
        return from_tree(kind, {"kind": kind.__name__, **values, **given})
    except WireError as error:
        raise RobotError(f"{path}: {error}") from error
