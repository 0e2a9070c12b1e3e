"""Renders a simulated scene in a process of its own: a rendering thread would stall the physics.

The physics offers a snapshot at most ``FPS`` times a second, and only when the last one has come back,
so that the pipe never holds more than one and pictures are always of the newest state offered.
Messages are raw arrays: positions one way, pixels the other.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection

import mujoco
import numpy as np

from robot_servers.cameras.simulated import RenderingUnavailable, SimulatedCameras
from robot_servers.interface import Frame, Image, RobotError
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
    """Body of the rendering process; ends when the pipe closes."""
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
        except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
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

    def open(self) -> None:
        """Start the process. Raises `RenderingUnavailable` if it cannot render, `RobotError` if it does not start."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._scene, self._names, self._size)
        self._process = context.Process(target=_serve, args=arguments, name="cameras", daemon=True)
        self._process.start()
        theirs.close()
        answer = self._receive(START_TIMEOUT)
        if answer[:1] != OK:
            self.close()
            raise RenderingUnavailable(answer[1:].decode())

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
        self._collect(0.0)
        if self._sent is None and time - self._last >= 1.0 / FPS:
            self._send(data, time)

    def frames(self, data: mujoco.MjData, time: float) -> dict[str, Frame]:
        """The newest pictures; only the very first call waits for them."""
        if not self._frames:
            if self._sent is None:
                self._send(data, time)
            self._collect(START_TIMEOUT)
        return dict(self._frames)

    def _send(self, data: mujoco.MjData, time: float) -> None:
        if self._pipe is None:
            raise RobotError("the simulated cameras are closed: call connect()")
        self._pipe.send_bytes(_snapshot(data, self._model))
        self._sent = self._last = time

    def _collect(self, timeout: float) -> None:
        if self._sent is None or (timeout == 0.0 and self._pipe is not None and not self._pipe.poll()):
            return
        message = self._receive(timeout)
        images = np.frombuffer(message, np.uint8).reshape(len(self._names), *self._size, 3)
        self._number += 1
        self._frames = {name: self._frame(image) for name, image in zip(self._names, images, strict=True)}
        self._sent = None

    def _frame(self, image: Image) -> Frame:
        assert self._sent is not None
        return Frame(image, self._sent, self._number)

    def _receive(self, timeout: float) -> bytes:
        """The next message. Raises `RobotError` if the process ended or does not answer in time."""
        assert self._pipe is not None
        try:
            if self._pipe.poll(timeout):
                return self._pipe.recv_bytes()
            reason = f"did not answer within {timeout:.0f} s"
        except (EOFError, ConnectionResetError):
            reason = "ended"
        self.close()
        raise RobotError(f"the rendering process {reason}; its error is above. Restart the server")
