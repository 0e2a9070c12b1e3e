import errno

import numpy as np
import pytest
from device_parts import piped_pad, until

from examples.benchmarks.piped_pad import PipedPad
from serl_core.teleop import gamepad
from serl_core.teleop.device import DeviceError
from serl_core.teleop.gamepad import Gamepad, find_pads
from serl_core.teleop.reader import Reader

KEY, AXIS, LOST = 1, 3, (0, 3, 0)
GRIP_DOWN = (KEY, gamepad.GRIP, 1)
FULL = 32767


def plug(root, number: int, name: str = "X-Box 360 pad", gamepad_keys: bool = True) -> None:
    """An input device as sysfs shows it."""
    device = root / f"sys/class/input/event{number}/device"
    (device / "capabilities").mkdir(parents=True)
    (device / "id").mkdir()
    key = "7cdb000000000000 0 0 0 0" if gamepad_keys else "fffffffffffffffe"
    texts = {"name": name, "id/vendor": "045e", "id/product": "028e", "capabilities/key": key}
    for file, text in texts.items():
        (device / file).write_text(text + "\n")


@pytest.fixture
def pad():
    return piped_pad()


def read(pad: PipedPad) -> Reader:
    return Reader(Gamepad("/dev/input/event5", opener=lambda path: pad))


@pytest.mark.parametrize(
    ("event", "axis", "value"),
    [
        ((AXIS, 0x01, -32768), 0, 1.0),  # left stick away from the person
        ((AXIS, 0x00, -32768), 1, 1.0),  # left
        ((AXIS, 0x04, -32768), 2, 1.0),  # right stick away: up
        ((AXIS, 0x03, FULL), 5, -1.0),  # right: turn right
        ((AXIS, 0x10, 1), 3, 1.0),
        ((AXIS, 0x11, -1), 4, 1.0),
    ],
)
def test_each_stick_moves_its_axis(pad, event, axis, value):
    """A sign that is wrong drives the arm into the person's side of the table."""
    with read(pad) as reader:
        pad.send(GRIP_DOWN, event)
        until(lambda: reader.read().twist[axis] == pytest.approx(value))
        assert np.count_nonzero(np.abs(reader.read().twist) > 0.01) == 1


def test_without_the_grip_nothing_moves(pad):
    """A gamepad that falls from the table lies on its sticks."""
    with read(pad) as reader:
        pad.send((AXIS, 0x01, -32768), (KEY, gamepad.CLOSE, 1))
        until(lambda: "A" in reader.read().pressed)
        assert not reader.read().twist.any() and reader.read().buttons == (False, False, False)
        pad.send(GRIP_DOWN)
        until(lambda: reader.read().twist[0] == 1.0)
        assert reader.read().buttons == (True, False, True)
        pad.send((KEY, gamepad.GRIP, 0))
        until(lambda: not reader.read().twist.any())


def test_lost_events_are_asked_for(pad):
    """The kernel drops events of a slow reader: a release among them would leave the arm moving."""
    with read(pad) as reader:
        pad.send(GRIP_DOWN, (AXIS, 0x01, -32768))
        until(lambda: reader.read().twist[0] == 1.0)
        pad.send(LOST)
        until(lambda: not reader.read().twist.any())


def test_what_is_held_when_it_is_opened_counts(pad):
    """evdev tells of changes only: a stick that is already pushed would read as zero."""
    pad.held, pad.values = [gamepad.GRIP], {0x01: -32768}
    with read(pad) as reader:
        until(lambda: reader.read().twist[0] == 1.0)


def test_a_pad_that_is_gone_lets_go():
    """Pads run out of battery with a stick pushed."""
    first, second = piped_pad(), piped_pad()
    pads = [second, first]
    with Reader(Gamepad("/dev/input/event5", opener=lambda path: pads.pop())) as reader:
        first.send(GRIP_DOWN, (AXIS, 0x01, -32768))
        until(lambda: reader.read().twist[0] == 1.0)
        first.unplug()
        until(lambda: not reader.read().connected)
        until(lambda: reader.read().connected)
        second.send(GRIP_DOWN, (AXIS, 0x00, -32768))
        until(lambda: reader.read().twist[1] == 1.0)


def test_a_pad_that_goes_while_it_is_opened_again_still_comes_back(monkeypatch):
    """A loose cable is lost again at once: the thread that reopens it must outlive that, or only a restart helps."""
    first, second, third = piped_pad(), piped_pad(), piped_pad()
    pads = [third, second, first]

    def vanish(code: int) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(second, "absinfo", vanish)
    with Reader(Gamepad("/dev/input/event5", opener=lambda path: pads.pop())) as reader:
        first.unplug()
        until(lambda: not pads)
        third.send(GRIP_DOWN, (AXIS, 0x00, -32768))
        until(lambda: reader.read().twist[1] == 1.0)
    assert second.fd is None  # not left open


def test_what_is_no_gamepad_is_refused():
    """A pad in its mode D has other axes under the same numbers."""
    with pytest.raises(DeviceError, match="mode X"):
        Gamepad("/dev/input/event5", opener=lambda path: piped_pad(sticks=(0, 1, 2, 5))).open()


def test_gamepads_are_found_among_all_input_devices(tmp_path):
    """The first input device of a computer is its power button."""
    plug(tmp_path, 3, "AT keyboard", gamepad_keys=False)
    assert find_pads(tmp_path) == []
    plug(tmp_path, 12)
    assert [str(pad) for pad in find_pads(tmp_path)] == ["X-Box 360 pad (045e:028e) at /dev/input/event12"]


def test_several_are_not_guessed_and_none_is_said(tmp_path):
    """Which one would be taken depends on the order of plugging in."""
    with pytest.raises(DeviceError, match="no gamepad is connected"):
        Gamepad(root=tmp_path, opener=lambda path: piped_pad()).open()
    plug(tmp_path, 3)
    plug(tmp_path, 12)
    with pytest.raises(DeviceError, match="gamepad:/dev/input/event3"):
        Gamepad(root=tmp_path, opener=lambda path: piped_pad()).open()


@pytest.mark.parametrize(
    ("failure", "path", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "/dev/input/event12", 'ATTRS{id/vendor}=="045e"'),
        (FileNotFoundError(errno.ENOENT, "No such file"), "/dev/input/event99", "event12"),
        (OSError(errno.ENOTTY, "Inappropriate ioctl"), "/dev/input/js0", "event device"),
        (OSError(errno.ENOTTY, "Inappropriate ioctl"), "/dev/null", "serl teleop list"),
    ],
)
def test_why_it_cannot_be_opened_is_said_with_the_remedy(tmp_path, failure, path, message):
    """Input devices belong to root on most computers."""
    plug(tmp_path, 12)

    def refuse(path: str) -> None:
        raise failure

    with pytest.raises(DeviceError) as error:
        Gamepad(path, root=tmp_path, opener=refuse).open()
    assert message in str(error.value) and "\n" not in str(error.value)
