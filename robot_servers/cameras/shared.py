"""The newest frames in memory that the server shares with clients on its own machine: no copy through a socket.

The memory has no file (memfd): its name is the server's process, its descriptor there and a token. So nothing is
left behind by a killed server, and on another machine, or in another container, the name leads nowhere: then
`attach` gives None and the client asks over the wire. Real time only: in lockstep pictures are made when asked for.

Layout: a header, then for each camera in the order of names a count of pictures and `SLOTS` slots written in turn.
A slot carries a checksum of all it holds, so that a picture that is overwritten while it is read, or that its
writer left unfinished, is never taken for one; the count names the newest finished slot.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_servers.interface import Frame, RobotError

log = logging.getLogger(__name__)

SLOTS = 3  # a reader has two more pictures' time to copy one
TRIES = 5  # of a reader whose slot was overwritten meanwhile
LOOK = 0.005  # s between the writer's looks at the newest frames: what a picture waits at most
DEAD = 0.25  # s without a look after which readers ask over the wire: the writer is gone, hangs, or has an error
GOODBYE = 2.0  # s for the writer's thread to end
Sizes = Mapping[str, tuple[int, int]]  # camera → (height, width)

HEADER = np.dtype([("token", "u1", (16,)), ("looked", "<f8")])
HEAD = np.dtype(
    [("check", "<u8"), ("time", "<f8"), ("number", "<i8"), ("posed", "<i8"), ("pose", "<f8", (7,)), ("deep", "<i8")]
)


def shareable() -> bool:
    """Whether this system has memory without a file."""
    return sys.platform.startswith("linux")


def layout(sizes: Sizes) -> np.dtype:
    """Of the whole memory, as one structured type, the same on both sides."""
    cameras = [(name, np.dtype([("count", "<u8"), ("slots", _slot(*sizes[name]), (SLOTS,))])) for name in sorted(sizes)]
    return np.dtype([("header", HEADER), ("cameras", np.dtype(cameras, align=True))], align=True)


def _slot(height: int, width: int) -> np.dtype:
    fields: list[Any] = [("head", HEAD), ("image", "u1", (height, width, 3)), ("depth", "<u2", (height, width))]
    return np.dtype(fields, align=True)


def _view(memory: mmap.mmap, sizes: Sizes) -> npt.NDArray:
    return np.frombuffer(memory, layout(sizes), 1)


def _checksum(head: npt.NDArray, image: npt.NDArray[np.uint8], depth: npt.NDArray[np.uint16] | None) -> int:
    """Of everything in a slot but the checksum itself."""
    value = zlib.crc32(image.data, zlib.crc32(head.tobytes()[8:]))
    return value if depth is None else zlib.crc32(depth.data, value)


class FrameWriter:
    """The server's end. `open` makes the memory, `write` puts the newest frames there; call both from one thread."""

    def __init__(self, sizes: Sizes) -> None:
        self.name = ""
        self._sizes = dict(sizes)
        self._descriptor = -1
        self._view: Any = None

    def open(self) -> None:
        self._descriptor = os.memfd_create("robot-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        length = layout(self._sizes).itemsize
        os.ftruncate(self._descriptor, length)
        # whoever maps it can rely on its length: shrinking it would kill readers with SIGBUS
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._view = _view(mmap.mmap(self._descriptor, length), self._sizes)
        token = secrets.token_bytes(16)
        self._view["header"]["token"][0] = np.frombuffer(token, np.uint8)
        self.name = f"memfd:{os.getpid()}:{self._descriptor}:{token.hex()}"

    def close(self) -> None:
        if self._view is None:
            return
        self._view["header"]["looked"][0] = 0.0  # readers need not wait to see that it is over
        self._view = None  # the memory goes with the last view of it
        os.close(self._descriptor)

    def write(self, frames: Mapping[str, Frame], now: float) -> None:
        """The frames that are new, and that they were looked at ``now`` (s, monotonic clock).

        Raises `RobotError` for an image that has not the size its camera was declared with.
        """
        for name, frame in frames.items():
            camera = self._view["cameras"][name]
            count = int(camera["count"][0])
            if count == 0 or camera["slots"][0, (count - 1) % SLOTS]["head"]["number"] != frame.number:
                self._put(camera["slots"][0, count % SLOTS], name, frame)
                camera["count"][0] = count + 1
        self._view["header"]["looked"][0] = now

    def _put(self, slot: Any, name: str, frame: Frame) -> None:
        wanted = (*self._sizes[name], 3)
        if frame.image.shape != wanted:
            raise RobotError(f"camera {name}: an image of {frame.image.shape}, declared are {wanted}")
        head = np.zeros((), HEAD)
        head["time"], head["number"], head["deep"] = frame.time, frame.number, frame.depth is not None
        if frame.pose is not None:
            head["posed"], head["pose"] = 1, frame.pose
        slot["image"] = frame.image
        if frame.depth is not None:
            slot["depth"] = frame.depth
        head["check"] = _checksum(head, slot["image"], None if frame.depth is None else slot["depth"])
        slot["head"] = head


class FrameReader:
    """The client's end; `attach` makes it. ``now`` is the monotonic clock, which all processes of a machine share."""

    def __init__(self, memory: mmap.mmap, sizes: Sizes, now: Callable[[], float] = time.monotonic) -> None:
        self._view: Any = _view(memory, sizes)
        self._names = sorted(sizes)
        self._now = now

    def frames(self) -> dict[str, Frame] | None:
        """Copies of the newest frames; None if nobody looks after them any more: then ask over the wire."""
        view = self._view
        if view is None or self._now() - float(view["header"]["looked"][0]) > DEAD:
            return None
        frames: dict[str, Frame] = {}
        for name in self._names:
            camera = view["cameras"][name]
            if int(camera["count"][0]) == 0:
                continue
            frame = _newest(camera)
            if frame is None:
                return None
            frames[name] = frame
        return frames

    def close(self) -> None:
        self._view = None  # the memory goes with the last view of it


def _newest(camera: Any) -> Frame | None:
    """None if the writer was faster than this reader `TRIES` times in a row."""
    for _ in range(TRIES):
        slot = camera["slots"][0, (int(camera["count"][0]) - 1) % SLOTS]
        head, image = slot["head"].copy(), slot["image"].copy()
        depth = slot["depth"].copy() if head["deep"] else None
        if int(head["check"]) == _checksum(head, image, depth):
            image.setflags(write=False)
            pose = head["pose"].copy() if head["posed"] else None
            return Frame(image, float(head["time"]), int(head["number"]), pose, depth)
    return None


def attach(name: str, sizes: Sizes, now: Callable[[], float] = time.monotonic) -> FrameReader | None:
    """The memory that a server calls ``name``; None if it cannot be reached from here, or is not the one meant."""
    kind, *parts = name.split(":")
    if kind != "memfd" or len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    try:
        # another machine may have anything under this number, even a pipe that would block
        descriptor = os.open(f"/proc/{parts[0]}/fd/{parts[1]}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        memory = _mapped(descriptor, parts[2], sizes)
    finally:
        os.close(descriptor)
    return None if memory is None else FrameReader(memory, sizes, now)


def _mapped(descriptor: int, token: str, sizes: Sizes) -> mmap.mmap | None:
    length = layout(sizes).itemsize
    if os.fstat(descriptor).st_size != length:
        return None
    with contextlib.suppress(OSError, ValueError):
        memory = mmap.mmap(descriptor, length, prot=mmap.PROT_READ)
        if memory[:16].hex() == token:
            return memory
        memory.close()
    return None


class FramePublisher:
    """Looks for new frames in a thread of its own and writes them. ``newest`` must not wait, like `Robot.frames`."""

    def __init__(
        self,
        newest: Callable[[], Mapping[str, Frame]],
        sizes: Sizes,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = FrameWriter(sizes)
        self._newest = newest
        self._now = now
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """What clients are told; valid once it is open."""
        return self._writer.name

    def open(self) -> None:
        self._writer.open()
        self._thread = threading.Thread(target=self._work, name="shared frames", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(GOODBYE)
            if not self._thread.is_alive():  # else it may still write: the memory ends with the process
                self._writer.close()
            self._thread = None

    def _work(self) -> None:
        trouble = ""
        while not self._closing.wait(LOOK):
            try:
                self._writer.write(self._newest(), self._now())
                trouble = ""
            except RobotError as error:  # readers see that nobody looks, ask over the wire, and are told the same
                if str(error) != trouble:
                    log.warning("frames are not shared: %s", error)
                trouble = str(error)
