"""The ``serl`` command: ``serl COMMAND [options]``; each command's options are its module's ``Config``."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import tyro

from robot_servers.interface import RobotError, nearest
from serl_core.checkpoint import CheckpointError
from serl_core.config import ConfigError
from serl_core.data.episodes import StoreError
from serl_core.priority import standing_in_front
from serl_core.processes import ChildFailed
from serl_core.transport import LinkError

# A command is a module with a dataclass `Config` and a function `main(config) -> exit status`. It is
# imported only when called: the robot's computer has no jax, and help should not wait for it.
COMMANDS = {
    "demo": "serl_core.demo",
    "server": "serl_core.serve",
    "teach": "serl_core.teach",
    "teleop": "serl_core.devices",
    "record": "serl_core.record",
    "learner": "serl_core.learner",
    "actor": "serl_core.actor",
    "eval": "serl_core.evaluate",
    "label": "serl_core.label",
    "bench": "serl_core.bench",
    "classifier": "serl_core.classifier",
    "stop": "serl_core.stop",
    "recover": "serl_core.recover",
    "keys": "serl_core.keys",
}
EXPLANATIONS = {
    "demo": "the whole loop on a simulated arm: record, train with interventions, evaluate",
    "server": "serve a robot, real or simulated, behind its safety guard",
    "teach": "show a task at the arm and get its task file",
    "teleop": "try an input device, or list those that are connected",
    "record": "record demonstrations",
    "learner": "learn from demonstrations and from what actors send",
    "actor": "drive the robot with the newest policy and stream what happens",
    "eval": "measure the success rate of the newest checkpoint",
    "bench": "how fast this machine learns and acts, and what limits it",
    "label": "say how an episode really ended, or list the episodes",
    "classifier": "train a classifier of success on recorded episodes, measure it, look at its mistakes",
    "stop": "STOP a robot from anywhere, whoever owns it",
    "recover": "say that it is safe to go on after a STOP or a fault",
    "keys": "make the keys for servers that other machines reach",
}

MOVE = ("server", "teach", "record", "actor", "eval", "stop", "recover")  # an arm: nobody waits for a learner there


def usage() -> str:
    """The text of ``serl --help``."""
    lines = [f"  {name:<10} {text}" for name, text in EXPLANATIONS.items()]
    return "\n".join(["usage: serl COMMAND [options]", "", *lines, "", "serl COMMAND --help explains its options."])


def one_line(box: str, known_options: Sequence[str]) -> str:
    """The parser's explanation of a bad command line in one line, with the nearest valid option."""
    text = " ".join(re.sub(r"[│╭╮╰╯─]+", " ", line).strip() for line in box.splitlines()).strip()
    unknown = re.search(r"Unrecognized options: (\S+?)(,|\s|$)", text)
    if unknown:
        option = unknown.group(1)
        return f"unknown option {option}{nearest(option, known_options)}"
    text = re.sub(r" *For full helptext.*$", "", text)
    missing = re.search(r"Missing from [^:]*: +(.*?) *\(required\)", text)
    if missing:
        return f"missing {missing.group(1)}"
    error = re.search(r"(Error parsing .*?|invalid choice.*?|Missing value .*?)(?: Argument helptext|$)", text)
    return error.group(1).strip() if error else text


def parse(name: str, config: type[Any], arguments: Sequence[str]) -> Any:
    """An instance of ``config`` from the command line. Raises `ConfigError` in one line; exits for --help."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config, args=arguments, prog=f"serl {name}")
    except SystemExit as stop:
        if not stop.code:
            raise
        options = [f"--{field.name.replace('_', '-')}" for field in fields(config)]
        raise ConfigError(one_line(complaint.getvalue(), options)) from None


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(f'unknown command "{name}"{nearest(name, COMMANDS)}')
    if name in MOVE:
        standing_in_front()
    module = importlib.import_module(COMMANDS[name])
    return module.main(parse(name, module.Config, rest))


def main() -> None:
    """Entry point: what a user can mend is one line, without a traceback."""
    # Learner, actor and evaluation may share a GPU: without this the first one claims three quarters of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        sys.exit(run(sys.argv[1:]))
    except (ConfigError, RobotError, ChildFailed, LinkError, StoreError, CheckpointError, FloatingPointError) as error:
        print(f"serl: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("serl: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
