# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""Renders a simulated scene in a process of its own: a rendering thread would stall the physics.

The physics offers a snapshot at most ``FPS`` times a second, and only when the last one has come back,
so that the pipe never holds more than one and pictures are always of the newest state offered. Only a
thread of its own ever waits for the pipe: half a message from a process that died or stands still must
block neither the control cycle nor the server. Messages are raw arrays: positions one way, pixels the other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection

import mujoco
import numpy as np

from robot_servers.cameras.simulated import RenderingUnavailable, SimulatedCameras
from robot_servers.interface import Frame, RobotError
from robot_servers.scenes import load_scene

FPS = 30.0
START_TIMEOUT = 60.0  # s: the new process imports and compiles the scene
STOP_TIMEOUT = 2.0  # s
OK, FAILED = b"+", b"-"
END = b""  # instead of a snapshot: no more will come


def _snapshot(data: mujoco.MjData, model: mujoco.MjModel) -> bytes:
    """Joint positions, and the body positions, because placing a block moves a body of the model."""
    return data.qpos.tobytes() + model.body_pos.tobytes()


def _restore(message: bytes, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    values = np.frombuffer(message)
    data.qpos[:] = values[: model.nq]
    model.body_pos[:] = values[model.nq :].reshape(-1, 3)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def _serve(pipe: Connection, scene: str, names: tuple[str, ...], size: tuple[int, int]) -> None:
    """Body of the rendering process; ends when told so or the pipe closes, so Ctrl-C is left to the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = load_scene(scene).build()
    data = mujoco.MjData(model)
    try:
        cameras = SimulatedCameras(model, names, size)
    except RobotError as error:
        pipe.send_bytes(FAILED + str(error).encode())
        return
    with cameras:
        pipe.send_bytes(OK)
        try:
            while message := pipe.recv_bytes():
                _restore(message, model, data)
                pipe.send_bytes(b"".join(image.tobytes() for image in cameras.render(data).values()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


class ProcessRig:
    """Newest pictures from the rendering process, for the realtime clock; only the very first ones are waited for."""

    def __init__(self, model: mujoco.MjModel, scene: str, cameras: Mapping[str, tuple[int, int]]) -> None:
        self._model, self._scene = model, scene
        self._names, self._size = tuple(cameras), next(iter(cameras.values()))
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._receiver: threading.Thread | None = None
        self._news = threading.Condition()  # guards what follows
        self._frames: dict[str, Frame] = {}
        self._sent: float | None = None  # time of the snapshot on its way
        self._last = -np.inf
        self._number = 0
        self._failure = ""

    def open(self) -> None:
        """Start the process. Raises `RenderingUnavailable` if it cannot render, `RobotError` if it does not start."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._scene, self._names, self._size)
        process = context.Process(target=_serve, args=arguments, name="cameras", daemon=True)
        process.start()
        self._process = process
        theirs.close()
        try:
            _greet(self._pipe)
        except RobotError:
            self.close()
            raise
        self._receiver = threading.Thread(target=self._receive, args=(self._pipe,), name="pictures", daemon=True)
        self._receiver.start()

    def close(self) -> None:
        """End the process, and with it the thread that reads from it: closing the pipe would not wake it."""
        if self._pipe is None or self._process is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(END)
        self._process.join(STOP_TIMEOUT)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        if self._receiver is not None:
            self._receiver.join(STOP_TIMEOUT)
        self._pipe.close()
        self._pipe = self._process = self._receiver = None

    def offer(self, data: mujoco.MjData, time: float) -> None:
        """Never waits and never raises: a dead camera must not stop the arm's control, it fails in `frames`."""
        with self._news:
            if self._pipe is None or self._failure or self._sent is not None or time - self._last < 1.0 / FPS:
                return
            self._sent = self._last = time
        try:
            self._pipe.send_bytes(_snapshot(data, self._model))  # the last one was read: there is room for this one
        except OSError:
            self._fail()

    def frames(self, data: mujoco.MjData, time: float) -> dict[str, Frame]:
        """The newest pictures; the first call waits for them. Raises `RobotError` once the process died."""
        if self._pipe is None:
            raise RobotError("the simulated cameras are closed: call connect()")
        if not self._frames:
            self.offer(data, time)
        with self._news:
            if not self._news.wait_for(lambda: self._frames or self._failure, START_TIMEOUT):
                raise RobotError(f"the rendering process made no picture within {START_TIMEOUT:.0f} s")
            if self._failure:
                raise RobotError(self._failure)
            return dict(self._frames)

    def _receive(self, pipe: Connection) -> None:
        """Body of the thread that takes the pictures; ends with the rendering process."""
        try:
            while True:
                message = pipe.recv_bytes()
                with self._news:
                    self._take(message)
                    self._news.notify_all()
        except (EOFError, OSError):
            self._fail()

    def _take(self, message: bytes) -> None:
        images = np.frombuffer(message, np.uint8).reshape(len(self._names), *self._size, 3)
        assert self._sent is not None
        sent, self._sent = self._sent, None
        self._number += 1
        self._frames = {name: Frame(image, sent, self._number) for name, image in zip(self._names, images, strict=True)}

    def _fail(self) -> None:
        with self._news:
            self._failure = "the rendering process ended; its error is above. Restart the server"
            self._news.notify_all()


def _greet(pipe: Connection) -> None:
    """Raises `RenderingUnavailable` if the process cannot render, `RobotError` if it did not start."""
    try:
        answer = pipe.recv_bytes() if pipe.poll(START_TIMEOUT) else b""
    except (EOFError, OSError):
        answer = b""
    if not answer:
        raise RobotError(f"the rendering process did not start within {START_TIMEOUT:.0f} s; its error is above")
    if answer[:1] != OK:
        raise RenderingUnavailable(answer[1:].decode())
