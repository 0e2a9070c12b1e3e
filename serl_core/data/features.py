"""Features that were computed once, on disk: a restarted learner need not run the trunk over everything again.

The file is disposable: it belongs to one trunk (its digest is in the name), frames are found by their own hash, and
what is torn or damaged is computed again. The frames themselves are in the episode store.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from serl_core.data.segments import write_all
from serl_core.types import Obs

log = logging.getLogger(__name__)

KEY = 16  # bytes of a frame's hash
LEAVE = 5_000_000_000  # bytes of the disk that stay free: recordings need them, and they cannot be made again


@final
class RememberedFeatures:
    """``encode``, except for what it has seen before. Use as a context manager; satisfies what `Replay` encodes with.

    ``example_obs`` is one raw observation, for the shape of what ``encode`` makes of it; ``digest`` names everything
    that this depends on.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        encode: Callable[[Obs], Mapping[str, npt.NDArray[Any]]],
        example_obs: Obs,
        say: Callable[..., None] = log.warning,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        stored = encode(example_obs)
        self._cameras = {name: stored[name] for name in sorted(stored.keys() - {"state"})}
        self._size = sum(x.nbytes for x in self._cameras.values())
        self._row = np.dtype([("key", "u1", (KEY,)), ("crc", "<u4"), ("features", "u1", (self._size,))])
        self._path = folder / f"{digest[:16]}-{self._size}.features"
        self._encode, self._say, self._free = encode, say, free
        self._rows: dict[bytes, int] = {}
        self._count = 0  # rows in the file
        self._full = False
        self._file: Any = None

    def __enter__(self) -> RememberedFeatures:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._count = self._path.stat().st_size // self._row.itemsize if self._path.exists() else 0
        mode = "r+b" if self._count else "w+b"
        self._file = self._path.open(mode, buffering=0)  # what a full disk refused must not come up again later
        self._file.truncate(self._count * self._row.itemsize)  # what was torn when the last writer ended
        if self._count:
            keys = np.memmap(self._path, self._row, "r")["key"]
            self._rows = {key.tobytes(): row for row, key in enumerate(keys)}
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, obs: Obs) -> dict[str, npt.NDArray[Any]]:
        """The observation with features for frames; from the file where they are there, intact."""
        key = _hash(obs, self._cameras)
        known = self._read(key)
        if known is not None:
            return {**obs, **known}
        fresh = dict(self._encode(obs))
        self._write(key, fresh)
        return fresh

    def _read(self, key: bytes) -> dict[str, npt.NDArray[Any]] | None:
        row = self._rows.get(key)
        if row is None:
            return None
        self._file.seek(row * self._row.itemsize)
        found = self._file.read(self._row.itemsize)
        data = found[KEY + 4 :]
        if found[: KEY + 4] != key + _check(data):
            return None  # damaged, or another process has written there too
        return self._split(data)

    def _split(self, data: bytes) -> dict[str, npt.NDArray[Any]]:
        parts, begin = {}, 0
        for name, like in self._cameras.items():
            parts[name] = np.frombuffer(data, like.dtype, like.size, begin).reshape(like.shape)
            begin += like.nbytes
        return parts

    def _write(self, key: bytes, fresh: Mapping[str, npt.NDArray[Any]]) -> None:
        """At the end of the file. A disk that is nearly full ends remembering, nothing else."""
        if self._full:
            return
        data = b"".join(fresh[name].tobytes() for name in self._cameras)
        try:
            if self._free(self._path.parent) < LEAVE:
                raise OSError(f"less than {LEAVE / 1e9:g} GB of the disk are free, and kept for recordings")
            self._file.seek(self._count * self._row.itemsize)
            write_all(self._file.fileno(), [key, _check(data), data])
        except OSError as error:
            self._full = True
            self._say("%s: %s; from now on features are computed again after a restart", self._path, error)
            return
        self._rows[key] = self._count
        self._count += 1


def _check(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _hash(obs: Obs, cameras: Mapping[str, Any]) -> bytes:
    state = hashlib.blake2b(digest_size=KEY)
    for name in cameras:
        state.update(np.ascontiguousarray(obs[name]).data)
    return state.digest()
