# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""A simulated Franka behind the same protocol as a real one: it moves by the torques of the impedance law only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np

from robot_servers.arms import PANDA
from robot_servers.cameras.render_process import ProcessRig
from robot_servers.cameras.simulated import CameraRig, InlineRig, check_cameras
from robot_servers.drivers.mujoco_arm import SimulatedArm
from robot_servers.drivers.mujoco_bench import Bench
from robot_servers.interface import (
    Array,
    Check,
    ClockMode,
    Compliance,
    Enforcer,
    Frame,
    Health,
    Limits,
    RobotError,
    RobotState,
    Tool,
)
from robot_servers.scenes import load_scene
from robot_servers.scenes.base import FINGER_TRAVEL

LIMP = Compliance(  # for guiding by hand: only enough damping to keep it from flying
    translational_stiffness=0.0,
    translational_damping=5.0,
    rotational_stiffness=0.0,
    rotational_damping=0.5,
    nullspace_stiffness=0.0,
)
AT_HOME = 0.05  # rad, largest joint error that counts as home


class MujocoDriver:
    """Satisfies `Driver`. ``now`` is the clock of measurements in real time; lockstep counts physics steps.

    ``scene`` names one, and of several arms which: "handover/left". Drivers of the same ``bench`` share its physics:
    a period passes once, whichever of them is first. Cameras are called as in the scene, an arm's own without its
    prefix.

    Raises `RobotError` for an unknown scene, arm or camera and for rates that do not divide; `connect` with
    cameras raises `RenderingUnavailable` where this machine cannot render.
    """

    name = "mujoco"
    joint_limits = PANDA
    tool = Tool()
    limits_enforced: Enforcer = "server"

    def __init__(
        self,
        scene: str,
        *,
        clock: ClockMode = "lockstep",
        cameras: tuple[str, ...] = (),
        image_size: tuple[int, int] = (128, 128),
        cycle_hz: float = 100.0,
        physics_hz: float = 500.0,
        now: Callable[[], float] = time.monotonic,
        bench: Bench | None = None,
    ) -> None:
        table, _, arm = scene.partition("/")
        self.bench = bench or Bench(load_scene(table), cycle_hz, physics_hz)
        self.arm: SimulatedArm = _arm_of(self.bench, arm)
        self.scene = scene
        self.clock: ClockMode = clock
        self.cycle_hz = self.bench.cycle_hz
        self.home_q = self.bench.scene.home_q
        self.home_pose: tuple[float, ...] = tuple(self.arm.pose.tolist())
        self.limits: Limits = self.bench.scene.limits
        self.cameras: Mapping[str, tuple[int, int]] = dict.fromkeys(cameras, image_size)
        self._views = _views(self.bench, arm, cameras)
        self._now = now
        self._periods = self._placements = 0  # of the bench, as far as this arm has taken part in them
        self._guided = False
        self._compliance = Compliance()
        self._rig: CameraRig | None = None
        self._connected = False

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        if self.cameras:
            self._rig = self._make_rig()
            self._rig.open()
        self._connected = True
        self._periods = self.bench.periods
        self.place_objects(0)
        self.frames()  # now, so that no server's thread has to wait for the first ones later

    def _make_rig(self) -> CameraRig:
        sizes = {view: self.cameras[name] for view, name in self._views.items()}
        if self.clock == "realtime":
            return ProcessRig(self.bench.model, self.bench.scene.name, sizes)
        return InlineRig(self.bench.model, sizes)

    def close(self) -> None:
        if self._rig is not None:
            self._rig.close()
            self._rig = None
        self._connected = False

    # ── one cycle ────────────────────────────────────────────────────────────────────────────────

    def track(self, pose: Array, gripper: float | None) -> None:
        with self.bench.lock:
            self.arm.law.set_target(pose)
            if gripper is not None:
                self.arm.grip[0] = min(1.0, max(0.0, gripper)) * FINGER_TRAVEL

    def stop(self) -> None:
        """Takes effect in the next cycle, which is the only one to touch the simulation."""
        self.arm.braked = True

    def recover(self) -> None:
        self.arm.braked = False
        self._restart_law()

    def health(self) -> Health:
        return Health()

    def cycle(self) -> None:
        """Raises `RobotError` when the physics has become unstable."""
        self._require_connected()
        with self.bench.lock:
            if self._periods >= self.bench.periods:
                self.bench.cycle()
            self._periods = self.bench.periods
            if self._rig is not None:
                self._rig.offer(self.bench.data, self._time())

    # ── measurements ─────────────────────────────────────────────────────────────────────────────

    def state(self) -> RobotState:
        self._require_connected()
        with self.bench.lock:
            return self.arm.state(self._time())

    def frames(self) -> dict[str, Frame]:
        self._require_connected()
        if self._rig is None:
            return {}
        # in real time another process renders, and its very first pictures are waited for: no cycle must wait with them
        with contextlib.nullcontext() if self.clock == "realtime" else self.bench.lock:
            frames = self._rig.frames(self.bench.data, self._time())
        return {self._views[view]: frame for view, frame in frames.items()}

    def ground_truth(self) -> Mapping[str, Any]:
        with self.bench.lock:
            truth = self.bench.scene.ground_truth(self.bench.model, self.bench.data)
            return {key: value if isinstance(value, bool) else self.arm.to_base(value) for key, value in truth.items()}

    def _time(self) -> float:
        return self.bench.time if self.clock == "lockstep" else self._now()

    def _require_connected(self) -> None:
        if not self._connected:
            raise RobotError("the simulated arm is not connected: call connect()")

    # ── parameters and resets ────────────────────────────────────────────────────────────────────

    def set_compliance(self, compliance: Compliance) -> None:
        self._compliance = compliance
        if not self._guided:
            self.arm.law.set_compliance(compliance)

    def guide(self, on: bool) -> None:
        self._guided = on
        self.arm.law.set_compliance(LIMP if on else self._compliance)
        self._restart_law()

    def preflight(self) -> tuple[Check, ...]:
        return (Check("simulation", True, f"MuJoCo {mujoco.__version__}, {self.bench.physics_hz:g} Hz physics"),)

    def joint_reset(self) -> bool:
        """Put the joints home at once, at rest; an arm that is home already stays as it is, with what it holds."""
        self._require_connected()
        if self.arm.braked:
            return False
        with self.bench.lock:
            if np.abs(self.arm.q - self.home_q).max() > AT_HOME:
                self.arm.q[:] = self.home_q
                self.arm.dq[:] = 0.0
                self._restart_law()
        return True

    def place_objects(self, seed: int) -> None:
        """Start the whole simulation over, or take part in what another arm has just begun with the same seed."""
        self._require_connected()
        with self.bench.lock:
            if self._placements == self.bench.placements or seed != self.bench.seed:
                self.bench.place(seed)
            else:
                self._restart_law()
            self._placements = self.bench.placements

    def _restart_law(self) -> None:
        with self.bench.lock:
            self.bench.refresh()
            self.arm.restart()


