"""``serl server``: a robot behind its safety guard, until Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from robot_servers.interface import ClockMode, Limits
from robot_servers.serl_dialect import Dialect, GripperKind, GripperNumbers
from serl_core.config import Task
from serl_core.tasks import load_task


@dataclass(frozen=True)
class Config:
    """Serve a robot, real or simulated, behind its safety guard."""

    robot: Annotated[str, tyro.conf.Positional]  # mujoco, fake, franka, panda, ur5e (ur3e, ur10e, …), serl_http
    task: str | None = None  # a task by name, or its file: its scene, its limits, and its cameras where simulated
    scene: str = "pick_cube"  # simulated robots without a task: the scene
    address: str = ""  # real arms: where it is, e.g. 172.16.0.2 or, of a SERL server, http://172.16.0.1:5000/
    gripper: str = "none"  # real arms: none, franka-hand, robotiq-urcap, robotiq-tcp[=HOST], robotiq-rtu=PORT
    tool: str = ""  # real arms: what is on the flange: franka-hand, none, or TOOL.json
    limits: Path | None = None  # LIMITS.json: the workspace of a real arm; tightens a simulated one
    waive_realtime: bool = False  # real arms: go on without a real-time kernel, at the price of faults
    host: str = "127.0.0.1"  # address to listen on
    port: int = 5555  # port of the robot; 0 takes a free one
    truth_port: int | None = None  # port of the ground truth (simulated robots); closed unless given
    clock: ClockMode = "realtime"  # "lockstep": the client makes time pass, as fast as the machine can
    cameras: tuple[str, ...] | None = None  # simulated cameras, e.g. front wrist; default: the task's, or none
    # a real camera, NAME=KIND:SOURCE[,key=value…], e.g. wrist=realsense:130322270001,crop=160:80:320:320; repeatable
    camera: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    http_port: int | None = None  # serve SERL's HTTP routes there too, e.g. 5000; 0 takes a free one
    http_host: str = "127.0.0.1"  # address for them
    http_dialect: Dialect = "hil-serl"  # gripper numbers of these routes, or of the server behind serl_http
    http_gripper: GripperKind = "robotiq"  # /move_gripper 255 means closed (robotiq) or open (hand)
    keys: Path | None = None  # folder of the server's keys (serl keys): needed for a host that others can reach
    insecure: bool = False  # allow a host that others can reach without keys: whoever reaches it can move the arm
    check: bool = False  # only check whether this computer and the arm are ready, as a table; serve nothing


def main(config: Config) -> int:
    """Serve until stopped."""
    from robot_servers.__main__ import DRIVERS as SIMULATED  # concrete drivers are imported only where they are started
    from robot_servers.__main__ import serve
    from robot_servers.files import read
    from robot_servers.http_options import http_options
    from robot_servers.real import Real

    task = load_task(config.task) if config.task else None
    limits = task.limits if isinstance(task, Task) else None  # two arms: each is bound when its owner comes
    simulated = task.cameras if task and config.robot in SIMULATED else ()
    numbers = GripperNumbers(config.http_dialect, config.http_gripper)
    return serve(
        config.robot,
        scene=task.scene if task else config.scene,
        limits=read(Limits, config.limits) if config.limits else limits,
        real=Real(config.address, config.gripper, config.tool, waive_realtime=config.waive_realtime, numbers=numbers),
        host=config.host,
        port=config.port,
        truth_port=config.truth_port,
        clock=config.clock,
        cameras=simulated if config.cameras is None else config.cameras,
        camera=config.camera,
        insecure=config.insecure,
        keys=config.keys,
        preflight=config.check,
        http=http_options(config.http_port, config.http_host, config.insecure, numbers),
    )
