"""Lets the tests here import the helper module beside them, and start commands that end with the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serl_core.processes import Child, children, serl

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Child]]:
    """``start(name, *arguments)`` runs ``serl NAME …``; whatever is still running ends with the test."""
    with children() as running:

        def start(name: str, *arguments: str | int | Path) -> Child:
            log = tmp_path / "logs" / f"{len(running)}-{name}.log"
            running.append(Child(name, serl(name, *arguments), log))
            return running[-1]

        yield start


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips what needs pictures where none can be rendered; in CI that is a failure."""
    from pictures import pictures_or_skip  # beside this file, which is on the path only since this module is loaded

    pictures_or_skip(os.environ)
