import io
import os
import pty
import sys

import numpy as np
import pytest
from device_parts import Bench, ScriptedSource, piped_pad, pushed, until
from env_parts import REACH, Arm, Hand

from serl_core.config import ConfigError
from serl_core.envs.robot_env import RobotEnv
from serl_core.envs.takeover import Takeover
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.teleop import build
from serl_core.teleop.device import DeviceError, Reading
from serl_core.teleop.gamepad import Gamepad
from serl_core.teleop.keyboard_display import DisplayKeyboard
from serl_core.teleop.keyboard_terminal import TerminalKeyboard
from serl_core.teleop.pair import PairDevice
from serl_core.teleop.reader import Reader
from serl_core.teleop.spacemouse import SpaceMouse


@pytest.fixture
def person(monkeypatch):
    """The other end of a terminal at the standard input."""
    person, program = pty.openpty()
    with os.fdopen(program, closefd=True) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield person
    os.close(person)


def test_the_keys_of_the_terminal_move_an_arm(person):
    """From a key to the robot's target, through everything between."""
    arm = Arm()
    with build.open_device("keyboard:terminal,gain=1") as device:
        env = Takeover(RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth), device, REACH)
        env.reset(seed=0)
        start = arm.robot.state().pose
        for _ in range(5):
            os.write(person, b"w")
            until(lambda: bool(device.read().twist.any()))
            info = env.step(np.zeros(4, np.float32))[-1]
        assert info["who"] == "operator"
        assert arm.robot.state().pose[0] > start[0] + 0.02


def test_readings_of_one_hand_and_of_two(monkeypatch):
    """A pair of arms needs twists of twelve and four buttons, or the takeover would fail in mid-air."""
    sources = [ScriptedSource(), ScriptedSource()]
    monkeypatch.setattr(build, "sources_of", lambda spec, listeners: sources)
    with build.open_device("spacemouse:left=1-2,right=1-3,deadband=0", 2) as device:
        sources[1].say(pushed(axis=0))
        until(lambda: bool(device.read().twist.any()))
        reading = device.read()
    assert reading.twist.tolist() == [0.0] * 6 + [1.0] + [0.0] * 5
    assert len(reading.buttons) == 4


def test_a_pair_says_whose_button_it_is():
    """Two identical devices have buttons of the same names."""
    pair = PairDevice(Hand([Reading(np.zeros(6), pressed=("MENU",))]), Hand([Reading(np.zeros(6), pressed=("FIT",))]))
    assert pair.read().pressed == ("left MENU", "right FIT")


@pytest.mark.parametrize(("spec", "name"), [("spacemouse", "Fit"), ("spacemouse:left=1-2,right=1-3", "left fit")])
def test_a_button_that_the_device_lacks_is_refused(monkeypatch, spec, name):
    """Guards a person who presses BEGIN beside the arm: a name that was mistyped would never be heard."""
    arms = 2 if "left" in spec else 1
    monkeypatch.setattr(build, "sources_of", lambda spec, listeners: [ScriptedSource() for _ in range(arms)])
    with build.open_device(spec, arms, saying=[name]):
        pass
    refused = pytest.raises(ConfigError, match=r'no button "strat"; it has: .*MENU')
    with refused as error, build.open_device(spec, arms, saying=[name, "strat"]):
        pass
    assert "\n" not in str(error.value)


def test_a_real_devices_buttons_have_the_names_that_are_shown(tmp_path, monkeypatch):
    """Guards the example of the commands' help, start and select, and what `serl teleop test` shows."""
    pad, bench = piped_pad(keys=(*range(0x130, 0x13C),)), Bench(tmp_path)
    bench.plug("1-2")
    mouse = SpaceMouse(root=bench.root, opener=bench.open)
    for source, names in ((Gamepad("/dev/x", opener=lambda path: pad), ("start", "select")), (mouse, ("left",))):
        monkeypatch.setattr(build, "sources_of", lambda spec, listeners, source=source: [source])
        with build.open_device("spacemouse", saying=names):
            pass
    bench.close()


