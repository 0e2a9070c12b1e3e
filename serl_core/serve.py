"""``serl server``: a robot behind its safety guard, until Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.interface import ClockMode, Limits
from serl_core.tasks import load_task


@dataclass(frozen=True)
class Config:
    """Serve a robot, real or simulated, behind its safety guard."""

    robot: Annotated[str, tyro.conf.Positional]  # which driver: mujoco, fake, franka, panda
    task: str | None = None  # a task by name, or its file: its scene, or on a real arm its limits
    scene: str = "pick_cube"  # simulated robots without a task: the scene
    address: str = ""  # real arms: where the arm is, e.g. 172.16.0.2
    gripper: str = "none"  # real arms: franka-hand, none
    tool: str = ""  # real arms: what is on the flange: franka-hand, none, or TOOL.json
    limits: Path | None = None  # LIMITS.json: the workspace of a real arm; tightens a simulated one
    waive_realtime: bool = False  # real arms: go on without a real-time kernel, at the price of faults
    host: str = "127.0.0.1"  # address to listen on
    port: int = 5555  # port of the robot; 0 takes a free one
    truth_port: int | None = None  # port of the ground truth (simulated robots); closed unless given
    clock: ClockMode = "realtime"  # "lockstep": the client makes time pass, as fast as the machine can
    cameras: tuple[str, ...] = ()  # simulated cameras, e.g. front wrist
    # a real camera, NAME=KIND:SOURCE[,key=value…], e.g. wrist=realsense:130322270001,crop=160:80:320:320; repeatable
    camera: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    insecure: bool = False  # allow a host that others can reach: whoever reaches it can move the arm


def main(config: Config) -> int:
    """Serve until stopped."""
    from robot_servers.__main__ import serve  # concrete drivers are imported only where they are started
    from robot_servers.files import read
    from robot_servers.real import Real

    task = load_task(config.task) if config.task else None
    limits = task.limits if task else None
    return serve(
        config.robot,
        scene=task.scene if task else config.scene,
        limits=read(Limits, config.limits) if config.limits else limits,
        real=Real(config.address, config.gripper, config.tool, waive_realtime=config.waive_realtime),
        host=config.host,
        port=config.port,
        truth_port=config.truth_port,
        clock=config.clock,
        cameras=config.cameras,
        camera=config.camera,
        insecure=config.insecure,
    )
