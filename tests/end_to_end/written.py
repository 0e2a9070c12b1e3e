"""Commands as the documents write them: taken out of the Markdown, and parsed as the programs would."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from robot_servers.__main__ import DRIVERS
from robot_servers.cameras.spec import parse_cameras
from robot_servers.real import ARMS
from robot_servers.scenes import load_scene
from serl_core import cli, serve
from serl_core.tasks import load_task

ROOT = Path(__file__).resolve().parents[2]


def blocks(text: str) -> list[str]:
    """What stands in ``sh`` fences: to be typed as it is."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(text: str) -> list[list[str]]:
    """The words of every command in these blocks; a backslash goes on in the next line."""
    joined = "".join(blocks(text)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in joined.splitlines() if line.strip()]


def inline(text: str) -> list[list[str]]:
    """The words behind ``serl`` of commands within sentences, which leave out what every call needs."""
    return [shlex.split(command)[1:] for command in re.findall(r"`(serl [^`…]*)`", text)]


def known_options(name: str) -> set[str]:
    """Of a ``serl`` command, those of its groups included."""
    return {"--help", *_options(importlib.import_module(cli.COMMANDS[name]).Config, "--")}


def _options(config: Any, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(config).items():
        option = prefix + name.replace("_", "-")
        yield from _options(kind, f"{option}.") if is_dataclass(kind) else [option]


def check(name: str, *options: str) -> None:
    """Parse a ``serl`` command as the program would, and look up what it names."""
    module = importlib.import_module(cli.COMMANDS[name])
    if "--help" in options:
        with pytest.raises(SystemExit, match="0"):
            cli.parse(name, module.Config, options)
        return
    config = cli.parse(name, module.Config, options)
    if isinstance(config, serve.Config):
        assert config.robot in {*DRIVERS, *ARMS}
        parse_cameras(config.camera)
        load_scene(config.scene)
    elif "task" in vars(config) and name != "teach":  # which makes one
        load_task(config.task)
