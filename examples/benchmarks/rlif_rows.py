"""Rows of a CSV as the memory of a study: what is there is not measured again."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Rows:
    """The file at ``path`` with the columns ``fields``, of which the first ``key`` name a row."""

    def __init__(self, path: Path, fields: Sequence[str], key: int) -> None:
        self._path = path
        self._fields = tuple(fields)
        self._key = key

    def read(self) -> list[dict[str, str]]:
        """All rows, in the order in which they were measured."""
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return list(csv.DictReader(file))

    def done(self) -> set[tuple[str, ...]]:
        """The names of the rows that exist."""
        return {tuple(row[name] for name in self._fields[: self._key]) for row in self.read()}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; the header comes with the first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._fields, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)
