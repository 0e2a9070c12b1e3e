"""Who may import whom. Guards against arrows that point backwards and against jax on the robot's computer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("robot_servers", "serl_core")

# Room → rooms it may import from. A room is a module or a package of modules; importing within it is free.
TABLE: dict[str, set[str]] = {
    "robot_servers.interface": set(),
    "robot_servers.geometry": {"robot_servers.interface"},
    "robot_servers.wire": {"robot_servers.interface"},
    "robot_servers.safety": {"robot_servers.interface", "robot_servers.geometry"},
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    """Names of modules imported anywhere in the file, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_the_robot_computer_needs_no_jax_and_no_serl_core():
    """robot_servers runs on a machine that has neither."""
    for path in modules():
        if path.is_relative_to(ROOT / "robot_servers"):
            top = {name.split(".")[0] for name in imports_of(path)}
            assert not top & {"jax", "flax", "optax", "serl_core", "examples"}, path
