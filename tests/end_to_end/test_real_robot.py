"""The path to a real robot says only what can be typed: so every command is at least parsed."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from written import ROOT, check, lines

from robot_servers.conformance import __main__ as conformance
from robot_servers.files import read
from robot_servers.interface import Limits
from robot_servers.values import Tool
from serl_core import tasks

TEXT = (ROOT / "examples" / "real_robot.md").read_text()
LINES = lines(TEXT)
SERL = [words[1:] for words in LINES if words[0] == "serl"]
JSON = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_commands_to_check() -> None:
    """Guards this file against a document whose form it no longer understands."""
    assert {"server", "teach", "record", "learner", "actor", "eval", "stop", "recover"} <= {words[0] for words in SERL}
    known = {"serl", "python", "python3", "make", ".", ".venv/bin/uv"}
    assert {words[0] for words in LINES} <= known and len(JSON) == 2


@pytest.mark.parametrize("words", SERL, ids=" ".join)
def test_commands_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against options that were renamed while the document was not. The taught task stands for any."""
    known = tasks.load_task("peg_insertion")
    monkeypatch.setattr("written.load_task", lambda name: known if name == "tasks/plug.py" else tasks.load_task(name))
    check(*words)


def test_the_conformance_suite_is_called_as_it_is() -> None:
    """Guards the first thing that moves the arm."""
    (words,) = [words for words in LINES if words[:2] == ["python", "-m"]]
    assert words[2] == "robot_servers.conformance" and conformance.parser().parse_args(words[3:])


def test_extras_that_are_installed_exist() -> None:
    """Guards the environment of a robot PC."""
    declared = (ROOT / "pyproject.toml").read_text()
    for words in LINES:
        for option, extra in pairwise(words):
            assert option != "--extra" or re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


@pytest.mark.parametrize(("kind", "text"), list(zip((Limits, Tool), JSON, strict=True)), ids=("limits", "tool"))
def test_files_are_read_as_shown(kind: type, text: str, tmp_path: Path) -> None:
    """Guards limits and tool against names that the server does not know."""
    path = tmp_path / "file.json"
    path.write_text(json.dumps(json.loads(text)))
    assert read(kind, path)
