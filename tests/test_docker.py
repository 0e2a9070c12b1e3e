"""The container images: what they are made from exists, what they run is understood, and the recipe builds."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from robot_servers.__main__ import DRIVERS
from serl_core import cli

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
RECIPE = (DOCKER / "Dockerfile").read_text()
README = (DOCKER / "README.md").read_text()
BASE = os.environ.get("SERL_BASE_IMAGE", "localhost/serl-base")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENV = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", **os.environ}
SERVE = (  # a child in the background ignores SIGINT, so it is ended by SIGTERM
    "python -m robot_servers fake --port 0 > /tmp/out 2>&1 & "
    "for i in $(seq 600); do grep -q ready /tmp/out && break; sleep 0.1; done; "
    "kill $!; wait $!; echo status $?; cat /tmp/out"
)


def buildah(*arguments: str | Path, check: bool = True) -> str:
    """What ``buildah …`` prints; it runs behind everything else on this machine."""
    done = subprocess.run(
        ["nice", "-n", "19", "buildah", *map(str, arguments)], capture_output=True, text=True, env=ENV
    )
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def unfit() -> str:
    """Why no image can be built here, or nothing."""
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    if os.geteuid() != 0:
        return "without root, chroot isolation needs user namespaces that many machines forbid"
    if not buildah("images", "--quiet", BASE, check=False).strip():
        return f"there is no base image {BASE}; docker/README.md says how to make one, SERL_BASE_IMAGE names another"
    return ""


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image with the fewest packages that serve a robot."""
    reason = unfit()
    if reason:
        pytest.skip(reason)
    image = "localhost/serl-test"
    certificates = ["-v", f"{CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
    arguments = [f"--build-arg={value}" for value in (f"BASE={BASE}", "EXTRAS=", "SYSTEM=")]
    buildah("build", "--layers", *arguments, *certificates, "-f", DOCKER / "Dockerfile", "-t", image, ROOT)
    name = buildah("from", "--pull-never", image).strip()
    yield name
    buildah("rm", name)


def test_the_image_serves_a_robot(container):
    """Guards the recipe: the packages of the lock file, the command, a user without privileges, files it can write."""
    assert cli.usage() in buildah("run", container, "--", "serl", "--help")
    served = buildah("run", container, "--", "sh", "-c", SERVE)
    assert re.search(r"^status 0\nready tcp://127.0.0.1:\d+", served), served
    assert buildah("run", container, "--", "sh", "-c", "id -u; touch /data/x && echo kept").split() == ["1000", "kept"]
    assert not buildah(
        "run", container, "--", "sh", "-c", "find /opt/serl /opt/venv -writable ! -type l ! -name .lock"
    ).strip()


# ── what can be checked anywhere ─────────────────────────────────────────────────────────────────


def copied() -> list[str]:
    """Paths that the recipe takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", RECIPE, re.MULTILINE)
    return [path for line in lines for path in line.split()]


def test_what_is_copied_exists_and_is_let_through():
    """Guards the recipe against files that move, and the filter of the build context against forgetting them."""
    allowed = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    assert {"pyproject.toml", "uv.lock", "robot_servers", "serl_core"} <= set(copied())
    for path in copied():
        assert (ROOT / path).exists(), path
        assert path in allowed
    assert os.access(DOCKER / "serl", os.X_OK)


def test_the_recipe_keeps_to_what_every_builder_understands():
    """Guards builders other than BuildKit, and privileges: no heredoc, a base that can be replaced, no root."""
    assert "<<" not in RECIPE and "--mount" not in RECIPE
    assert re.search(r"^ARG BASE=", RECIPE, re.MULTILINE)
    assert {"${BASE}", "system"} == set(re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE))
    assert re.findall(r"^USER (\S+)", RECIPE, re.MULTILINE) == ["serl"]


def filled(text: str) -> str:
    """As compose fills it in where no variable is set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)


def services(name: str) -> dict[str, dict]:
    yaml = pytest.importorskip("yaml", reason="reading compose files needs the package pyyaml")
    return yaml.safe_load((DOCKER / name).read_text())["services"]


def test_the_commands_of_the_services_are_understood():
    """Guards the compose file against options that were renamed."""
    for service in services("compose.yaml").values():
        program, name, *options = shlex.split(filled(service["command"]))
        assert program == "serl"
        config = cli.parse(name, importlib.import_module(cli.COMMANDS[name]).Config, options)
        assert name != "server" or config.robot in DRIVERS


def test_the_commands_of_the_readme_exist():
    """Guards the first lines that a lab copies."""
    block = README.split("```sh\n")[1].split("```")[0]
    assert set(re.findall(r" serl (\S+)", block)) <= {*cli.COMMANDS, "--help"}
    assert set(re.findall(r"-f (\S+)", block)) == {"docker/compose.yaml"}
    profiles = set(re.findall(r"--profile (\w+)", block))
    assert profiles and profiles <= {
        profile for found in services("compose.yaml").values() for profile in found["profiles"]
    }
    assert re.search(r"^images:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_services_are_what_a_lab_of_two_computers_needs():
    """Guards real-time rights, devices and the network of the robot PC, and that no arm starts by itself."""
    found = services("compose.yaml")
    assert {name: service["profiles"] for name, service in found.items()} == {
        "server": ["robot"],
        "learner": ["learner"],
        "actor": ["actor"],
    }
    assert all(service["network_mode"] == "host" and service["restart"] == "no" for service in found.values())
    server = found["server"]
    assert server["cap_add"] == ["SYS_NICE"] and server["ulimits"] == {"rtprio": 99, "memlock": -1}
    assert "/dev:/dev" in server["volumes"] and "c 189:* rmw" in server["device_cgroup_rules"]
    for service in found.values():
        arguments = service["build"]["args"]
        assert arguments.keys() <= set(re.findall(r"^ARG (\w+)", RECIPE, re.MULTILINE))
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
        assert set(filled(arguments["EXTRAS"]).split()) <= known
    assert services("compose.gpu.yaml").keys() <= found.keys()


def test_every_variable_is_explained():
    """Guards a lab against variables that only the compose file knows, and the README against ones that are gone."""
    texts = [path.read_text() for path in DOCKER.glob("compose*.yaml")]
    used = {name for text in texts for name in re.findall(r"\$\{(\w+)", text)}
    assert used == set(re.findall(r"^\| `(\w+)`", README, re.MULTILINE))