def drivers_of(scene: str, **options: Any) -> tuple[MujocoDriver, ...]:
    """A driver for each arm of ``scene``, over one bench; ``options`` as of `MujocoDriver`, cameras of each arm."""
    first, *others = (f"{scene}/{arm}" if arm else scene for arm in load_scene(scene).mounts)
    leader = MujocoDriver(first, **options)
    return leader, *(MujocoDriver(name, **options, bench=leader.bench) for name in others)


def _arm_of(bench: Bench, name: str) -> SimulatedArm:
    if name not in bench.arms:
        known = ", ".join(f"{bench.scene.name}/{arm}" if arm else bench.scene.name for arm in bench.arms)
        raise RobotError(f'the scene {bench.scene.name} has no arm "{name}": name one of {known}')
    return bench.arms[name]


def _views(bench: Bench, arm: str, cameras: tuple[str, ...]) -> dict[str, str]:
    """Camera of the model → what the arm calls it. Raises `RobotError` for one that the scene lacks."""
    prefix = bench.scene.mounts[arm].prefix
    known = {bench.model.camera(number).name for number in range(bench.model.ncam)}
    views = {f"{prefix}{name}" if f"{prefix}{name}" in known else name: name for name in cameras}
    check_cameras(bench.model, tuple(views))
    return views
