"""The container images: what they are made from exists, what they run is understood, and the recipe builds."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from robot_servers.__main__ import DRIVERS, build
from robot_servers.cameras.spec import parse_cameras
from robot_servers.interface import RobotError
from robot_servers.keys import load_client_keys, load_server_keys, make_keys
from robot_servers.real import ARMS
from serl_core import cli
from serl_core.session import check_metadata
from serl_core.tasks import load_task

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


def parsed(words: list[str]) -> Any:
    """The configuration that ``serl NAME …`` gets."""
    program, name, *options = words
    assert program == "serl"
    config = cli.parse(name, importlib.import_module(cli.COMMANDS[name]).Config, options)
    if name == "server":
        assert config.robot in {*DRIVERS, *ARMS}
        parse_cameras(config.camera)
    return config


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    """What each service runs where no variable is set. Fails for options that were renamed."""
    return {name: parsed(shlex.split(filled(found["command"]))) for name, found in services("compose.yaml").items()}


def test_what_is_served_fits_what_learner_and_actor_want(configs):
    """Guards the first start of a lab, with the fake arm: its scene, cameras, rate and limits against the task's."""
    server, learner, actor = (configs[name] for name in ("server", "learner", "actor"))
    assert (learner.task, learner.obs, learner.run_dir) == (actor.task, actor.obs, actor.run_dir)
    task = load_task(learner.task.replace("/opt/serl", str(ROOT)))
    robot = build(server.robot, server.scene, cameras=server.cameras or ())
    robot.connect()
    try:
        assert task.cameras and actor.obs == "pixels"
        check_metadata(task, actor.obs, robot.metadata, "the default server")
        robot.tighten(task.limits)
    finally:
        robot.close()


def words_of_the_readme() -> list[list[str]]:
    """Every command that a lab copies, as words; a backslash goes on in the next line."""
    text = "".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if not line.startswith("#")]


def test_the_commands_of_the_readme_exist(configs):
    """Guards the lines that a lab copies: compose files, profiles, services, and options of what runs in them."""
    known, recorded = services("compose.yaml"), False
    for words in words_of_the_readme():
        options = list(pairwise(words))
        if words[:2] == ["docker", "compose"]:
            files = {value for option, value in options if option == "-f"}
            assert files and all((ROOT / file).is_file() for file in files)
            for option, value in options:
                assert option != "--profile" or [value] in [found["profiles"] for found in known.values()]
                assert option != "--rm" or value in known
        if "serl" in words and "--help" not in words:
            config = parsed(words[words.index("serl") :])
            if words[words.index("serl") + 1] == "record":
                recorded = True
                assert config.out == configs["learner"].run_dir / "demos"  # where the learner looks
                assert (config.obs, config.keys) == (configs["actor"].obs, configs["actor"].keys)
                assert config.robot.rpartition(":")[2] == configs["actor"].robot.rpartition(":")[2]
    assert recorded
    assert re.search(r"^images:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_images_are_built_with_the_variables_before_they_run():
    """Guards against images without a GPU or without an arm's library: only compose's build reads the variables."""
    lines = [words for words in words_of_the_readme() if words[:2] == ["docker", "compose"]]
    built: set[tuple[str, ...]] = set()
    for words in lines:
        if "build" in words:
            built.add(tuple(words[: words.index("build")]))
        if words[-1] == "up":
            assert tuple(words[:-1]) in built
    assert any("docker/compose.gpu.yaml" in words for words in built)
    gpu = services("compose.gpu.yaml")
    assert gpu["learner"]["build"] == gpu["actor"]["build"]  # one image, whichever is built
    assert gpu["learner"]["build"]["args"].keys() == {"JAX"}


def test_each_computer_gets_the_keys_that_it_needs(tmp_path):
    """Guards against secrets where nobody needs them: the table against the files that are made and looked for."""
    make_keys(tmp_path)
    table = re.findall(r"^\| `([\w./]+)`(?: \(secret\))? \| (yes|no) \| (yes|no) \|", README, re.MULTILINE)
    assert {row[0].rstrip("/") for row in table} == {path.name for path in tmp_path.iterdir()}
    assert all(workstation == "yes" for _, _, workstation in table)
    for name, robot_pc, _ in table:
        if robot_pc == "no":
            (tmp_path / name).unlink()
    load_server_keys(tmp_path)
    with pytest.raises(RobotError):
        load_client_keys(tmp_path)
    copied = next(words for words in words_of_the_readme() if words[0] == "scp")[2:-1]
    assert {Path(path).name for path in copied} == {path.name for path in tmp_path.iterdir()}


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
    defaults = {found for text in texts for found in re.findall(r"\$\{(\w+):-([^}]+)\}", text)}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert used == rows.keys()
    assert {(name, value.replace("./", "docker/", 1)) for name, value in defaults} == {
        (name, re.findall(r"`(.+?)`", text)[0]) for name, text in rows.items()
    }
    assert "SERL_ROBOT" not in used  # an address, for the tests on hardware
    examples = re.findall(r"^(SERL_\w+)=(.*)$", README, re.MULTILINE) + re.findall(r"`(SERL_\w+)=(.*?)`", README)
    assert {"SERL_DRIVER", "SERL_EXTRAS", "SERL_OPERATOR"} <= {name for name, _ in examples} <= used
    for name, value in examples:
        if name == "SERL_DRIVER":
            parsed(["serl", "server", *shlex.split(value)])
