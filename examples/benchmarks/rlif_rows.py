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
        """The rows in the order in which they were measured; a column that a row lacks is empty.

        Of rows of one name the last counts: it was measured again, with a larger budget.
        """
        rows = self._all()
        return list({self._name(row): row for row in rows}.values())

    def done(self) -> set[tuple[str, ...]]:
        """The names of the rows that exist."""
        return {self._name(row) for row in self._all()}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; the header comes with the first, and columns that are new since then at the end of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        header = self._header()
        if header != (known := self._known()):
            before = self._all() if known else []
            new = self._path.with_suffix(".new")
            with new.open("w", newline="") as file:
                writer = csv.DictWriter(file, header)
                writer.writeheader()
                writer.writerows(before)
            new.replace(self._path)
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, header, restval="", extrasaction="ignore").writerow(row)

    def _all(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            return [{**dict.fromkeys(self._fields, ""), **row} for row in csv.DictReader(file, restval="")]

    def _name(self, row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in self._fields[: self._key])

    def _known(self) -> tuple[str, ...]:
        """The file's columns."""
        if not self._path.exists():
            return ()
        with self._path.open(newline="") as file:
            return tuple(next(csv.reader(file), ()))

    def _header(self) -> tuple[str, ...]:
        """The file's columns, then those it lacks."""
        return tuple(dict.fromkeys((*self._known(), *self._fields)))
