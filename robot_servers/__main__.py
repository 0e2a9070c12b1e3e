"""``python -m robot_servers DRIVER``: one robot behind its guard and a socket.

With `robot_servers.real`, which knows those of hardware, the only importer of drivers.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from robot_servers.arms import within
from robot_servers.cameras.build import build_rig
from robot_servers.cameras.rig import Rig
from robot_servers.cameras.spec import FORM, parse_cameras
from robot_servers.client import RobotClient
from robot_servers.company import Company
from robot_servers.files import read
from robot_servers.guarded import GuardedRobot
from robot_servers.http import HttpServer
from robot_servers.http_face import Face
from robot_servers.http_options import HttpOptions, add_http_options, http_options
from robot_servers.interface import ClockMode, Driver, Limits, RobotError, nearest
from robot_servers.keys import ServerKeys, load_server_keys
from robot_servers.preflight import machine_checks, table
from robot_servers.real import ARMS, Real, add_options
from robot_servers.realtime import prefer_realtime
from robot_servers.serl_dialect import GripperNumbers
from robot_servers.server import ServedRobot, Server

log = logging.getLogger(__name__)

# Cycles/s of the simulated arm: in real time as often as arms report their state; in lockstep every cycle costs time.
RATES: dict[ClockMode, float] = {"realtime": 250.0, "lockstep": 100.0}


PORTS_APART = 10  # between the ports of two arms: beside each are those of its STOP and its states


def _mujoco(scene: str, clock: ClockMode, cameras: tuple[str, ...]) -> Driver:
    arm, *others = _mujoco_arms(scene, clock, cameras)
    if others:
        raise RobotError(f"the scene {scene} has {len(others) + 1} arms: name one, {arm.scene}, or serve them all")
    return arm


def _mujoco_arms(scene: str, clock: ClockMode, cameras: tuple[str, ...]) -> tuple[Driver, ...]:
    try:
        from robot_servers.drivers.mujoco import MujocoDriver, drivers_of
    except ImportError as error:
        raise RobotError(f"the simulated arm needs a package ({error}): install the extra sim") from error
    options: dict[str, Any] = {"clock": clock, "cameras": cameras, "cycle_hz": RATES[clock]}
    return (MujocoDriver(scene, **options),) if "/" in scene else drivers_of(scene or "pick_cube", **options)


def _fake(scene: str, clock: ClockMode, cameras: tuple[str, ...]) -> Driver:
    from robot_servers.drivers.fake import FakeDriver

    return FakeDriver(scene, clock=clock, cameras=cameras)


DRIVERS: dict[str, Callable[[str, ClockMode, tuple[str, ...]], Driver]] = {"mujoco": _mujoco, "fake": _fake}


def build(
    driver: str,
    scene: str = "",
    clock: ClockMode = "realtime",
    cameras: tuple[str, ...] = (),
    limits: Limits | None = None,
    camera: tuple[str, ...] = (),
    real: Real | None = None,
) -> GuardedRobot:
    """A guarded robot by its driver's name, not connected yet. ``camera``: real ones, as `parse_cameras` reads them.

    Raises `RobotError` in one line for what `make_driver` refuses, and for limits looser than the robot's.
    """
    arm = make_driver(driver, scene, clock, cameras, limits, real)
    others = _real_cameras(camera, cameras, clock)
    return GuardedRobot(arm, None if driver in ARMS else limits, cameras=others, prepare=_prefer_realtime)


def build_all(
    driver: str,
    scene: str,
    clock: ClockMode,
    cameras: tuple[str, ...],
    limits: Limits | None,
    camera: tuple[str, ...] = (),
    real: Real | None = None,
) -> tuple[ServedRobot, ...]:
    """As `build`, but every arm of a simulated scene, each behind a guard of its own; they share time and STOP."""
    if driver != "mujoco" or camera:
        return (build(driver, scene, clock, cameras, limits, camera, real),)
    arms = _mujoco_arms(scene, clock, cameras)
    robots = tuple(GuardedRobot(arm, limits, prepare=_prefer_realtime) for arm in arms)
    return robots if len(robots) == 1 else Company(robots).members()


def make_driver(
    driver: str,
    scene: str = "",
    clock: ClockMode = "realtime",
    cameras: tuple[str, ...] = (),
    limits: Limits | None = None,
    real: Real | None = None,
) -> Driver:
    """The driver alone, by its name. Raises `RobotError` in one line for an unknown driver, scene or camera.

    Also for cameras that cannot be rendered here, and for a real arm of which too little is known.
    """
    if driver in ARMS:
        if clock != "realtime":
            raise RobotError("nobody can stop a real arm's time: leave out --clock lockstep")
        return ARMS[driver](replace(real or Real(), limits=None if limits is None else within(driver, limits)))
    if driver not in DRIVERS:
        raise RobotError(f'unknown robot "{driver}"{nearest(driver, [*DRIVERS, *ARMS])}')
    return DRIVERS[driver](scene, clock, cameras)


def check(driver: Driver, real: Real) -> int:
    """The preflight of this computer and of the arm, as a table; the exit status, 1 if something is not ready."""
    checks = (*machine_checks(real.waive_realtime, real.address), *driver.preflight())
    print(table(checks), flush=True)
    return 0 if all(one.ok for one in checks) else 1


def _prefer_realtime() -> None:
    log.info("the control cycle runs with %s", prefer_realtime())


def _real_cameras(texts: tuple[str, ...], others: tuple[str, ...], clock: ClockMode) -> Rig | None:
    """Raises `RobotError` for a name that a simulated camera has, and under the lockstep clock, which none keeps."""
    rig = build_rig(parse_cameras(texts)) if texts else None
    if rig is None:
        return None
    if clock != "realtime":
        raise RobotError("--camera is for real cameras, whose time nobody can stop: leave out --clock lockstep")
    if set(rig.sizes) & set(others):
        raise RobotError(f"{', '.join(sorted(set(rig.sizes) & set(others)))}: named by both --cameras and --camera")
    return rig


def serve(
    driver: str,
    *,
    scene: str = "",
    host: str = "127.0.0.1",
    port: int = 5555,
    truth_port: int | None = None,
    clock: ClockMode = "realtime",
    cameras: tuple[str, ...] = (),
    camera: tuple[str, ...] = (),
    limits: Limits | None = None,
    real: Real | None = None,
    insecure: bool = False,
    http: HttpOptions | None = None,
    keys: Path | None = None,
    preflight: bool = False,
    lease: float | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; prints ``ready tcp://… [http://…] [truth tcp://…]`` when it serves.

    A scene with several arms has a server for each, `PORTS_APART`, and prints their addresses with commas between.
    Port 0 takes a free one. ``http``: serve SERL's HTTP routes too, in real time only. ``keys``: folder of a server's
    keys. ``preflight``: only check, and serve nothing. ``lease`` s of silence end an owner's, as in `Server`. Returns
    the exit status: 2 for what cannot be, said in one line on stderr.
    """
    try:
        if preflight:
            return check(make_driver(driver, scene, clock, cameras, limits, real), real or Real())
        secrets = load_server_keys(keys) if keys else None
        robots = build_all(driver, scene, clock, cameras, limits, camera, real)
        servers = [
            Server(robot, *_addresses(host, number, port, truth_port), insecure, lease, secrets)
            for number, robot in enumerate(robots)
        ]
        with _serving(robots, servers), _http_face(servers, clock, http, secrets) as url:
            truth = ",".join(server.truth_address for server in servers if server.truth_address)
            addresses = ",".join(server.address for server in servers)
            print(f"ready {addresses}{url}{f' truth {truth}' if truth else ''}", flush=True)
            servers[0].serve_forever()
    except RobotError as error:
        print(f"robot server: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _serving(robots: Sequence[ServedRobot], servers: Sequence[Server]) -> Iterator[None]:
    """Everything open, and closed again in the opposite order; signals end it cleanly.

    The first server answers in the caller's thread, every other one in its own.
    """
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: servers[0].stop()))
        for robot in robots:
            stack.callback(robot.close)
            robot.connect()
        for server in servers:
            stack.enter_context(server)
        for server in servers[1:]:
            thread = threading.Thread(target=server.serve_forever, name="second-server")
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.stop)
        yield


