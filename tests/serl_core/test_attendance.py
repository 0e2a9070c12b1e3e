"""Who is at the robot: what is said of them is understood before anything is asked of the robot."""

from __future__ import annotations

from pathlib import Path

import pytest

from serl_core import actor, record
from serl_core.attendance import check_wanted
from serl_core.config import ConfigError

NOBODY = "tcp://127.0.0.1:9"  # no robot server answers there: whoever asks says that instead


@pytest.mark.parametrize(
    ("operator", "buttons", "complaint"),
    [
        ("spacemous", "", "spacemous"),
        ("spacemouse:clutch=", "", "clutch"),
        ("gamepad", "start=dance", "dance"),
        ("none", "start=success", "--operator none has none"),
    ],
)
def test_a_wrong_word_is_refused_before_the_robot_is_asked_for(
    operator: str, buttons: str, complaint: str, tmp_path: Path
) -> None:
    """Guards against a typing error that shows after the arm has been claimed."""
    acting = actor.Config(run_dir=tmp_path / "run", robot=NOBODY, operator=operator, buttons=buttons)
    with pytest.raises(ConfigError, match=complaint):
        actor.main(acting)
    recording = record.Config(out=tmp_path / "demos", robot=NOBODY, operator=operator, buttons=buttons)
    with pytest.raises(ConfigError, match=complaint):
        record.main(recording)
    assert not any(tmp_path.iterdir())


def test_a_key_does_not_both_move_the_arm_and_say_something(tmp_path: Path) -> None:
    """Guards against a verdict with every push to the left; a pedal's key may, and any beside a SpaceMouse."""
    wrong = actor.Config(run_dir=tmp_path, robot=NOBODY, operator="keyboard", console_keys="a=success")
    with pytest.raises(ConfigError, match="a would say something and move the arm"):
        actor.main(wrong)
    for operator, keys in (("keyboard", "b=success"), ("spacemouse", "a=success")):
        check_wanted(actor.Config(run_dir=tmp_path, operator=operator, console_keys=keys), 1)
