"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a directory ``000007_step_1200`` (counted in the order of saving, so that a run which
went back to an earlier step goes on from its newest one) with two files: ``tree.bin`` (a tree of plain values
and arrays, `robot_servers.wire.pack`; no pickle) and ``complete.json`` (step, size, SHA-256). It is
written under another name, synced, and renamed last; older ones go only after that. Whoever copies
the directory to another machine can resume there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robot_servers import wire

log = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 16 << 30


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the text says why and what to do next."""


class Checkpoints:
    """The newest ``keep`` checkpoints under ``root``. One writer at a time."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        if keep < 1:
            raise CheckpointError(f"keep={keep}: at least one checkpoint must stay")
        self.root = Path(root)
        self._keep = keep

    def save(self, step: int, tree: Mapping[str, Any]) -> Path:
        """Write ``tree``: nested dicts of arrays and plain values. Raises `CheckpointError`; older ones stay.

        Tuples come back as lists. Integers over 64 bit (numpy's generator states) go in as JSON text.
        """
        try:
            blob = wire.pack(tree)
            return self._write(step, blob)
        except (wire.WireError, OSError) as error:
            raise CheckpointError(f"{self.root}: checkpoint of step {step} not written: {error}") from error

    def latest(self) -> Path | None:
        """The newest complete checkpoint, None if there is none; incomplete ones are logged and skipped."""
        for path in reversed(self._all()):
            fault = _fault(path)
            if not fault:
                return path
            log.warning("%s skipped: %s", path, fault)
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """The tree of a checkpoint; arrays are read-only. Raises `CheckpointError` if it is damaged."""
        fault = _fault(path)
        if fault:
            raise CheckpointError(f"{path} cannot be loaded: {fault}; take an older one")
        try:
            return wire.unpack((path / "tree.bin").read_bytes(), max_bytes=MAX_BYTES)
        except wire.WireError as error:
            raise CheckpointError(f"{path}/tree.bin: {error}; take an older one") from error

    def _all(self) -> list[Path]:
        return sorted(self.root.glob("[0-9]*_step_*"))

    def _write(self, step: int, blob: bytes) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        for left_over in self.root.glob("writing_*"):  # of a killed process
            shutil.rmtree(left_over)
        beside = self.root / f"writing_{os.getpid()}"
        beside.mkdir()
        marker = {"format": FORMAT, "step": step, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        _write_synced(beside / "tree.bin", blob)
        _write_synced(beside / "complete.json", json.dumps(marker).encode())
        _sync_directory(beside)
        number = max((int(path.name.split("_")[0]) for path in self._all()), default=0) + 1
        path = self.root / f"{number:06d}_step_{step}"
        beside.rename(path)
        _sync_directory(self.root)
        self._prune()
        return path

    def _prune(self) -> None:
        for path in self._all()[: -self._keep]:
            (path / "complete.json").unlink(missing_ok=True)
            shutil.rmtree(path)


def _fault(path: Path) -> str:
    """Why the checkpoint is not complete, or an empty text."""
    try:
        marker = json.loads((path / "complete.json").read_text())
        with (path / "tree.bin").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, RecursionError) as error:
        return f"incomplete ({error})"
    if not isinstance(marker, dict) or marker.get("format") != FORMAT:
        return f"its format is not {FORMAT}"
    return "" if marker.get("sha256") == digest else "its hash does not match"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