@contextlib.contextmanager
def _http_face(
    servers: Sequence[Server], clock: ClockMode, options: HttpOptions | None, keys: ServerKeys | None
) -> Iterator[str]:
    """SERL's routes beside the server, if they are asked for: their URL after a space, or nothing."""
    if options is None:
        yield ""
        return
    server, *others = servers
    if others:
        raise RobotError("--http-port: SERL's routes know one arm: serve one, e.g. --scene handover/left")
    if clock != "realtime":
        raise RobotError("--http-port: scripts written for SERL run in real time, leave out --clock lockstep")
    with HttpServer(Face(lambda: RobotClient(server.address, keys=keys.own if keys else None)), options) as http:
        yield f" {http.url}"


def _addresses(host: str, number: int, port: int, truth_port: int | None) -> tuple[str, str | None]:
    """Of the ``number``-th arm, and of its ground truth."""

    def at(port: int) -> str:
        return f"tcp://{host}:{port + number * PORTS_APART if port else '*'}"

    return at(port), None if truth_port is None else at(truth_port)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        options = [name for action in self._actions for name in action.option_strings]
        hint = nearest(unknown, options) if message.startswith("unrecognized") else ""
        self.exit(2, f"robot server: {message}{hint}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = _Parser(prog="python -m robot_servers", description="Serve a robot, real or simulated, behind its guard.")
    out.add_argument("driver", help=f"which robot: {', '.join([*DRIVERS, *ARMS])}")
    out.add_argument("--scene", default="", help="simulated robots: the scene, e.g. pick_cube")
    out.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    out.add_argument("--port", type=int, default=5555, help="port of the robot; 0 takes a free one")
    out.add_argument("--truth-port", type=int, help="port of the ground truth (simulation); closed unless given")
    out.add_argument("--clock", choices=("realtime", "lockstep"), default="realtime", help="who lets time pass")
    out.add_argument("--cameras", nargs="*", default=[], help="simulated cameras, e.g. front wrist")
    out.add_argument("--camera", action="append", default=[], metavar="NAME=SPEC", help=f"a real one: {FORM}")
    add_options(out)
    add_http_options(out)
    out.add_argument("--keys", type=Path, help="folder of the server's keys (serl keys); needed beyond loopback")
    out.add_argument("--insecure", action="store_true", help="allow addresses that others can reach without keys")
    out.add_argument("--lease", type=float, metavar="S", help="silence after which an owner is gone (1; lockstep: 30)")
    out.add_argument("--check", dest="preflight", action="store_true", help="only check computer and arm")
    return out


def main() -> int:
    """Entry point; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    args = vars(parser().parse_args())
    numbers = GripperNumbers(args.pop("http_dialect"), args.pop("http_gripper"))
    http = http_options(args.pop("http_port"), args.pop("http_host"), args["insecure"], numbers)
    real = Real(**{name: args.pop(name) for name in ("address", "gripper", "tool", "waive_realtime")}, numbers=numbers)
    file, cameras, camera = args.pop("limits"), tuple(args.pop("cameras")), tuple(args.pop("camera"))
    try:
        limits = read(Limits, file) if file else None
    except RobotError as error:
        print(f"robot server: {error}", file=sys.stderr)
        return 2
    return serve(args.pop("driver"), cameras=cameras, camera=camera, limits=limits, real=real, http=http, **args)


if __name__ == "__main__":
    sys.exit(main())
