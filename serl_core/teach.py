"""``serl teach``: show a task at the arm, by hand or by typed steps, and get its task file."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.client import RobotClient
from robot_servers.interface import Robot, RobotError
from robot_servers.keys import load_client_keys
from serl_core.config import ConfigError
from serl_core.pairs import AnyTask
from serl_core.taskfile import Notebook, source, workspace
from serl_core.tasks import load_task
from serl_core.teacher import Ask, Say, Teacher

HEARTBEAT = 0.25  # s; the lease of a silent owner ends after one second


@dataclass(frozen=True)
class Config:
    """Define a task at the robot: lead the arm by hand, or type steps, and get a task file."""

    task: Annotated[str, tyro.conf.Positional]  # its name, for tasks/NAME.py, or the path of the file to write
    robot: str = "tcp://127.0.0.1:5555"  # address of the robot server
    keys: Path | None = None  # folder of this machine's keys, for a robot on another one; see serl keys
    jog: bool = False  # move the arm by typed steps only; it never goes limp
    resume: bool = False  # go on where an earlier call was stopped
    force: bool = False  # begin anew, and replace a task file that exists


def main(config: Config, ask: Ask = input, say: Say = print) -> int:
    """Teach one task. What was answered is kept when it is stopped."""
    path = task_path(config.task)
    notebook = open_notebook(path, resume=config.resume, force=config.force)
    keys = load_client_keys(config.keys) if config.keys else None
    with RobotClient(config.robot, keys=keys) as robot:
        try:
            teach(robot, path, notebook, ask, say, by_hand=not config.jog, force=config.force)
        except (KeyboardInterrupt, EOFError):
            say(f"\nstopped; {notebook.path} keeps what was taught: go on with serl teach {config.task} --resume")
            return 130
    say(f"{path} is written; start the server with --task {path}, then: serl record --task {path} --out …")
    return 0


def task_path(name: str) -> Path:
    """Where the task goes. Raises `ConfigError` for a name that no module can have."""
    path = Path(name) if name.endswith(".py") else Path("tasks") / f"{name}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", path.stem):
        raise ConfigError(f'task "{path.stem}": a name is a small letter, then small letters, digits and _')
    return path


def open_notebook(path: Path, *, resume: bool, force: bool) -> Notebook:
    """The answers so far. Raises `ConfigError` where something would be lost."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already: choose another name, or replace it with --force")
    kept = path.with_suffix(".teach.json")
    if resume:
        if not kept.exists():
            raise ConfigError(f"{kept} does not exist: there is nothing to resume")
        return Notebook.read(kept)
    if kept.exists() and not force:
        raise ConfigError(f"{kept} keeps what was taught before: go on with --resume, or begin anew with --force")
    return Notebook(kept)


def teach(
    robot: Robot, path: Path, notebook: Notebook, ask: Ask, say: Say, *, by_hand: bool = True, force: bool = False
) -> AnyTask:
    """Ask for everything that ``notebook`` lacks, write the task file at ``path`` and return its task.

    ``robot`` is connected; ``by_hand`` lets a person lead it where that is possible. Raises `RobotError` if the
    robot is lost, and `ConfigError` if the file has come into being meanwhile.
    """
    with owned(robot):
        teacher = Teacher(robot, notebook, ask, say, by_hand=by_hand and not robot.metadata.scene)
        try:
            lesson = teacher.lesson(path)
        finally:
            teacher.let_go()
        robot.tighten(workspace(lesson, robot.metadata.limits))  # the robot itself says whether it would do
        return write_task(path, source(lesson, robot.metadata.limits), force)


@contextlib.contextmanager
def owned(robot: Robot) -> Iterator[None]:
    """Own the robot, also while a person thinks: a thread keeps the lease alive."""
    robot.tighten(robot.metadata.limits)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with contextlib.suppress(RobotError):  # the next call of the main thread says it where it can be read
                robot.status()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write_task(path: Path, text: str, force: bool) -> AnyTask:
    """Write a task file that loads, all of it or nothing. Raises `ConfigError` rather than replace one unasked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new.py")
    new.write_text(text)
    try:
        task = load_task(str(new))
        if force:
            new.replace(path)
        else:
            os.link(new, path)  # unlike a renaming, it fails where something is
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already: replace it with --resume --force") from error
    finally:
        new.unlink(missing_ok=True)
    return task
