# MuJoCo's compiled modules carry no type information:
# pyright: reportAttributeAccessIssue=false
"""One simulated table with its arms: the physics that they share, and the time that passes for all of them."""

from __future__ import annotations

import math
import threading

import mujoco
import numpy as np

from robot_servers.drivers.mujoco_arm import SimulatedArm
from robot_servers.interface import RobotError
from robot_servers.scenes.base import Scene

SETTLE = 0.2  # s of simulated time after objects were placed, so that episodes begin at rest
UNSTABLE = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)  # and QVEL, QACC


class Bench:
    """The model of ``scene`` and its ``arms`` by name. Each arm's driver calls it under ``lock``.

    Each physics step is ``mj_step1`` (kinematics), the laws, ``mj_step2`` (dynamics with those torques), so
    the torques always answer the present state, as on the robot. Raises `RobotError` for rates that do not divide.
    """

    def __init__(self, scene: Scene, cycle_hz: float, physics_hz: float) -> None:
        self._substeps = round(physics_hz / cycle_hz)
        if self._substeps < 1 or not math.isclose(self._substeps * cycle_hz, physics_hz):
            raise RobotError(f"physics_hz {physics_hz} must be a multiple of cycle_hz {cycle_hz}")
        self.scene = scene
        self.cycle_hz = cycle_hz
        self.physics_hz = physics_hz
        self.lock = threading.RLock()
        self.steps = 0  # physics steps since the bench was made: time never runs backwards
        self.periods = 0  # cycles since then
        self.placements = 0  # how often the simulation started over …
        self.seed = -1  # … and from which seed last
        self.model = scene.build()
        self.model.opt.timestep = 1.0 / physics_hz
        # an automatic reset would teleport the arms and their objects in the middle of an episode
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self.data = mujoco.MjData(self.model)
        self._warnings = self.data.warning.number[UNSTABLE]  # counts since the last reset of the data
        self.arms = {name: SimulatedArm(self.model, self.data, mount) for name, mount in scene.mounts.items()}
        self._go_home()

    def _go_home(self) -> None:
        for arm in self.arms.values():
            arm.q[:] = self.scene.home_q
        mujoco.mj_forward(self.model, self.data)
        for arm in self.arms.values():
            arm.measure()

    @property
    def time(self) -> float:
        """Simulated, s."""
        return self.steps / self.physics_hz

    def cycle(self) -> None:
        """One period. Raises `RobotError` when the physics has become unstable: MuJoCo would start over silently."""
        arms = self.arms.values()
        for arm in arms:
            arm.begin_cycle()
        for _ in range(self._substeps):
            self._step()
            if self._warnings.any():
                raise RobotError(f"the simulation of {self.scene.name} has become unstable: see MuJoCo's warning above")
            for arm in arms:
                arm.add_contact()
        for arm in arms:
            arm.end_cycle(self._substeps, 1.0 / self.cycle_hz)
        self.periods += 1

    def _step(self) -> None:
        """One physics step; afterwards kinematics and Jacobians belong to the new joint positions."""
        for arm in self.arms.values():
            arm.drive()
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)
        self.steps += 1
        for arm in self.arms.values():
            arm.measure()

    def place(self, seed: int) -> None:
        """Reset the whole simulation: the same seed gives bit-identical episodes, whatever happened before."""
        mujoco.mj_resetData(self.model, self.data)
        for arm in self.arms.values():
            arm.put(np.array(self.scene.home_q), self.scene.gripper)
        self.scene.place(self.model, self.data, np.random.default_rng(seed))
        self._restart()
        for _ in range(round(SETTLE * self.physics_hz)):
            self._step()
        self._restart()
        self.placements += 1
        self.seed = seed

    def _restart(self) -> None:
        self.refresh()
        for arm in self.arms.values():
            arm.restart()

    def refresh(self) -> None:
        """Kinematics of the present joint positions."""
        mujoco.mj_step1(self.model, self.data)
