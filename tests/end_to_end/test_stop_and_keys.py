"""The commands a person types when something is wrong, and the keys that a lab's machines share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from observed import complaint

from robot_servers.client import RobotClient
from robot_servers.keys import load_client_keys
from serl_core import recover
from serl_core.cli import run
from serl_core.processes import Child, serl


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["keys", str(tmp_path / "keys")]) == 0
    said = capsys.readouterr().out
    secrets = [(tmp_path / "keys" / name).read_text().strip() for name in ("server.key", "client.key")]
    assert "server.pub" in said and not any(secret in said for secret in secrets)
    return tmp_path / "keys"


def typed(word: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(serl(*arguments), input=word, capture_output=True, text=True, timeout=60, check=False)


def test_stop_and_recover_by_command(start: Callable[..., Child], folder: Path) -> None:
    """Guards against a stop that works in tests of its parts only, or that ends without a person's word."""
    server = start("server", "fake", "--port", "0", "--keys", folder)
    address = server.ready(60.0)[0]
    assert run(["stop", address, "--keys", str(folder), "--reason", "smoke"]) == 0
    with RobotClient(address, keys=load_client_keys(folder)) as robot:
        assert robot.status().mode == "stopped" and robot.status().reason == "smoke"
        assert typed("no\n", "recover", address, "--keys", folder).returncode == 1
        assert robot.status().mode == "stopped"
        assert "--yes" in complaint("recover", address, "--keys", folder)
        done = typed(f"{recover.WORD}\n", "recover", address, "--keys", folder)
        assert done.returncode == 0 and "fake is stopped: smoke" in done.stdout
        assert robot.status().mode != "stopped"
    assert "NOT STOPPED" in (said := complaint("stop", address)) and "keys" in said
    assert (folder / "server.key").read_text().strip() not in server.output()


def test_a_network_address_starts_with_keys_and_not_without(start: Callable[..., Child], folder: Path) -> None:
    """Guards against a robot on the network that anybody can move, and against keys that do not suffice."""
    assert "without keys" in complaint("server", "fake", "--host", "0.0.0.0", "--port", "0")
    address = start("server", "fake", "--host", "0.0.0.0", "--port", "0", "--keys", folder).ready(60.0)[0]
    with RobotClient(address.replace("0.0.0.0", "127.0.0.1"), keys=load_client_keys(folder)) as robot:
        robot.stop("through the socket that hello names")
        assert robot.status().mode == "stopped"
    (folder / "server.key").chmod(0o644)
    assert f"chmod 600 {folder}/server.key" in complaint("server", "fake", "--port", "0", "--keys", folder)
