# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""Cameras of a simulated scene, rendered in software where there is no display and no GPU.

Shadows and multisampling cost 10 to 20 times the picture itself in software, so both are off.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import mujoco
import numpy as np

from robot_servers.interface import Frame, Image, RobotError

# backend → (library, Debian package that brings it)
BACKENDS = {"egl": ("libEGL.so.1", "libegl1"), "osmesa": ("libOSMesa.so.8", "libosmesa6")}
HELP = (
    "no library for rendering without a display; on Debian or Ubuntu: apt-get install libegl1 (or libosmesa6). "
    "Everything that needs no pixels works without it"
)


class RenderingUnavailable(RobotError):
    """This machine cannot render; the text names the missing system library."""


def choose_backend(wanted: str = "", loads: Callable[[str], bool] | None = None) -> str:
    """``"egl"``, else ``"osmesa"``: the first whose library loads. ``wanted`` (as in MUJOCO_GL) is tried alone.

    Raises `RenderingUnavailable` naming the package to install.
    """
    loads = loads or _loads
    for backend in (wanted,) if wanted in BACKENDS else tuple(BACKENDS):
        if loads(BACKENDS[backend][0]):
            return backend
    if wanted in BACKENDS:
        raise RenderingUnavailable(
            f"MUJOCO_GL={wanted}, but it is not installed: apt-get install {BACKENDS[wanted][1]}"
        )
    raise RenderingUnavailable(HELP)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _make_context(width: int, height: int) -> tuple[Any, Callable[[], None]]:
    """A current OpenGL context, and what releases it from this thread so that another one may use it."""
    if not sys.platform.startswith("linux"):
        context = importlib.import_module("mujoco.gl_context").GLContext(width, height)
        context.make_current()
        return context, _keep
    backend = choose_backend(os.environ.get("MUJOCO_GL", "").lower())
    try:
        module = importlib.import_module(f"mujoco.{backend}")
        context = module.GLContext(width, height)
        context.make_current()
    except (ImportError, AttributeError, RuntimeError, OSError, *_gl_errors()) as error:
        raise RenderingUnavailable(f"{backend} does not start ({error!s:.200}); {HELP}") from error
    return context, module.egl_ext.eglReleaseThread if backend == "egl" else _keep


def _gl_errors() -> tuple[type[Exception], ...]:
    """What PyOpenGL raises where the library is there but no driver for it, e.g. libegl1 without Mesa's."""
    try:
        return (importlib.import_module("OpenGL.error").Error,)
    except ImportError:
        return ()


def _keep() -> None:
    """OSMesa contexts need no release."""


def check_cameras(model: mujoco.MjModel, names: tuple[str, ...]) -> None:
    """Raises `RobotError` with the scene's cameras if one of ``names`` is not among them."""
    known = [model.camera(i).name for i in range(model.ncam)]
    for name in names:
        if name not in known:
            raise RobotError(f'unknown camera "{name}"; this scene has: {", ".join(known)}')


class SimulatedCameras:
    """Renders named cameras of one model. ``size`` is (height, width) in pixels.

    The constructor opens an OpenGL context, so use it with ``with`` or call `close` before the process
    ends. Raises `RenderingUnavailable` without a rendering library and `RobotError` for unknown cameras.
    """

    def __init__(self, model: mujoco.MjModel, names: tuple[str, ...], size: tuple[int, int] = (128, 128)) -> None:
        check_cameras(model, names)
        self.names = names
        self._model = model
        height, width = size
        model.light_castshadow[:] = 0
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._gl: Any
        self._gl, self._release = _make_context(width, height)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._release()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 10)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._raw = np.empty((height, width, 3), np.uint8)

    def render(self, data: mujoco.MjData) -> dict[str, Image]:
        """Pictures (height, width, 3) uint8 RGB of the present state; kinematics must be up to date."""
        self._gl.make_current()
        try:
            return {name: self._picture(data, name) for name in self.names}
        finally:
            self._release()

    def _picture(self, data: mujoco.MjData, name: str) -> Image:
        camera = mujoco.MjvCamera()
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(name).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._raw, None, self._rect, self._context)
        return self._raw[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Free the OpenGL context; at interpreter exit it would be too late for EGL."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def __enter__(self) -> SimulatedCameras:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CameraRig(Protocol):
    """All cameras of a simulated arm, whichever process renders them."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def offer(self, data: mujoco.MjData, time: float) -> None:
        """The state after one cycle; taken if a new picture is due."""
        ...

    def frames(self, data: mujoco.MjData, time: float) -> dict[str, Frame]: ...


class InlineRig:
    """Renders when asked, once per simulated instant: for the lockstep clock."""

    def __init__(self, model: mujoco.MjModel, cameras: Mapping[str, tuple[int, int]]) -> None:
        self._model = model
        self._names, self._size = tuple(cameras), next(iter(cameras.values()))
        self._cameras: SimulatedCameras | None = None
        self._frames: dict[str, Frame] = {}
        self._time = -1.0
        self._number = 0

    def open(self) -> None:
        self._cameras = SimulatedCameras(self._model, self._names, self._size)

    def close(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None

    def offer(self, data: mujoco.MjData, time: float) -> None:
        """Nothing to do: pictures are made when they are asked for."""

    def frames(self, data: mujoco.MjData, time: float) -> dict[str, Frame]:
        if self._cameras is None:
            raise RobotError("the simulated cameras are closed: call connect()")
        if time != self._time:
            self._time = time
            self._number += 1
            images = self._cameras.render(data)
            self._frames = {name: Frame(image, time, self._number) for name, image in images.items()}
        return dict(self._frames)