def test_the_base_frame_needs_a_robot():
    """Without one the device would move in another frame than the one asked for."""
    with pytest.raises(ConfigError, match="frame=base"), build.open_device("keyboard:terminal,frame=base"):
        pass


def test_the_base_frame_follows_the_robot(person):
    """The pose that turns the hand's axes is the robot's newest."""
    arm = Arm()
    spec = "keyboard:terminal,frame=base,turn=180,gain=1"
    with build.open_device(spec, states=[arm.robot.state]) as device:
        os.write(person, b"w")
        until(lambda: bool(device.read().twist.any()))
        np.testing.assert_allclose(device.read().twist[:3], [-1, 0, 0], atol=1e-9)


def test_a_shared_terminal_is_left_to_its_owner(person):
    """A console that reads the same terminal would otherwise get every other key."""
    listeners = []
    with build.open_device("keyboard:terminal", listeners=listeners) as device:
        assert len(listeners) == 1
        listeners[0].heard(["d"])
        until(lambda: device.read().twist[1] > 0.0)


def test_devices_are_closed_when_one_of_them_is_missing(monkeypatch):
    """The left device must not stay taken because the right one is absent."""
    sources = [ScriptedSource(), ScriptedSource()]
    sources[1].plugged = False
    monkeypatch.setattr(build, "sources_of", lambda spec, listeners: sources)
    with pytest.raises(DeviceError), build.open_device("spacemouse:left=1-2,right=1-3", 2):
        pass
    assert sources[0].closings == 1


@pytest.mark.parametrize(
    ("display", "session", "terminal"), [("", "", True), (":0", "", False), (":0", "wayland", True)]
)
def test_without_a_terminal_keys_come_from_the_display_where_that_can_be_watched(
    monkeypatch, display, session, terminal
):
    """Under Wayland a listener hears nothing, or only some windows: keys would seem to be dead."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv("XDG_SESSION_TYPE", session)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (source,) = build.sources_of(build.parse_spec("keyboard"))
    assert isinstance(source, TerminalKeyboard) == terminal


def test_a_terminal_goes_before_the_display_unless_that_is_asked_for(monkeypatch, person):
    """The focused window of a display has other tabs and panes: a password typed there would move the arm."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("XDG_SESSION_TYPE", raising=False)
    kinds = [type(build.sources_of(build.parse_spec(spec))[0]) for spec in ("keyboard", "keyboard:display")]
    assert kinds == [TerminalKeyboard, DisplayKeyboard]


def test_a_clutch_works_on_a_device_that_has_not_spoken_and_on_one_that_comes_back(tmp_path, monkeypatch):
    """A SpaceMouse says nothing until it is touched: neither the start nor a cable that slips out may end the actor."""
    arm, bench = Arm(), Bench(tmp_path)
    mouse = SpaceMouse(buttons=("", "", "LEFT"), root=bench.root, opener=bench.open)
    monkeypatch.setattr(build, "sources_of", lambda spec, listeners: [mouse])
    path = bench.plug("1-2")
    with build.open_device("spacemouse:clutch=LEFT") as device:
        robot = RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth)
        env = Takeover(robot, device, REACH, TakeoverConfig(clutch=2))
        env.reset(seed=0)
        bench.unplug(path)
        until(lambda: not device.read().connected)
        env.reset(seed=1)
        bench.replug(path, "1-2")
        until(lambda: device.read().connected)
        assert env.step(np.zeros(4, np.float32))[-1]["who"] == "policy"
    bench.close()


def test_a_device_that_is_lost_ends_the_takeover_and_says_so():
    """The arm must not follow the last reading of a device that was unplugged."""
    arm, source = Arm(), ScriptedSource()
    with Reader(source) as reader:
        env = Takeover(RobotEnv(arm.robot, REACH, arm.clock(), "state", arm.truth), reader, REACH)
        env.reset(seed=0)
        source.say(pushed())
        until(lambda: bool(reader.read().twist.any()))
        assert env.step(np.zeros(4, np.float32))[-1]["who"] == "operator"
        source.plugged = False
        until(lambda: not reader.read().connected)
        info = env.step(np.zeros(4, np.float32))[-1]
    assert info["device"] != "ok" and not info["executed"].any()
