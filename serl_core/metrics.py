"""Metrics as JSON lines: one flat dict per line, readable with any tool, appended across restarts."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

log = logging.getLogger(__name__)

Value: TypeAlias = str | int | float | bool | None


class Metrics:
    """Appends rows to ``path``. Each row is written through at once; a kill loses none before it.

    Opens nothing before the first `write`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._fd = -1

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, wall: float, **values: Value | np.generic) -> None:
        """One row; ``wall`` s since 1970. NaN and infinity become null, numpy scalars plain numbers.

        Raises ValueError for a value that is not a number, a bool, a text or None.
        """
        row = {"step": step, "wall": wall} | {name: _plain(name, value) for name, value in values.items()}
        os.write(self._open(), (json.dumps(row) + "\n").encode())

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")  # so that the torn line stays the only one that is lost
        return self._fd


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of ``path``, an empty list if it does not exist; torn lines are left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            log.warning("%s: a torn line is left out", path)
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _plain(name: str, value: Value | np.generic) -> Value:
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, (str, int, float, bool, type(None))):
        raise ValueError(f"metric {name!r}: a {type(value).__name__} is not a plain value; reduce it first")
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
