import pytest

from serl_core.config import ConfigError
from serl_core.teleop.spec import parse_spec


@pytest.mark.parametrize(
    ("text", "arms", "message"),
    [
        ("spacemous", 1, 'did you mean "spacemouse"'),
        ("", 1, "keyboard"),
        ("keyboard:gian=0.5", 1, 'did you mean "gain"'),
        ("keyboard:gain=fast", 1, "not a number"),
        ("keyboard:gain=", 1, "needs a value"),
        ("keyboard:gain=9", 1, r"\(0, 2\]"),
        ("keyboard:frame=bse", 1, 'did you mean "base"'),
        ("keyboard:terminl", 1, 'did you mean "terminal"'),
        ("keyboard:terminal,display", 1, "cannot both"),
        ("keyboard", 2, "one device for each hand"),
        ("gamepad:event5", 1, "path of a device"),
        ("gamepad:/dev/input/event5", 2, "left=… and right=…"),
        ("gamepad:/dev/input/event5,left=/a,right=/b", 2, "which is which"),
        ("spacemouse:left=1-2,right=1-3", 1, "one hand"),
        ("spacemouse:left=1-2", 2, "right missing"),
        ("spacemouse", 2, "spacemouse:ask"),
        ("spacemouse:left=1-2,right=1-2", 2, "same device"),
        ("spacemouse:port=1-2,port=1-3", 1, "given twice"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_opened(text, arms, message):
    """A device is asked for at the command line: its mistakes are one line there, not a surprise at the arm."""
    with pytest.raises(ConfigError, match=message) as error:
        parse_spec(text, arms)
    assert "\n" not in str(error.value)


def test_everything_that_can_be_said_arrives():
    """An option that is accepted and forgotten is worse than one that is refused."""
    spec = parse_spec(
        "spacemouse:left=1-2,right=1-3.4,frame=base,turn=90,gain=0.5,deadband=0.02,close=MENU,clutch=ESC", 2
    )
    assert spec.options == {"left": "1-2", "right": "1-3.4", "close": "MENU", "clutch": "ESC"}
    assert (spec.shape.frame, spec.shape.turn, spec.shape.gain, spec.shape.deadband) == ("base", 90.0, 0.5, 0.02)
    assert parse_spec("gamepad:/dev/input/by-path/pci-0000:00:14.0-usb-0:1:1.0-event-joystick").word.startswith("/dev")
    assert parse_spec("keyboard: terminal , gain=0.2").word == "terminal"


def test_a_worn_cap_has_a_dead_band_by_default():
    """SpaceMice rest off zero: without a dead band their drift reaches the takeover."""
    assert parse_spec("spacemouse").shape.deadband > 0.0
    assert parse_spec("spacemouse:deadband=0").shape.deadband == 0.0
