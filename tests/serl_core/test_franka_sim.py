import subprocess

import pytest

from serl_core import cli
from serl_core.config import ConfigError
from serl_core.franka_sim import launch
from serl_core.processes import ChildFailed


def test_an_environment_that_cannot_be_made_names_the_package(monkeypatch, tmp_path):
    """Guards a machine without network: one line that says what could not be installed, and nothing half made."""

    def fails(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="trying\nno route to the index")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(launch.subprocess, "run", fails)
    with pytest.raises(ChildFailed, match=r"franka-sim==.* cannot be made: no route to the index"):
        launch.environment()
    assert list(launch.cache().parent.iterdir()) == []


def test_an_environment_is_made_once(monkeypatch, tmp_path):
    """Guards every later start against the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    python = launch.cache() / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(launch.subprocess, "run", None)
    assert launch.environment() == python


def test_the_emulated_arm_takes_only_tasks_it_can_do(tmp_path):
    """Guards against minutes of recording a task whose objects are not there."""
    with pytest.raises(ConfigError, match="choose --task reach"):
        cli.run(["demo", "--robot", "franka-sim", "--task", "pick_cube", "--run-dir", str(tmp_path)])
