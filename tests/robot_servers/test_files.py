import json

import pytest

from robot_servers.files import read
from robot_servers.interface import Limits, RobotError, Tool

BOX = {"box_low": [0.3, -0.2, 0.05], "box_high": [0.6, 0.2, 0.4]}


def write(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_left_out_keeps_its_careful_default(tmp_path):
    """Guards short files: a box is all that only the lab knows."""
    limits = read(Limits, write(tmp_path, {**BOX, "speed": 1}))
    assert limits == Limits((0.3, -0.2, 0.05), (0.6, 0.2, 0.4), speed=1.0)
    assert read(Tool, write(tmp_path, {"mass": 0.7})).mass == 0.7


@pytest.mark.parametrize(
    "content, text",
    [
        ({**BOX, "sped": 0.2}, 'unknown field "sped"; did you mean "speed"'),
        ({"box_low": [0, 0, 0]}, "box_high is missing"),
        ({**BOX, "box_low": [0.3, -0.2]}, "Limits.box_low: expected 3 items, got 2"),
        ({**BOX, "force": "much"}, "Limits.force: expected float"),
        ([1, 2], "expected an object"),
        ("{", "cannot read"),
    ],
)
def test_a_file_that_does_not_fit_names_the_field(tmp_path, content, text):
    """Guards against limits that were written down and are not enforced."""
    with pytest.raises(RobotError, match=text):
        read(Limits, write(tmp_path, content))


def test_a_file_that_is_not_there_is_named(tmp_path):
    """Guards the commonest typing error."""
    with pytest.raises(RobotError, match=r"nowhere\.json"):
        read(Limits, tmp_path / "nowhere.json")
