import errno

import numpy as np
import pytest
from device_parts import COMPACT, Bench, axes, until

from serl_core.teleop.ask import tell_apart
from serl_core.teleop.build import sources_of
from serl_core.teleop.device import DeviceError
from serl_core.teleop.reader import Reader
from serl_core.teleop.spacemouse import Decoder, SpaceMouse, load
from serl_core.teleop.spec import parse_spec

pytest.importorskip("pyspacemouse", reason="needs the package pyspacemouse")
FULL = 350  # counts at the end stop
MODELS = load().get_device_specs()
# Raw axes are those of the USB HID usage tables: x right, y towards the person, z down, and turns about them.
PUSHES = {
    "right": ((FULL, 0, 0, 0, 0, 0), 1, -1.0),
    "towards": ((0, FULL, 0, 0, 0, 0), 0, -1.0),
    "down": ((0, 0, FULL, 0, 0, 0), 2, -1.0),
    "about right": ((0, 0, 0, FULL, 0, 0), 4, -1.0),
    "about towards": ((0, 0, 0, 0, FULL, 0), 3, -1.0),
    "about down": ((0, 0, 0, 0, 0, FULL), 5, -1.0),
}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def mouse(bench: Bench, port: str = "", buttons: tuple[str, str] = ("", "")) -> SpaceMouse:
    return SpaceMouse(port, buttons, root=bench.root, opener=bench.open)


def refused(bench: Bench, port: str = "") -> str:
    with pytest.raises(DeviceError) as error:
        mouse(bench, port).open()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("push", PUSHES)
