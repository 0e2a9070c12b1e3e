"""Real arms and grippers by name, from what a person says of them on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from robot_servers.files import read
from robot_servers.interface import Driver, Gripper, JointLimits, Limits, RobotError, Tool, nearest
from robot_servers.serl_dialect import GripperNumbers


@dataclass(frozen=True)
class Real:
    """What only people in the lab know. ``tool`` is a name or a JSON file; ``limits`` those of the table.

    ``numbers`` are those of the gripper behind a SERL server.
    """

    address: str = ""
    gripper: str = "none"
    tool: str = ""
    limits: Limits | None = None
    waive_realtime: bool = False
    numbers: GripperNumbers = field(default_factory=GripperNumbers)


def _no_gripper(real: Real) -> Gripper:
    from robot_servers.grippers.none import NoGripper

    return NoGripper()


def _franka_hand(real: Real) -> Gripper:
    from robot_servers.grippers.franka_hand import FrankaHand

    return FrankaHand(real.address)


def _robotiq_urcap(real: Real) -> Gripper:
    from robot_servers.grippers.robotiq import RobotiqGripper
    from robot_servers.grippers.robotiq_wire import UrcapWire

    return RobotiqGripper(UrcapWire(_where(real) or real.address))


def _robotiq_tcp(real: Real) -> Gripper:
    from robot_servers.grippers.robotiq import RobotiqGripper
    from robot_servers.grippers.robotiq_wire import modbus_tcp

    return RobotiqGripper(modbus_tcp(_where(real) or real.address))


def _robotiq_rtu(real: Real) -> Gripper:
    from robot_servers.grippers.robotiq import RobotiqGripper
    from robot_servers.grippers.robotiq_wire import modbus_rtu

    if not _where(real):
        raise RobotError("robotiq-rtu needs its serial port, e.g. --gripper robotiq-rtu=/dev/ttyUSB0")
    return RobotiqGripper(modbus_rtu(_where(real)))


def _where(real: Real) -> str:
    """What follows the gripper's name: its address or port, if it is not the arm's."""
    return real.gripper.partition("=")[2]


GRIPPERS: dict[str, Callable[[Real], Gripper]] = {
    "none": _no_gripper,
    "franka-hand": _franka_hand,
    "robotiq-urcap": _robotiq_urcap,  # the text socket of Robotiq's URCap on the arm's controller
    "robotiq-tcp": _robotiq_tcp,  # Modbus TCP, at the arm's address or =HOST
    "robotiq-rtu": _robotiq_rtu,  # Modbus RTU, =PORT of this machine
}


def gripper(real: Real) -> Gripper:
    """The gripper by ``NAME`` or ``NAME=WHERE``. Raises `RobotError` with the nearest known name."""
    name = real.gripper.partition("=")[0]
    make = GRIPPERS.get(name)
    if make is None:
        raise RobotError(f'unknown gripper "{name}"{nearest(name, GRIPPERS)}')
    return make(real)


def tool(real: Real) -> Tool | None:
    """What is mounted on the flange: read from a file, or a known one by its name; None if nothing was said."""
    from robot_servers.drivers.franka_model import FRANKA_HAND

    known = {"franka-hand": FRANKA_HAND, "none": Tool()}
    if not real.tool:
        return None
    if real.tool in known:
        return known[real.tool]
    if not real.tool.endswith(".json"):
        raise RobotError(f'unknown tool "{real.tool}"{nearest(real.tool, known)}; or give a file, TOOL.json')
    return read(Tool, Path(real.tool))


def _franka(real: Real, joints: JointLimits) -> Driver:
    from robot_servers.drivers.franka import FrankaDriver

    return FrankaDriver(
        real.address, gripper(real), real.limits, tool(real), joints=joints, realtime=not real.waive_realtime
    )


def _fr3(real: Real) -> Driver:
    from robot_servers.drivers.franka_model import FR3

    return _franka(real, FR3)


def _panda(real: Real) -> Driver:
    from robot_servers.arms import PANDA

    return _franka(real, PANDA)


def _serl_http(real: Real) -> Driver:
    from robot_servers.drivers.serl_http import SerlHttpDriver

    return SerlHttpDriver(real.address, real.limits, gripper=real.numbers, tool=tool(real))


def _ur(model: str) -> Callable[[Real], Driver]:
    def make(real: Real) -> Driver:
        from robot_servers.drivers.ur import UrDriver

        mounted = tool(real)
        if real.limits is None or mounted is None:
            raise RobotError(f"{model} needs --limits LIMITS.json and --tool TOOL.json (or none): only you know them")
        return UrDriver(real.address, real.limits, model=model, tool=mounted, gripper=gripper(real))

    return make


UR_MODELS = ("ur3e", "ur5e", "ur10e", "ur16e", "ur3", "ur5", "ur10")
ARMS: dict[str, Callable[[Real], Driver]] = {
    **{"franka": _fr3, "panda": _panda, "serl_http": _serl_http},
    **{model: _ur(model) for model in UR_MODELS},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a real arm."""
    parser.add_argument("--address", default="", help="real arms: where it is, e.g. 172.16.0.2 or a SERL server's URL")
    parser.add_argument("--gripper", default="none", help=f"real arms: {', '.join(GRIPPERS)}; or NAME=WHERE")
    parser.add_argument("--tool", default="", help="real arms: what is on the flange: franka-hand, none, or TOOL.json")
    parser.add_argument("--limits", type=Path, help="real arms: LIMITS.json, the workspace; tightens simulated ones")
    parser.add_argument("--waive-realtime", action="store_true", help="real arms: go on without a real-time kernel")
