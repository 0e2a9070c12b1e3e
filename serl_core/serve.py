"""``serl server``: a robot behind its safety guard, until Ctrl-C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from robot_servers.interface import ClockMode


@dataclass(frozen=True)
class Config:
    """Serve a robot, real or simulated, behind its safety guard."""

    robot: Annotated[str, tyro.conf.Positional]  # which driver: mujoco, fake
    scene: str = "pick_cube"  # simulated robots: the scene
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

    return serve(
        config.robot,
        scene=config.scene,
        host=config.host,
        port=config.port,
        truth_port=config.truth_port,
        clock=config.clock,
        cameras=config.cameras,
        camera=config.camera,
        insecure=config.insecure,
    )
