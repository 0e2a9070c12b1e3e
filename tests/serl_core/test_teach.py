"""Teaching a task: a script plays the person, on arms without physics, on the simulated arm and on a served one."""

from __future__ import annotations

import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_servers.drivers.fake import FakeDriver
from robot_servers.geometry import quat_mul, rotvec_to_quat
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Array, RobotError
from robot_servers.limits import tightened
from serl_core.clock import LockstepClock
from serl_core.config import ConfigError, Task
from serl_core.envs.robot_env import RobotEnv
from serl_core.jog import Jogger, parse_jog
from serl_core.processes import Child, children, serl
from serl_core.session import connected, make_env
from serl_core.taskfile import Lesson, Notebook, Taught, source, workspace
from serl_core.tasks import load_task
from serl_core.teach import open_notebook, owned, task_path, teach
from serl_core.teacher import write_png

HOME = np.array([0.5, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
JOGGED = [  # what a person types to teach a task without leading the arm
    *("Reach the corner.", "n", "", "skip", "x+20 y-10", ""),
    *("x-50 y-50 z-40", "", "x+120 y+110 z+80", "", "done", "5"),
]


class Stopped(BaseException):
    """In the place of Ctrl-C, which would end the tests."""


class Person:
    """Answers in the order given; a callable answer acts on the arm and then presses Enter."""

    def __init__(self, answers: list[str | Callable[[], None]], arm: GuardedRobot | None = None) -> None:
        self._answers = list(answers)
        self._arm = arm
        self.heard: list[str] = []

    def ask(self, question: str) -> str:
        self.heard.append(question)
        if not self._answers:
            raise Stopped
        answer = self._answers.pop(0)
        if isinstance(answer, str):
            return answer
        answer()
        return ""

    def say(self, text: str) -> None:
        self.heard.append(text)

    def was_told(self, words: str) -> bool:
        return any(words in text for text in self.heard)


class Hands:
    """Leads a fake arm: sets its pose as a person's hand would, and lets it be measured."""

    def __init__(self, driver: FakeDriver, robot: GuardedRobot) -> None:
        self._driver = driver
        self._robot = robot

    def to(self, *position: float, tilt: float = 0.0) -> Callable[[], None]:
        """Leads it there, but only if it is limp."""

        def push() -> None:
            assert self._driver.guided and self._robot.status().mode == "guiding"
            orientation = quat_mul(HOME[3:], rotvec_to_quat(np.array([tilt, 0.0, 0.0])))
            pose = np.array([*position, *orientation])
            self._driver._state = replace(self._driver.state(), pose=pose)
            self._robot.advance(0.02)

        return push


@pytest.fixture
def fake():
    driver = FakeDriver(cameras=("front",))
    robot = GuardedRobot(driver)
    robot.connect()
    robot.advance(2.0)  # the soft start is over
    yield driver, robot
    robot.close()


def taught(robot: GuardedRobot, tmp_path: Path, person: Person, **options) -> Task:
    path = tmp_path / "plug.py"
    return teach(robot, path, Notebook(path.with_suffix(".teach.json")), person.ask, person.say, **options)


def one_step(robot, task: Task) -> tuple[Array, Array]:
    """Start pose and target of the first step of an episode, without any ground truth."""
    env = RobotEnv(robot, task, LockstepClock(1.0 / task.control_hz, robot.advance), "state")
    _, info = env.reset(seed=1)
    start = info["state"].pose
    *_, info = env.step(np.array([1.0, *[0.0] * (task.action_dim - 1)], np.float32))
    assert "abort" not in info
    return start, info["target"]


def test_a_task_taught_by_hand_runs(fake, tmp_path):
    """Guards the whole way from a led arm to an episode: poses, box, tilt, gripper, settings of a camera."""
    driver, robot = fake
    hands = Hands(driver, robot)
    person = Person(
        [
            *("Put the plug\tinto the socket. ", "maybe", "y", ""),
            *(hands.to(0.5, 0.0, 0.3), hands.to(0.45, 0.05, 0.2), hands.to(0.55, -0.02, 0.15, tilt=0.2)),
            *(hands.to(0.4, -0.1, 0.14), hands.to(0.6, 0.1, 0.35), "done", "y", "12", "y"),
            *("realsense:7", "1:2:3", "1:2:30:40", "8000", ""),
        ]
    )
    task = taught(robot, tmp_path, person)
    limits = task.limits
    np.testing.assert_allclose(task.start.pose, HOME, atol=1e-6)
    np.testing.assert_allclose(limits.box_low, (0.39, -0.11, 0.14), atol=1e-3)  # no margin towards the table
    np.testing.assert_allclose(limits.box_high, (0.61, 0.11, 0.36), atol=1e-3)
    assert limits.tilt == pytest.approx(0.3, abs=1e-3)
    assert task.goals is not None
    np.testing.assert_allclose(task.goals(np.random.default_rng(0))[:3], (0.55, -0.02, 0.15), atol=1e-6)
    assert (task.max_steps, task.gripper, len(task.axes), task.cameras) == (120, True, 6, ("front",))
    text = (tmp_path / "plug.py").read_text()
    assert '"front=realsense:7,crop=1:2:30:40,exposure=8000",' in text and "GRASP = (0.45, 0.05, 0.2" in text
    assert text.startswith('"""Put the plug into the socket.\n')
    assert person.was_told("y or n?") and person.was_told('crop="1:2:3" is not x:y:width:height')
    robot.advance(0.02)
    assert not driver.guided and robot.status().mode == "holding"
    start, target = one_step(robot, task)
    assert np.all(start[:3] >= limits.box_low) and np.linalg.norm(target[:3] - start[:3]) > 0.005


def test_poses_and_corners_that_cannot_be_are_asked_for_again(fake, tmp_path):
    """Guards against a task outside of the robot's limits, which would only be refused later, and a flat box."""
    driver, robot = fake
    hands = Hands(driver, robot)
    person = Person(
        [
            *(
                "",
                "Plug.",
                "n",
                "",
                hands.to(0.5, 0.0, 0.01),
                hands.to(0.5, 0.0, 0.3, tilt=1.4),
                hands.to(0.5, 0.0, 0.3),
            ),
            *("skip", hands.to(0.5, 0.0, 0.3), hands.to(0.4, -0.1, 0.3), "done", hands.to(0.6, 0.1, 0.301), "done"),
            *(hands.to(0.7, 0.1, 0.4), "undo", hands.to(0.6, 0.1, 0.2), "done", "", "n"),
        ]
    )
    task = taught(robot, tmp_path, person)
    assert person.was_told("box z is 0.010, limit 0.020") and person.was_told("tilt is 1.400, limit 1.200")
    assert (
        person.was_told("the target is where episodes begin")
        and person.was_told("at least 2 corners")
        and person.was_told("they span along z only 1 mm")
    )
    np.testing.assert_allclose(task.limits.box_high, (0.61, 0.11, 0.311), atol=1e-3)
    assert task.axes == ("x", "y", "z") and task.max_steps == 100 and task.cameras == ()


def test_an_arm_that_cannot_be_led_is_moved_by_typed_steps(fake, tmp_path, monkeypatch):
    """Guards against a dead end on arms without guiding."""
    _, robot = fake

    def refuse(on: bool) -> None:
        raise RobotError("this arm has no such mode")

    monkeypatch.setattr(robot, "guide", refuse)
    person = Person([*JOGGED[:2], "", *JOGGED[2:], "n"])
    taught(robot, tmp_path, person)
    assert person.was_told("cannot be led by hand (this arm has no such mode)")


def test_typed_steps_are_what_they_say(fake):
    """Guards millimetres, degrees, signs and frames of typed steps, and drift: ten steps are ten steps."""
    _, robot = fake
    jogger = Jogger(robot, LockstepClock(0.1, robot.advance))
    before = robot.state().pose
    for _ in range(10):
        assert jogger.move(parse_jog("x+5 y-2.5")) == ""
    np.testing.assert_allclose(robot.state().pose[:3] - before[:3], (0.05, -0.025, 0.0), atol=1e-3)
    jogger.move(parse_jog("rz+30 g0.5"))
    turned = quat_mul(rotvec_to_quat(np.array([0.0, 0.0, np.pi / 6])), before[3:])
    assert abs(float(turned @ robot.state().pose[3:])) == pytest.approx(1.0, abs=1e-4)
    assert robot.state().gripper == pytest.approx(0.5)
    assert "stopped by step" not in jogger.move(parse_jog("z+200")) and robot.state().pose[2] > 0.49
    assert "box z (limit 0.600)" in jogger.move(parse_jog("z+200"))
    with pytest.raises(ConfigError, match='"x5" is not understood; typed steps'):
        parse_jog("x5")


def test_a_blocked_arm_is_said_to_be(fake):
    """Guards against a person who believes that the arm is where they sent it."""
    driver, robot = fake
    driver.blocked = True
    assert "20 mm short" in Jogger(robot, LockstepClock(0.1, robot.advance)).move(parse_jog("x+20"))


def test_nothing_that_was_shown_is_lost(fake, tmp_path):
    """Guards an hour at the arm: stopped anywhere, it goes on with the next question, and replaces nothing unasked."""
    _, robot = fake
    path, answers = tmp_path / "plug.py", [*JOGGED, "n"]
    for given, answer in enumerate(answers[:-1]):
        person = Person([answer])
        notebook = open_notebook(path, resume=given > 0, force=False)
        with pytest.raises(Stopped):
            teach(robot, path, notebook, person.ask, person.say, by_hand=False)
    with pytest.raises(ConfigError, match=r"plug.teach.json keeps what was taught before: go on with --resume"):
        open_notebook(path, resume=False, force=False)
    assert not path.exists()
    last = Person(answers[-1:])
    teach(robot, path, open_notebook(path, resume=True, force=False), last.ask, last.say, by_hand=False)
    written = path.read_text()
    with pytest.raises(ConfigError, match="exists already"):
        open_notebook(path, resume=True, force=False)
    notebook = open_notebook(path, resume=True, force=True)
    with pytest.raises(ConfigError, match="exists already"):
        teach(robot, path, notebook, last.ask, last.say, by_hand=False)
    assert path.read_text() == written and [*tmp_path.glob("*.py")] == [path]


def test_the_robot_stays_owned_while_a_person_thinks(fake, monkeypatch):
    """Guards against an arm that is taken away, and stiffens, in the hands of a silent person."""
    _, robot = fake
    heard = threading.Semaphore(0)

    def answer():
        heard.release()
        raise RobotError("one answer that gets lost")

    monkeypatch.setattr(robot, "status", answer)
    with owned(robot):
        assert all(heard.acquire(timeout=30.0) for _ in range(3))
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_file_that_is_no_notebook_is_said_to_be(tmp_path):
    """Guards against a traceback, and against lessons that begin with half of another."""
    (kept := tmp_path / "plug.teach.json").write_text("[1")
    with pytest.raises(ConfigError, match="start afresh with --force"):
        open_notebook(tmp_path / "plug.py", resume=True, force=False)
    kept.unlink()
    with pytest.raises(ConfigError, match="nothing to resume"):
        open_notebook(tmp_path / "plug.py", resume=True, force=False)
    with pytest.raises(ConfigError, match="small letters, digits and _"):
        task_path("Plug in")
    assert (task_path("plug"), task_path("lab/plug.py")) == (Path("tasks/plug.py"), Path("lab/plug.py"))


def lesson(*positions: tuple[float, float, float], tilt: float = 0.0) -> Lesson:
    shown = [Taught((*position, *HOME[3:].tolist()), 1.0) for position in positions]
    tilted = quat_mul(HOME[3:], rotvec_to_quat(np.array([tilt, 0.0, 0.0])))
    target = Taught((*positions[0], *tilted.tolist()), 1.0)
    return Lesson("plug", "Plug.", "fake", "", shown[0], target, tuple(shown[1:]))


def test_the_workspace_never_reaches_beyond_the_robot():
    """Guards the first minute with a taught task: a robot refuses limits that are looser than its own."""
    own = FakeDriver().limits
    tight = replace(own, step=0.01, turn=0.1, speed=0.05, tilt=0.5)
    for limits in (own, tight):
        for tilt in (0.0, 0.3, 0.499):
            found = workspace(lesson((0.26, -0.39, 0.025), (0.74, 0.39, 0.599), tilt=tilt), limits)
            assert tightened(limits, found) == found
            text = source(lesson((0.26, -0.39, 0.025), (0.74, 0.39, 0.599), tilt=tilt), limits)
            assert ("step_translation=0.0057" in text) is (limits is tight)


def test_no_answer_becomes_code(tmp_path):
    """Guards the machine that runs a task file: what a person typed, or a server called itself, stays a text."""
    sly = """'\\" + 1/0 # \"\"\"\n1/0\n\"\"\" """
    shown = lesson((0.4, -0.1, 0.2), (0.6, 0.1, 0.4))
    shown = replace(shown, about=sly, robot=sly, scene=sly, cameras={"ä": f"{sly}=1"})
    (path := tmp_path / "plug.py").write_text(source(shown, FakeDriver().limits))
    task = load_task(str(path))
    assert (task.scene, task.cameras) == (sly, ("ä",))


def test_the_picture_is_what_the_camera_saw(tmp_path):
    """Guards crops: what a person measures in the picture are the pixels of the camera, upright and in its colours."""
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    write_png(tmp_path / "out.png", image)
    data = (tmp_path / "out.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (5, 3)
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : at + 4 + struct.unpack(">I", data[at - 4 : at])[0]])
    np.testing.assert_array_equal(np.frombuffer(rows, np.uint8).reshape(3, 16)[:, 1:].reshape(3, 5, 3), image)


def test_the_simulated_arm_is_taught_by_typed_steps(tmp_path):
    """Guards what a newcomer without a robot tries: physics, lockstep, no ground truth."""
    mujoco = pytest.importorskip("robot_servers.drivers.mujoco", reason="the simulated arm needs the package mujoco")
    robot = GuardedRobot(mujoco.MujocoDriver("reach", clock="lockstep"))
    robot.connect()
    person = Person(JOGGED)
    task = taught(robot, tmp_path, person)
    assert task.scene == "reach" and not person.was_told("limp")
    start, target = one_step(robot, task)
    np.testing.assert_allclose(start[:3], HOME[:3], atol=0.02)
    assert np.linalg.norm(target[:3] - start[:3]) > 0.01
    robot.close()


def test_the_command_teaches_a_served_arm_that_is_then_used(tmp_path):
    """Guards the command itself against lease, typing and Ctrl-D: stopped, resumed, and its task file bound and run."""
    with children() as running:
        server = Child("server", serl("server", "fake", "--scene", "", "--port", "0"), tmp_path / "server.log")
        running.append(server)
        address = server.ready(60.0)[0]
        command = serl("teach", path := tmp_path / "tasks" / "plug.py", "--robot", address, "--jog")

        def call(answers: list[str], *options: str) -> subprocess.CompletedProcess[str]:
            typed = "".join(f"{answer}\n" for answer in answers)
            return subprocess.run([*command, *options], input=typed, capture_output=True, text=True, timeout=120)

        stopped = call(JOGGED[:4])
        assert stopped.returncode == 130 and f"go on with serl teach {path} --resume" in stopped.stdout, stopped.stderr
        done = call(JOGGED[4:], "--resume")
        assert done.returncode == 0, done.stderr
        assert f"{path} is written" in done.stdout
        task = load_task(str(path))
        with connected(task, "state", address) as session:
            env = make_env(session, task, "state", None, seed=0)
            env.reset(seed=0)
            *_, info = env.step(np.zeros(task.action_dim, np.float32))
            assert "abort" not in info
