"""Rows of a CSV as the memory of a study: what is there is not measured again."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class Rows:
    """The file at ``path`` with the columns ``fields``, of which the first ``key`` name a row."""

    def __init__(self, path: Path, fields: Sequence[str], key: int) -> None:
        self._path = path
        self._fields = tuple(fields)
        self._key = key

    def read(self) -> list[dict[str, str]]:
        """The rows in the order in which they were first measured; a column that a row lacks is empty.

        Of rows of one name, which other programs may have written, the last counts.
        """
        return list(self._named().values())

    def done(self) -> set[tuple[str, ...]]:
        """The names of the rows that exist."""
        return set(self._named())

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, or put it in the place of the one of its name: that was measured again, with a larger budget.

        The file is written anew beside itself and renamed, so that a kill or a reader at any moment finds whole rows;
        columns that are new since it was begun come at the end. Processes that append to one file take turns.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self._path.parent):
            header, rows = self._header(), self._named()
            rows[self._name(row)] = {name: row.get(name, "") for name in header}
            self._write(header, rows.values())

    def _write(self, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        beside = self._path.with_suffix(".new")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())  # a row may have taken an hour
        beside.replace(self._path)

    def _named(self) -> dict[tuple[str, ...], dict[str, Any]]:
        if not self._path.exists():
            return {}
        with self._path.open(newline="") as file:
            rows = [{**dict.fromkeys(self._fields, ""), **row} for row in csv.DictReader(file, restval="")]
        return {self._name(row): row for row in rows}

    def _name(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in self._fields[: self._key])

    def _header(self) -> tuple[str, ...]:
        """The file's columns, then those it lacks."""
        known: tuple[str, ...] = ()
        if self._path.exists():
            with self._path.open(newline="") as file:
                known = tuple(next(csv.reader(file), ()))
        return tuple(dict.fromkeys((*known, *self._fields)))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for whoever else writes in this folder. The folder itself is locked: a file of its own would stay behind."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)  # which ends the lock
