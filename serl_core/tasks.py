"""Find a task by name (a file in ``examples/tasks``) or by the path of its file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from robot_servers.interface import nearest
from serl_core.config import ConfigError, Task
from serl_core.pairs import AnyTask, PairTask

TASKS = Path(__file__).resolve().parent.parent / "examples" / "tasks"


def known_tasks() -> list[str]:
    """Names of the tasks that come with the project."""
    return sorted(path.stem for path in TASKS.glob("*.py") if not path.stem.startswith("_"))


def load_task(name: str) -> AnyTask:
    """The ``TASK`` of a task file. Raises `ConfigError` naming the nearest task, or what the file lacks."""
    path = Path(name) if name.endswith(".py") else TASKS / f"{name}.py"
    if not path.is_file():
        raise ConfigError(f'unknown task "{name}"{nearest(name, known_tasks())}')
    spec = importlib.util.spec_from_file_location(f"serl_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task | PairTask):
        raise ConfigError(f"{path}: a task file must define TASK = Task(…), or PairTask(…) for two arms")
    return task