@pytest.mark.parametrize("together", [True, False], ids=["one report", "two reports"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_moves_every_axis_the_right_way(model, together, push):
    """Models send six axes in one report or in two, and tables disagree on which: read wrongly, all turns are zero."""
    values, axis, sign = PUSHES[push]
    decoder = Decoder(load(), MODELS[model], ("", ""))
    reports = [axes(1, *values)] if together else [axes(1, *values[:3]), axes(2, *values[3:])]
    for report in reports:
        motion = decoder.feed(report)
    expected = np.zeros(6)
    expected[axis] = sign
    np.testing.assert_allclose(motion.twist, expected, atol=1e-6)


@pytest.mark.parametrize("model", [name for name, info in MODELS.items() if len(info.button_names) > 1])
def test_every_button_of_every_model_is_known_by_name(model):
    """Short reports of buttons must not end in an IndexError beneath the arm."""
    decoder = Decoder(load(), MODELS[model], ("", ""))
    for name, spec in zip(MODELS[model].button_names, MODELS[model].button_specs, strict=True):
        report = bytearray(spec.byte + 1)
        report[0], report[spec.byte] = 3, 1 << spec.bit
        assert decoder.feed(bytes(report)).pressed == (name,)
    assert decoder.feed(b"\x03\x00").pressed == ()


def test_small_mice_grip_with_left_and_right_large_ones_with_their_first_keys():
    """On a large SpaceMouse the first two buttons of the table are MENU and ALT: nobody grips with those."""
    compact, pro = (Decoder(load(), MODELS[name], ("", "")) for name in ("SpaceMouseCompact", "SpaceMousePro"))
    assert compact.feed(b"\x03\x01\x00").buttons == (True, False)
    assert compact.feed(b"\x03\x02\x00").buttons == (False, True)
    assert pro.feed(b"\x03\x00\x10\x00\x00").buttons == (True, False)
    assert pro.feed(b"\x03\x01\x00\x00\x00").buttons == (False, False)


def test_other_buttons_can_be_chosen():
    """A lab that has its own habits, and a name that the model does not have."""
    chosen = Decoder(load(), MODELS["SpaceMousePro"], ("MENU", "FIT"))
    assert chosen.feed(b"\x03\x03\x00\x00\x00").buttons == (True, True)
    clutched = Decoder(load(), MODELS["SpaceMousePro"], ("", "", "ESC"))
    assert clutched.feed(b"\x03\x00\x00\x40\x00").buttons == (False, False, True)
    with pytest.raises(DeviceError, match='did you mean "MENU"'):
        Decoder(load(), MODELS["SpaceMousePro"], ("MENUE", ""))


def test_a_clutch_is_not_the_grippers_button():
    """Small models have two buttons: each takeover would open the gripper, and drop what it holds."""
    small = Decoder(load(), MODELS["SpaceMouseCompact"], ("", "", "RIGHT"))
    assert small.feed(b"\x03\x02\x00").buttons == (False, False, True)
    assert small.feed(b"\x03\x01\x00").buttons == (True, False, False)
    both = Decoder(load(), MODELS["SpaceMouseCompact"], ("", "RIGHT", "RIGHT"))
    assert both.feed(b"\x03\x02\x00").buttons == (False, True, True)


def test_reports_of_no_interest_change_nothing():
    """Receivers also send the state of their battery; a damaged report must not become a jump."""
    decoder = Decoder(load(), MODELS["UniversalReceiver"], ("", ""))
    before = decoder.feed(axes(1, 100, 0, 0, 0, 0, 0)).twist
    for report in (b"\x17\x40", b"\x01\x05", b"\x02"):
        np.testing.assert_array_equal(decoder.feed(report).twist, before)


def test_the_newest_of_a_backlog_counts(bench):
    """The library takes one report for each call: read at 10 Hz, the arm would follow the hand minutes later."""
    path = bench.plug("1-2")
    with Reader(mouse(bench)) as reader:
        bench.send(path, *(axes(1, value, 0, 0) for value in range(1, 100)), axes(1, FULL, 0, 0))
        until(lambda: reader.read().twist[1] == -1.0)
        bench.send(path, axes(1, 0, 0, 0))
        until(lambda: not reader.read().twist.any())
        assert reader.label == "SpaceMouseCompact at port 1-2"


def test_two_of_the_same_are_told_apart_by_their_ports(bench):
    """Identical SpaceMice share their serial number: the left hand would lead the right arm."""
    left, right = bench.plug("1-2"), bench.plug("1-3.4")
    spec = parse_spec("spacemouse:left=1-3.4,right=1-2", 2)
    assert [source.label for source in sources_of(spec)] == ["SpaceMouse at port 1-3.4", "SpaceMouse at port 1-2"]
    with Reader(mouse(bench, "1-3.4")) as reader, Reader(mouse(bench, "1-2")) as other:
        bench.send(right, axes(1, FULL, 0, 0))
        until(lambda: reader.read().twist.any())
        assert not other.read().twist.any()
        bench.send(left, axes(1, FULL, 0, 0))
        until(lambda: other.read().twist.any())


def test_two_of_the_same_are_not_guessed(bench):
    """Taking the first one found would change with the order in which they were plugged in."""
    bench.plug("1-2")
    bench.plug("1-3")
    message = refused(bench)
    assert "port 1-2" in message and "port 1-3" in message and "spacemouse:port=1-2" in message


def test_a_person_says_which_is_left_by_moving_it(bench):
    """The other way to tell them apart, for those who do not know their ports."""
    bench.plug("1-2")
    path = bench.plug("1-3")
    said = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            bench.send(path, axes(1, 0, -FULL, 0))

    assert tell_apart(say, bench.root, bench.open) == {"left": "1-3", "right": "1-2"}
    assert "spacemouse:left=1-3,right=1-2" in said[-1]


def test_asking_needs_two(bench):
    """With one SpaceMouse the question would never be answered."""
    bench.plug("1-2")
    with pytest.raises(DeviceError, match="two SpaceMice, 1 connected"):
        tell_apart(lambda text: None, bench.root, bench.open)


def test_the_interface_with_the_axes_is_chosen(bench):
    """Receivers show several interfaces at one port; a silent one of them reads all zeros."""
    bench.plug("1-2", (0x256F, 0xC652), "Universal Receiver", interface=0, six=False)
    path = bench.plug("1-2", (0x256F, 0xC652), "Universal Receiver", interface=1)
    with Reader(mouse(bench)) as reader:
        bench.send(path, axes(1, FULL, 0, 0, 0, 0, 0))
        until(lambda: reader.read().twist.any())


def test_unplugged_it_stops_and_plugged_in_again_it_goes_on(bench):
    """A cable that is pulled must neither move the arm nor need a restart; the device may come back as another node."""
    path = bench.plug("1-2")
    with Reader(mouse(bench)) as reader:
        bench.send(path, axes(1, FULL, 0, 0))
        until(lambda: reader.read().twist.any())
        bench.unplug(path)
        until(lambda: not reader.read().connected)
        bench.plug("1-2", interface=3)
        until(lambda: reader.read().connected)
        assert not reader.read().twist.any()


def test_no_permission_names_the_rule(bench):
    """The commonest failure of all: an error number would send people to a search engine."""
    bench.plug("1-2")
    bench.refusal = PermissionError(errno.EACCES, "Permission denied")
    message = refused(bench)
    assert 'KERNELS=="*:256F:C635.*"' in message and "/etc/udev/rules.d/" in message and "udevadm trigger" in message


def test_a_container_without_the_device_is_said(bench):
    """sysfs shows devices that a container was not given."""
    bench.plug("1-2")
    bench.refusal = FileNotFoundError(errno.ENOENT, "No such file")
    assert "--device" in refused(bench)


def test_an_unknown_model_is_named(bench):
    """A CadMouse has no six axes: it must be named rather than read as zeros."""
    bench.plug("1-4", (0x256F, 0xC650), "CadMouse", six=False)
    for port in ("", "1-4"):
        message = refused(bench, port)
        assert "CadMouse (256f:c650)" in message and "SpaceMouseCompact" in message


def test_absence_is_said_with_what_is_there(bench):
    """A port that was remembered wrongly, and no device at all."""
    assert "plug it in" in refused(bench)
    bench.plug("1-2", COMPACT)
    assert "at port 9-9; connected: 3Dconnexion SpaceMouse Compact" in refused(bench, "9-9")
