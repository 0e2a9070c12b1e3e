import logging

import numpy as np
import pytest
from device_parts import ScriptedSource, pushed, until

from serl_core.teleop.device import DeviceError
from serl_core.teleop.reader import FROZEN, Motion, Reader


def test_the_newest_motion_is_read():
    """A backlog of reports would make the arm follow the hand seconds later."""
    source = ScriptedSource()
    with Reader(source) as reader:
        for value in np.linspace(0.1, 1.0, 100):
            source.say(pushed(value=value))
        until(lambda: reader.read().twist[0] == 1.0)


def test_a_device_at_rest_is_fresh_although_it_is_silent():
    """A SpaceMouse that nobody touches says nothing: that is no reason to call it stale."""
    source = ScriptedSource(repeats=True)
    now = [0.0]
    with Reader(source, lambda: now[0]) as reader:
        now[0] = 5.0
        until(lambda: reader.read().age == 0.0)
        assert reader.read().connected


def test_a_pushed_device_that_falls_silent_grows_old():
    """A cap that stops speaking while it is pushed would lead the arm on for ever."""
    source = ScriptedSource(repeats=True)
    now = [0.0]
    with Reader(source, lambda: now[0]) as reader:
        source.say(pushed())
        until(lambda: reader.read().twist.any())
        now[0] = 5.0
        until(lambda: reader.read().age == 5.0)


def test_a_held_stick_does_not_grow_old_between_events():
    """Gamepads send changes only: a stick that is held must go on moving the arm from one tremble to the next."""
    source = ScriptedSource(repeats=False)
    now = [0.0]
    with Reader(source, lambda: now[0]) as reader:
        for value in (1.0, 0.9, 1.0):
            source.say(pushed(value=value))
            until(lambda value=value: reader.read().twist[0] == value)
            now[0] += 0.9 * FROZEN
            until(lambda: reader.read().age == 0.0)
            assert reader.read().twist[0] == value


def test_a_push_without_any_change_grows_old(caplog):
    """A wireless gamepad out of range keeps its last push and its grip, and would lead the arm on for ever."""
    source = ScriptedSource(repeats=False)
    now = [0.0]
    with caplog.at_level(logging.WARNING), Reader(source, lambda: now[0]) as reader:
        source.say(pushed())
        until(lambda: bool(reader.read().twist.any()))
        now[0] = FROZEN + 1.0
        until(lambda: reader.read().age == FROZEN + 1.0)
        until(lambda: "counts as lost" in caplog.text)
        source.say(pushed(value=0.5))
        until(lambda: reader.read().age == 0.0)
        source.say(pushed(value=0.05))
        until(lambda: reader.read().twist[0] == 0.05)
        now[0] = 3 * FROZEN
        until(lambda: reader.read().age == 0.0)  # at rest, off its centre as sticks are, it may be silent
    assert len(caplog.records) == 1


def test_a_device_that_is_unplugged_leaves_no_motion_and_comes_back(caplog):
    """An unplugged device must neither lead the arm on nor need a restart, and somebody must be told."""
    source = ScriptedSource()
    with caplog.at_level(logging.WARNING), Reader(source) as reader:
        source.say(pushed())
        until(lambda: reader.read().twist.any())
        source.plugged = False
        until(lambda: not reader.read().connected)
        assert not reader.read().twist.any()
        assert "plug it in" in reader.vitals().trouble
        source.plugged = True
        until(lambda: reader.read().connected)
        assert not reader.read().twist.any()
    assert "is gone" in caplog.text and "is back" in caplog.text


def test_buttons_that_have_not_been_heard_of_are_not_pressed():
    """A clutch is looked up by its number, also before a device has spoken for the first time and while it is gone."""
    source = ScriptedSource(buttons=3)
    with Reader(source) as reader:
        found = [reader.read().buttons]
        source.say(Motion(buttons=(False, False, True)))
        until(lambda: reader.read().buttons[2])
        source.plugged = False
        until(lambda: not reader.read().connected)
        found.append(reader.read().buttons)
        source.plugged = True
        until(lambda: reader.read().connected)
        found.append(reader.read().buttons)
    assert found == [(False,) * 3] * 3


def test_its_loss_is_said_once(caplog):
    """A line for each of two attempts a second would bury everything else."""
    source = ScriptedSource()
    with caplog.at_level(logging.WARNING), Reader(source) as reader:
        source.plugged = False
        until(lambda: source.closings >= 1)
        until(lambda: "absent" in reader.vitals().trouble)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_an_absent_device_is_an_error_when_it_is_opened():
    """Whoever starts an actor without the device they asked for must hear it at once."""
    source = ScriptedSource()
    source.plugged = False
    with pytest.raises(DeviceError, match="plug it in"), Reader(source):
        pass


def test_it_is_let_go_of_at_the_end():
    """A device that stays open cannot be used by the next program."""
    source = ScriptedSource()
    reader = Reader(source)
    with reader:
        pass
    assert source.closings == source.openings == 1
    assert not reader.read().connected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_driver_that_fails_lets_go(monkeypatch):
    """A bug in a library ends its thread: the arm must not go on with what the hand did before."""
    source = ScriptedSource()
    with Reader(source) as reader:
        source.say(pushed())
        until(lambda: reader.read().twist.any())
        monkeypatch.setattr(source, "poll", lambda wait: 1 / 0)
        until(lambda: not reader.read().connected)
        assert "driver failed" in reader.vitals().trouble


def test_it_is_polled_while_it_is_silent():
    """A reader that waits for reports only would not notice that a device is gone."""
    with Reader(ScriptedSource()) as reader:
        until(lambda: reader.vitals().polls > 20.0)
