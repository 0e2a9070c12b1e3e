# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""Renders a simulated scene in a process of its own: a rendering thread would stall the physics.

The physics offers a snapshot at most ``FPS`` times a second, and only when the last one has come back,
so that the pipe never holds more than one and pictures are always of the newest state offered.
Messages are raw arrays: positions one way, pixels the other.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection

import mujoco
import numpy as np

from robot_servers.cameras.simulated import RenderingUnavailable, SimulatedCameras
from robot_servers.interface import Frame, RobotError
from robot_servers.scenes import load_scene

FPS = 30.0
START_TIMEOUT = 60.0  # s: the new process imports and compiles the scene
OK, FAILED = b"+", b"-"


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
    """Body of the rendering process; ends when the pipe closes, so Ctrl-C is left to the other end."""
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
            while True:
                _restore(pipe.recv_bytes(), model, data)
                pipe.send_bytes(b"".join(image.tobytes() for image in cameras.render(data).values()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


class ProcessRig:
    """Newest pictures from the rendering process, for the realtime clock; `frames` never waits for one."""

    def __init__(self, model: mujoco.MjModel, scene: str, cameras: Mapping[str, tuple[int, int]]) -> None:
        self._model, self._scene = model, scene
        self._names, self._size = tuple(cameras), next(iter(cameras.values()))
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
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
        answer = self._greeting()
        if answer[:1] != OK:
            self.close()
            raise RenderingUnavailable(answer[1:].decode())

    def _greeting(self) -> bytes:
        try:
            return self._receive(START_TIMEOUT)
        except RobotError:
            self.close()
            raise

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(timeout=2.0)
            if self._process.is_alive():
                self._process.kill()
            self._process = None

    def offer(self, data: mujoco.MjData, time: float) -> None:
        """Never waits and never raises: a dead camera must not stop the arm's control, it fails in `frames`."""
        if self._failure:
            return
        try:
            self._collect(0.0)
            if self._sent is None and time - self._last >= 1.0 / FPS:
                self._send(data, time)
        except RobotError as error:
            self._failure = str(error)

    def frames(self, data: mujoco.MjData, time: float) -> dict[str, Frame]:
        """The newest pictures; only the very first call waits for them. Raises `RobotError` once the process died."""
        if self._failure:
            raise RobotError(self._failure)
        if not self._frames:
            if self._sent is None:
                self._send(data, time)
            self._collect(START_TIMEOUT)
        return dict(self._frames)

    def _send(self, data: mujoco.MjData, time: float) -> None:
        if self._pipe is None:
            raise RobotError("the simulated cameras are closed: call connect()")
        try:
            self._pipe.send_bytes(_snapshot(data, self._model))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise RobotError("the rendering process ended; its error is above. Restart the server") from error
        self._sent = self._last = time

    def _collect(self, timeout: float) -> None:
        """Take the pictures on their way, if there are any, waiting up to ``timeout`` s for them."""
        if self._sent is None or self._pipe is None or (timeout == 0.0 and not self._pipe.poll()):
            return
        message = self._receive(timeout)
        images = np.frombuffer(message, np.uint8).reshape(len(self._names), *self._size, 3)
        self._number += 1
        sent, self._sent = self._sent, None
        self._frames = {name: Frame(image, sent, self._number) for name, image in zip(self._names, images, strict=True)}

    def _receive(self, timeout: float) -> bytes:
        """The next message. Raises `RobotError` if the process ended or does not answer in time."""
        assert self._pipe is not None
        try:
            if self._pipe.poll(timeout):
                return self._pipe.recv_bytes()
            reason = f"did not answer within {timeout:.0f} s"
        except (EOFError, ConnectionResetError):
            reason = "ended"
        raise RobotError(f"the rendering process {reason}; its error is above. Restart the server")
