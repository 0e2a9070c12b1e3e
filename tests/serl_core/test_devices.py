import json

import numpy as np
import pytest
import tyro
from device_parts import ScriptedSource, pushed

from serl_core import devices
from serl_core.config import ConfigError
from serl_core.teleop import build
from serl_core.teleop.device import Reading
from serl_core.teleop.reader import Vitals
from serl_core.teleop.spec import KINDS, SHAPING, parse_spec


@pytest.fixture
def source(monkeypatch):
    source = ScriptedSource()
    monkeypatch.setattr(build, "sources_of", lambda spec, listeners: [source])
    return source


def test_what_was_seen_is_summed_up(source, tmp_path, capsys):
    """Whoever tries a device wants to know which axes are dead, not to watch numbers."""
    source.say(pushed(axis=2, value=-1.0))
    path = tmp_path / "seen.json"
    assert devices.main(devices.Config("test", "spacemouse", seconds=0.5, json=path)) == 0
    assert "never moved: x, y, roll, pitch, yaw" in capsys.readouterr().out
    (seen,) = json.loads(path.read_text())
    assert seen["low"] == [0.0, 0.0, -1.0, 0.0, 0.0, 0.0] and seen["losses"] == 0


def test_a_result_that_cannot_be_written_is_refused_before_anything_is_opened(source, tmp_path):
    """Guards ten minutes of trying a device, whose figures a wrong folder would lose at the end."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "seen.json"):
        with pytest.raises(ConfigError, match="--json"):
            devices.main(devices.Config("test", "spacemouse", seconds=0.0, json=path))
    assert source.openings == 0


def test_a_device_that_is_lost_is_shown_and_counted():
    """A cable that breaks now and then is found by trying."""
    seen = devices.Seen("pad")
    for connected in (True, False, False, True, False):
        seen.add(Reading(np.zeros(6), connected=connected), np.zeros(6), Vitals(0.0, 200.0, ""))
    assert seen.losses == 2 and "lost 2 times" in seen.summary()


def test_the_dead_band_is_what_will_be_used(source):
    """A display without the dead band would show a drift that never reaches the arm."""
    source.say(pushed(value=0.04))
    (seen,) = devices.test(parse_spec("spacemouse:deadband=0.05"), 0.3)
    assert seen.high[0] == 0.0


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_bars_grow_from_the_middle(value):
    """A bar that changes its length would make the screen dance."""
    text = devices.bar(value)
    assert len(text) == devices.BAR + 3
    assert ("█" in text.partition("┼")[0]) == (value < 0)


def test_a_device_must_be_named():
    """The help of a parser would not say which there are."""
    with pytest.raises(ConfigError, match="serl teleop list"):
        devices.main(devices.Config("test"))


def test_the_help_names_every_option_of_every_device(capsys):
    """Guards what nobody finds without reading the code: dead bands, clutches, frames."""
    with pytest.raises(SystemExit):
        tyro.cli(devices.Config, args=["--help"])
    text = capsys.readouterr().out
    words = [word for kind in KINDS.values() for word in (*kind.words, *(f"{option}=" for option in kind.options))]
    missing = [word for word in (*KINDS, *words, *(f"{name}=" for name in SHAPING)) if word not in text]
    assert missing == []


def test_what_is_connected_is_listed(capsys):
    """Works on a computer without any device or library."""
    assert devices.main(devices.Config("list")) == 0
    assert "keys:" in capsys.readouterr().out
