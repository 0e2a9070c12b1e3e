"""Who may import whom. Guards against arrows that point backwards and against jax on the robot's computer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCENES, DRIVERS, CAMERAS = "robot_servers.scenes", "robot_servers.drivers", "robot_servers.cameras"
GRIPPERS, SHARED = "robot_servers.grippers", "robot_servers.cameras.shared"
DRIVER_PARTS = {"robot_servers.interface", "robot_servers.geometry", "robot_servers.impedance", "robot_servers.arms"}
SERL = {"robot_servers.interface", "robot_servers.geometry", "robot_servers.serl_dialect"}
GUARDING = {"robot_servers.interface", "robot_servers.geometry", "robot_servers.limits"}
CONTRACT = {"robot_servers.interface", "robot_servers.geometry", "robot_servers.wire"}
CALLING = {"robot_servers.channel", "robot_servers.hello", "robot_servers.keys"}
SOCKETS = {"robot_servers.hello", "robot_servers.stop", "robot_servers.stream", SHARED}
SERVING = {"robot_servers.answering", "robot_servers.keys", "robot_servers.lease", "robot_servers.statistics"}
CONFIG = {"serl_core.config", "serl_core.pairs"}
PLAIN = {"robot_servers.interface", "robot_servers.geometry", "serl_core.types", "serl_core.clock", *CONFIG}
LOOPS = {"serl_core.actor", "serl_core.learner", "serl_core.evaluate", "serl_core.record", "serl_core.demo"}

# Room → rooms it may import from. A room is a module, or a package with all its modules; within it all is free.
TABLE: dict[str, set[str]] = {
    # the robot's computer
    "robot_servers.values": set(),
    "robot_servers.interface": {"robot_servers.values"},
    "robot_servers.geometry": {"robot_servers.interface"},
    "robot_servers.arms": {"robot_servers.interface", "robot_servers.limits"},
    "robot_servers.wire": {"robot_servers.interface"},
    "robot_servers.limits": {"robot_servers.interface", "robot_servers.geometry"},
    "robot_servers.slew": {"robot_servers.interface", "robot_servers.geometry", "robot_servers.limits"},
    "robot_servers.alarms": {"robot_servers.interface", "robot_servers.limits"},
    "robot_servers.safety": {*GUARDING, "robot_servers.slew", "robot_servers.alarms"},
    "robot_servers.recovery": {"robot_servers.interface"},
    "robot_servers.cycle": {*GUARDING, "robot_servers.safety", "robot_servers.resets", "robot_servers.recovery"},
    "robot_servers.impedance": {"robot_servers.interface", "robot_servers.geometry"},
    SCENES: {"robot_servers.interface", "robot_servers.geometry"},
    CAMERAS: {"robot_servers.interface", SCENES, SHARED},
    SHARED: {"robot_servers.interface"},
    DRIVERS: {*DRIVER_PARTS, SCENES, CAMERAS, GRIPPERS, "robot_servers.serl_dialect", "robot_servers.realtime"},
    GRIPPERS: {"robot_servers.interface"},
    "robot_servers.resets": GUARDING,
    "robot_servers.guarded": {*GUARDING, "robot_servers.safety", "robot_servers.resets", "robot_servers.cycle"},
    "robot_servers.company": {"robot_servers.interface", "robot_servers.guarded"},
    "robot_servers.lease": {"robot_servers.interface"},
    "robot_servers.realtime": set(),
    "robot_servers.jpeg": {"robot_servers.interface"},
    "robot_servers.keys": {"robot_servers.interface"},
    "robot_servers.statistics": {"robot_servers.interface"},
    "robot_servers.channel": {*CONTRACT, "robot_servers.keys", "robot_servers.lease"},
    "robot_servers.hello": {*CONTRACT, "robot_servers.channel"},
    "robot_servers.answering": {*CONTRACT, "robot_servers.keys", "robot_servers.lease", "robot_servers.statistics"},
    "robot_servers.stop": {*CONTRACT, "robot_servers.answering", *CALLING},
    "robot_servers.stream": {*CONTRACT, "robot_servers.answering", *CALLING},
    "robot_servers.preflight": {"robot_servers.interface", "robot_servers.realtime"},
    "robot_servers.server": {*CONTRACT, *SERVING, *SOCKETS, "robot_servers.jpeg"},
    "robot_servers.serl_dialect": {"robot_servers.interface"},
    "robot_servers.http_face": SERL,
    "robot_servers.http_options": {"robot_servers.serl_dialect"},
    "robot_servers.http": {*SERL, "robot_servers.http_face", "robot_servers.http_options"},
    "robot_servers.client": {
        *CONTRACT,
        *CALLING,
        SHARED,
        "robot_servers.jpeg",
        "robot_servers.lease",
        "robot_servers.statistics",
    },
    "robot_servers.conformance": {
        *CONTRACT,
        *CALLING,
        "robot_servers.stream",
        "robot_servers.client",
        "robot_servers.lease",
    },
    "robot_servers.files": CONTRACT,
    "robot_servers.real": {
        *CONTRACT,
        "robot_servers.serl_dialect",
        "robot_servers.arms",
        "robot_servers.files",
        DRIVERS,
        GRIPPERS,
    },
    "robot_servers.__main__": {
        *CONTRACT,
        "robot_servers.arms",
        "robot_servers.guarded",
        "robot_servers.company",
        "robot_servers.server",
        "robot_servers.client",
        "robot_servers.http",
        "robot_servers.http_face",
        "robot_servers.http_options",
        "robot_servers.serl_dialect",
        "robot_servers.keys",
        "robot_servers.preflight",
        "robot_servers.realtime",
        "robot_servers.files",
        "robot_servers.real",
        DRIVERS,
        SCENES,
        CAMERAS,
    },
    # contracts
    "serl_core.types": set(),
    "serl_core.clock": set(),
    "serl_core.config": {"robot_servers.interface"},
    "serl_core.pairs": {"serl_core.config", "robot_servers.interface"},
    "serl_core.tasks": {*CONFIG, "robot_servers.interface"},
    # the actor's side, without jax
    "serl_core.teleop": {*PLAIN, "serl_core.envs"},
    "serl_core.envs": {*PLAIN, "serl_core.teleop"},
    "serl_core.session": {*PLAIN, "robot_servers.client", "robot_servers.keys", "serl_core.envs", "serl_core.teleop"},
    "serl_core.devices": {*PLAIN, "serl_core.teleop", "serl_core.summary"},
    "serl_core.attendance": {
        *("robot_servers.interface", "robot_servers.keys", "robot_servers.stop", *CONFIG),
        *("serl_core.session", "serl_core.envs", "serl_core.teleop"),
    },
    "serl_core.recording": {
        *("serl_core.types", *CONFIG, "serl_core.session", "serl_core.attendance", "serl_core.rollout"),
        *("serl_core.envs", "serl_core.teleop", "serl_core.data", "serl_core.outage"),
    },
    "serl_core.helping": {
        *(*CONFIG, "serl_core.agents", "serl_core.checkpoint", "serl_core.summary"),
        *("serl_core.envs", "serl_core.teleop"),
    },
    "serl_core.outage": {"robot_servers.interface", "robot_servers.channel"},
    "serl_core.jog": PLAIN,
    "serl_core.taskfile": {"robot_servers.interface", "robot_servers.geometry", "serl_core.config"},
    "serl_core.teacher": {*PLAIN, "robot_servers.limits", CAMERAS, "serl_core.jog", "serl_core.taskfile"},
    "serl_core.teach": {
        *("robot_servers.interface", "robot_servers.client", "robot_servers.keys", *CONFIG),
        *("serl_core.tasks", "serl_core.taskfile", "serl_core.teacher"),
    },
    "serl_core.rollout": {"serl_core.types"},
    "serl_core.latency": {"serl_core.types", "serl_core.rollout"},
    "serl_core.verdicts": {"serl_core.types", "serl_core.teleop"},
    "serl_core.course": {*PLAIN, "serl_core.envs"},
    "serl_core.advice": {"serl_core.types", "serl_core.pairs", "serl_core.course"},
    "serl_core.summary": {"serl_core.types", "serl_core.config"},
    "serl_core.progress": set(),
    "serl_core.processes": set(),
    "serl_core.priority": set(),
    "serl_core.franka_sim": {"serl_core.processes"},
    "serl_core.simulated": {*CONFIG, "serl_core.processes"},
    # the learner's side
    "serl_core.nets": set(),
    "serl_core.agents": {"serl_core.nets", "serl_core.types"},
    "serl_core.judging": {
        *("serl_core.types", *CONFIG, "serl_core.data", "serl_core.nets", "serl_core.agents", "serl_core.envs"),
        *("serl_core.progress", "serl_core.metrics"),
    },
    "serl_core.limiter": set(),
    "serl_core.syncing": set(),
    "serl_core.data": {"serl_core.types", "serl_core.syncing", "robot_servers.wire"},
    "serl_core.engine": {"serl_core.nets", "serl_core.data"},
    "serl_core.following": {"serl_core.data", "serl_core.types"},
    "serl_core.label": {"robot_servers.interface", "serl_core.config", "serl_core.types", "serl_core.data"},
    "serl_core.checkpoint": {"robot_servers.wire"},
    "serl_core.metrics": set(),
    # between them
    "serl_core.link": {
        *("serl_core.types", "serl_core.syncing", "serl_core.pages", "robot_servers.wire", "robot_servers.keys"),
    },
    "serl_core.pages": set(),
    "serl_core.transport": {"serl_core.link"},
}


def modules() -> list[Path]:
    return sorted(path for package in ("robot_servers", "serl_core") for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    """The longest entry of the table that contains the module, or the module itself."""
    rooms = [room for room in (*TABLE, *LOOPS) if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=module)


def imports_of(path: Path) -> set[str]:
    """Names of modules imported anywhere in the file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(path: Path) -> set[str]:
    """Rooms of ours that the file imports from."""
    known = {name_of(module) for module in modules()}
    packages = {"robot_servers", "serl_core"}
    return {room_of(name) for name in imports_of(path) if name in known - packages}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_follow_the_table(path):
    """Each room sees only the rooms the table grants it."""
    room = room_of(name_of(path))
    if room in TABLE:
        assert ours(path) - {room} <= TABLE[room]


def test_actor_and_learner_share_only_the_wire():
    """They run on different machines: neither may need the other's code at run time."""
    assert "serl_core.learner" not in ours(ROOT / "serl_core/actor.py")
    assert not ours(ROOT / "serl_core/learner.py") & {"serl_core.actor", "serl_core.session", "robot_servers.client"}


def test_nothing_imports_examples():
    """Tasks are found by name, at run time."""
    for path in modules():
        assert not {name.split(".")[0] for name in imports_of(path)} & {"examples", "tests"}, path


@pytest.mark.parametrize(
    "package",
    ["robot_servers", "serl_core.envs", "serl_core.teleop", "serl_core.session", "serl_core.teach", "serl_core.demo"],
)
def test_importable_without_jax(package):
    """The robot's computer and the actor's wrappers must not wait for jax, nor need it."""
    names = [n for n in map(name_of, modules()) if n.startswith(package) and "__main__" not in n]
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['jax', 'flax', 'optax']))\n"  # None: importing them raises ImportError
        f"import {', '.join(names)}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
