# Runs in the emulator's own environment, of which ours knows nothing:
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""``python emulator.py HOST``: serve an emulated FR3 on the FCI's ports of ``HOST``, with its limits enforced.

The arm has the masses of the URDF that ships with the emulator and simple shapes, so that no meshes are needed:
contact forces are zero. Lines on stdin stand for what happens to a real arm: ``collide``; ``object WIDTH``, m between
the fingers; and a person who may ``press`` and ``release`` the user stop.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

JOINT_DAMPING = 1.0  # Nms/rad
ARMATURE = 0.1  # kg·m² of motor and gear, seen from the joint
FLANGE = {"link7": "wrist", "link8": "link7"}  # the emulator takes link7 for the flange, 0.107 m from the real one
CARTESIAN_REFLEX = 7  # number of this error in the FCI
REALTIME = 40  # SCHED_FIFO priority: below libfranka's loop, above everything ordinary


def model(urdf: Path) -> str:
    """An MJCF of the arm in ``urdf`` without its meshes."""
    import mujoco

    tree = ET.parse(urdf)
    root = tree.getroot()
    for link in root.findall("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            link.remove(shape)
    extension = ET.SubElement(root, "mujoco")
    ET.SubElement(extension, "compiler", fusestatic="false", balanceinertia="true")
    spec = mujoco.MjSpec.from_string(ET.tostring(root, encoding="unicode"))
    for joint in spec.joints:
        joint.damping, joint.armature = JOINT_DAMPING, ARMATURE
    for body in list(spec.bodies):
        if body.name in FLANGE:
            body.name = FLANGE[body.name]
    spec.compile()
    return spec.to_xml()


def prefer_realtime() -> None:
    """The emulator's cycles as punctual as this machine allows; without the right to it, as they come."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME))
    except PermissionError:
        logging.warning("no right to SCHED_FIFO: on a busy machine expect communication faults")


def listen(server: Any) -> None:
    """Say when it serves, then do to it (a FrankaSimServer) what stdin says: `_abort_with_error` is its only way."""
    from franka_sim.franka_protocol import RobotMode

    while not server.physics_sim.running:  # before that nobody who connects is answered
        time.sleep(0.01)
    print("ready", server.host, flush=True)
    for line in map(str.strip, sys.stdin):
        if line == "collide":
            server._abort_with_error(CARTESIAN_REFLEX, "collision")
        elif line.startswith("object "):
            server.gripper_server.backend.set_object_width(float(line.split()[1]))
        elif line == "press":
            server._abort_with_error((), "user stop")
            time.sleep(0.1)  # until the motion has ended, which sets the mode too
            server.robot_state.set_robot_mode(RobotMode.kUserStopped)
        elif line == "release":
            server.robot_state.set_robot_mode(RobotMode.kIdle)


def main(host: str) -> None:
    """Serve; says ``ready HOST`` when it does."""
    import franka_sim

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    prefer_realtime()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fr3.xml"
        path.write_text(model(Path(franka_sim.__file__).parent / "models" / "fr3.urdf"))
        os.environ["FR3_MJCF"] = str(path)
        server = franka_sim.FrankaSimServer(host=host, enforce_comm_constraints=True, enforce_motion_limits=True)
        threading.Thread(target=listen, args=(server,), daemon=True).start()
        server.start()


if __name__ == "__main__":
    main(sys.argv[1])
