"""The conversation of ``serl teach``: questions to a person at the arm, each answer kept at once."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_servers.cameras.spec import parse_camera
from robot_servers.interface import Image, Robot, RobotError, RobotState
from robot_servers.limits import outside
from serl_core.clock import Clock, LockstepClock, RealtimeClock
from serl_core.config import ConfigError, Task
from serl_core.jog import HELP, PERIOD, Jogger, parse_jog
from serl_core.taskfile import TURNS, Lesson, Notebook, Taught, largest_tilt, workspace

Ask = Callable[[str], str]
Say = Callable[[str], None]
Check = Callable[[str], str]  # what is kept of a line; raises ConfigError, RobotError or ValueError if it cannot be
FEWEST = 2  # corners
WORDS = "lead makes the arm limp again, recover ends a hold, a stop or a fault"


class Teacher:
    """The conversation: one method per kind of question, each answer kept at once."""

    def __init__(self, robot: Robot, notebook: Notebook, ask: Ask, say: Say, *, by_hand: bool) -> None:
        self._robot = robot
        self._notebook = notebook
        self._ask = ask
        self._say = say
        self._by_hand = by_hand
        self._limp = False  # as far as this side knows
        self._warned = False
        self._clock = _clock(robot)
        self._jogger = Jogger(robot, self._clock)

    def lesson(self, path: Path) -> Lesson:
        """All of it, what is in the notebook unasked."""
        metadata = self._robot.metadata
        known = len(self._notebook.answers)
        if known:
            self._say(f"{known} answers are known from before")
        about = self._text("about", "What is to be done, in one sentence? ", _not_empty)
        gripper = self._yes("gripper", "Does the policy open and close the gripper? [y/n] ")
        self._say("Every pose: Enter takes it, ? says how to move the arm.")
        start = self._pose("start", "Start pose, with the gripper as episodes begin: ")
        grasp = self._pose("grasp", "Grasp pose, or skip: ", optional=True)
        target = self._pose("target", "Target pose, where the task is done: ")
        assert start is not None and target is not None  # only what is optional can be skipped
        if float(np.linalg.norm(np.subtract(start.pose, target.pose)[:3])) <= Task.goal_distance:
            self._say("beware: the target is where episodes begin, so that each would end at once")
        lesson = Lesson(path.stem, about, metadata.robot, metadata.scene, start, target, (), grasp, gripper)
        lesson = self._corners(lesson)
        self.let_go()
        tilted = largest_tilt(lesson.poses, np.array(start.pose[3:])) > TURNS
        return replace(
            lesson,
            turns=tilted and self._yes("turns", "The taught poses are tilted: does the policy turn the hand? [y/n] "),
            seconds=self._number("seconds", "How many seconds may an episode last? [10] ", 10.0),
            cameras=self._cameras(path),
        )

    def let_go(self) -> None:
        """The arm is stiff again, where it is."""
        if self._limp:
            self._limp = False
            with contextlib.suppress(RobotError):  # the server ended it already, or ends it with the lease
                self._robot.guide(False)

    # ── words ──

    def _text(self, key: str, question: str, check: Check = str) -> str:
        """A line, asked again until ``check`` lets it pass; ``check`` returns what is kept, or raises."""
        while key not in self._notebook.answers:
            try:
                self._notebook.write(key, check(" ".join(self._ask(question).split())))
            except (ConfigError, RobotError, ValueError) as error:
                self._say(f"{error}")
        return self._notebook.answers[key]

    def _yes(self, key: str, question: str) -> bool:
        def check(text: str) -> str:
            if text.lower() not in ("y", "yes", "n", "no"):
                raise ConfigError("y or n?")
            return text[0].lower()

        return self._text(key, question, check) == "y"

    def _number(self, key: str, question: str, default: float) -> float:
        def check(text: str) -> str:
            value = float(text or default)
            if not 0.5 <= value <= 600.0:
                raise ConfigError(f"{value:g} must lie between 0.5 and 600")
            return str(value)

        return float(self._text(key, question, check))

    # ── poses ──

    def _pose(self, key: str, question: str, *, optional: bool = False) -> Taught | None:
        if key not in self._notebook.answers:
            taught = self._shown(question, ("skip",) if optional else ())
            self._notebook.write(key, None if isinstance(taught, str) else asdict(taught))
        return _taught(self._notebook.answers[key])

    def _corners(self, lesson: Lesson) -> Lesson:
        """The corners of the workspace, each kept at once."""
        corners = list(self._notebook.answers.get("corners", []))
        while not self._notebook.answers.get("boxed"):
            question = f"Corner {len(corners) + 1} of the workspace, undo the last, or done: "
            shown = self._shown(question, ("done", "undo"))
            if shown == "done":
                self._close_box(replace(lesson, corners=_all_taught(corners)))
                continue
            corners = corners[:-1] if isinstance(shown, str) else [*corners, asdict(shown)]
            self._notebook.write("corners", corners)
        return replace(lesson, corners=_all_taught(corners))

    def _close_box(self, lesson: Lesson) -> None:
        if len(lesson.corners) < FEWEST:
            self._say(f"show at least {FEWEST} corners, e.g. the lowest one and the one opposite of it")
            return
        try:
            limits = workspace(lesson, self._robot.metadata.limits)
        except ConfigError as error:
            self._say(f"{error}")
            return
        self._say(f"the workspace: {limits.box_low} to {limits.box_high} m, tilt up to {limits.tilt:.2f} rad")
        self._notebook.write("boxed", True)

    def _shown(self, question: str, words: tuple[str, ...]) -> Taught | str:
        """The pose at which a person presses Enter, or one of ``words``. Typed steps move the arm meanwhile."""
        self._make_limp()
        while True:
            text = self._ask(question).strip().lower()
            if text in words:
                return text
            try:
                if not text:
                    return self._take()
                self._move(text)
            except (ConfigError, RobotError) as error:
                self._say(f"{error}")

    def _move(self, text: str) -> None:
        """What was typed instead of Enter. Raises `ConfigError` if it means nothing, `RobotError` if it cannot be."""
        match text:
            case "?":
                self._say(f"{HELP}; {WORDS}")
            case "lead":
                self._by_hand = True
                self._make_limp()
            case "recover":
                self._recover()
            case _:
                self._jog(text)

    def _jog(self, text: str) -> None:
        jog = parse_jog(text)
        self.let_go()
        short = self._jogger.move(jog)
        self._say(where(self._robot.state()) + (f"; {short}" if short else ""))

    def _recover(self) -> None:
        self._robot.recover()
        self._robot.reset(())  # moves nothing, and ends a hold that somebody asked for
        self._pause()

    def _pause(self) -> None:
        """Let the cycle of the robot do what was just asked of it."""
        self._clock.start()
        self._clock.tick()

    def _take(self) -> Taught:
        """The present pose. Raises `ConfigError` naming each limit of the robot that it breaks."""
        state = self._robot.state()
        broken = limits_broken(state, self._robot)
        if broken:
            raise ConfigError(
                f"this pose lies outside the robot's limits: {'; '.join(broken)}; move the arm, then Enter"
            )
        self._say(where(state))
        return Taught(tuple(np.round(state.pose, 6).tolist()), round(state.gripper, 2))

    def _make_limp(self) -> None:
        """If it may and does not yet; says why where it cannot."""
        if not self._by_hand or (self._limp and self._robot.status().mode == "guiding"):
            return
        if not self._warned:
            self._ask("Take hold of the arm: with Enter it goes limp. ")
            self._warned = True
        try:
            self._robot.guide(True)
            self._limp = True
            self._pause()
        except RobotError as error:
            self._by_hand = False
            self._say(f"the arm cannot be led by hand ({error}); {HELP}")

    # ── cameras ──

    def _cameras(self, path: Path) -> dict[str, str]:
        """Name → what the server is to be started with, for each camera that the policy sees with."""
        used = {}
        for name in self._robot.metadata.cameras:
            if self._yes(f"camera {name}", f"Does the policy see with the camera {name}? [y/n] "):
                used[name] = self._camera(name, path)
        return used

    def _camera(self, name: str, path: Path) -> str:
        if f"camera {name} device" not in self._notebook.answers:
            self._show_picture(name, path)

        def setting(key: str, question: str) -> str:
            def check(text: str) -> str:
                if text:
                    parse_camera(f"{name}=opencv:0,{key}={text}")
                return text and f",{key}={text}"

            return self._text(f"camera {name} {key}", question, check)

        def device(text: str) -> str:
            if text:
                parse_camera(f"{name}={text}")
            return text

        found = self._text(
            f"camera {name} device", "Which device? e.g. realsense:130322270001; Enter: simulated ", device
        )
        if not found:
            return name
        crop = setting("crop", "Crop x:y:width:height, in pixels of the device's picture; Enter: all of it ")
        exposure = setting("exposure", "Exposure to lock, in the device's unit; Enter: not locked ")
        balance = setting("white_balance", "White balance to lock, in K; Enter: not locked ")
        return f"{name}={found}{crop}{exposure}{balance}"

    def _show_picture(self, name: str, path: Path) -> None:
        frame = self._robot.frames().get(name)
        if frame is None:
            self._say(f"the camera {name} delivers no picture now")
            return
        file = path.with_suffix(f".{name}.png")
        write_png(file, frame.image)
        height, width, _ = frame.image.shape
        self._say(f"{file} is what the camera {name} delivers now, {width}x{height} pixels")


def limits_broken(state: RobotState, robot: Robot) -> list[str]:
    """Every limit of the robot's own that the measured pose breaks, with value and bound."""
    metadata = robot.metadata
    bends = outside(state.pose, metadata.limits)
    broken = [f"{bend.limit} is {bend.value:.3f}, limit {bend.bound:.3f}" for bend in bends]
    limits = metadata.joint_limits
    for joint, (q, low, high) in enumerate(zip(state.q.tolist(), limits.low, limits.high, strict=True), 1):
        if not low <= q <= high:
            broken.append(f"joint {joint} is {q:.3f} rad, limits {low:.3f} to {high:.3f}")
    return broken


def where(state: RobotState) -> str:
    """The pose in a line for people."""
    x, y, z = (state.pose[:3] * 1000.0).tolist()
    push = float(np.linalg.norm(state.force))
    return f"x {x:.1f}  y {y:.1f}  z {z:.1f} mm, gripper {state.gripper:.2f}, {push:.0f} N"


def _not_empty(text: str) -> str:
    if not text:
        raise ConfigError("a few words will do")
    return text


def _clock(robot: Robot) -> Clock:
    return LockstepClock(PERIOD, robot.advance) if robot.metadata.clock == "lockstep" else RealtimeClock(PERIOD)


def _taught(answer: Any) -> Taught | None:
    return None if answer is None else Taught(tuple(answer["pose"]), answer["gripper"])


def _all_taught(answers: list[Any]) -> tuple[Taught, ...]:
    return tuple(taught for taught in map(_taught, answers) if taught is not None)


def write_png(path: Path, image: Image) -> None:
    """``image`` (H, W, 3) uint8 RGB as a PNG (ISO/IEC 15948, 8 bits, no filter), which every viewer opens."""
    height, width, _ = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, width * 3)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )
