"""The HTTP routes of SERL's servers, for scripts and environments that post to them. All are POST.

Getters answer JSON, actions a short text, whatever is wrong a status of 4xx or 5xx and
``{"error": one sentence}``. What the routes do is in `http_face`; here is what travels. A pose is
``[x, y, z, qx, qy, qz, qw]``, metres, base frame, scalar-last; of its quaternion only the direction
counts, as scripts interpolate it component by component.

Whoever reaches the port can move the arm: it is served on loopback unless ``insecure`` is said, and requests
that come from a web page are refused, because every browser on the machine reaches loopback too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import socketserver
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np

from robot_servers.geometry import quat_to_euler
from robot_servers.http_face import Face
from robot_servers.http_options import HttpOptions
from robot_servers.interface import Array, CommandRefused, RobotError, RobotState, nearest
from robot_servers.serl_dialect import GripperNumbers, Malformed, finite

log = logging.getLogger(__name__)

MAX_BODY = 1 << 14  # bytes; the largest, of /update_param, has about 1000
MAX_CONNECTIONS = 32  # at once; more are closed unanswered
IDLE = 30.0  # s after which a silent connection is closed
LEAST_NORM = 0.5  # of a quaternion; what is shorter points nowhere
Body = Mapping[str, Any]


class HttpError(Exception):
    """The answer to a request that cannot be meant: its status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


# ── what the routes answer and do ────────────────────────────────────────────────────────────────


def getters(gripper: GripperNumbers) -> dict[str, Callable[[RobotState], dict[str, Any]]]:
    """Route → what it answers of a state. Shapes as in `RobotState`; jacobian 6 rows."""
    return {
        "getstate": partial(full_state, gripper),
        "getpos": lambda state: {"pose": pose_of(state).tolist()},
        "getpos_euler": lambda state: {"pose": [*state.pose[:3].tolist(), *quat_to_euler(state.pose[3:]).tolist()]},
        "getvel": lambda state: {"vel": state.vel.tolist()},
        "getforce": lambda state: {"force": exerted(state.force)},
        "gettorque": lambda state: {"torque": exerted(state.torque)},
        "getq": lambda state: {"q": state.q.tolist()},
        "getdq": lambda state: {"dq": state.dq.tolist()},
        "getjacobian": lambda state: {"jacobian": state.jacobian.tolist()},
        "get_gripper": lambda state: {"gripper": gripper.report(state.gripper)},
    }


def full_state(gripper: GripperNumbers, state: RobotState) -> dict[str, Any]:
    """What /getstate answers."""
    wrench = {"force": exerted(state.force), "torque": exerted(state.torque)}
    arrays = {name: getattr(state, name).tolist() for name in ("vel", "q", "dq", "jacobian")}
    return {"pose": pose_of(state).tolist(), **arrays, **wrench, "gripper_pos": gripper.report(state.gripper)}


def exerted(external: Array) -> list[float]:
    """SERL passes libfranka's ``K_F_ext_hat_K`` on: what the robot does to its surroundings counts as positive."""
    return (0.0 - external).tolist()


def pose_of(state: RobotState) -> Array:
    """The pose with the sign of the quaternion that scripts expect: its largest component is positive.

    They interpolate from this one to one of their own, made by scipy, component by component.
    """
    quat = state.pose[3:]
    return np.concatenate([state.pose[:3], quat * np.copysign(1.0, quat[np.abs(quat).argmax()])])


def actions(gripper: GripperNumbers) -> dict[str, tuple[str, Callable[[Face, Body], object]]]:
    """Route → the text it answers, and what it does with the body."""
    return {
        "pose": ("Moved", lambda face, body: face.move(goal_in(body))),
        "open_gripper": ("Opened", lambda face, _: face.move_gripper(1.0)),
        "close_gripper": ("Closed", lambda face, _: face.move_gripper(0.0)),
        "close_gripper_slow": ("Closed", lambda face, _: face.move_gripper(0.0)),
        "move_gripper": ("Moved Gripper", lambda face, body: face.move_gripper(opening_in(gripper, body))),
        "activate_gripper": ("Activated", lambda face, _: None),  # the robot's server has done so
        "reset_gripper": ("Reset", lambda face, _: None),
        "clearerr": ("Clear", lambda face, _: face.clear_error()),
        "jointreset": ("Reset Joint", lambda face, _: face.joint_reset()),
        "startimp": ("Started impedance", lambda face, _: face.resume()),
        "stopimp": ("Stopped impedance", lambda face, _: face.hold("/stopimp; /startimp goes on")),
        "update_param": ("Updated compliance parameters", lambda face, body: face.update_params(body)),
        "set_load": ("Set Load", check_load),
    }


def goal_in(body: Body) -> Array:
    """The pose (7,) of a /pose request, its quaternion normalised."""
    pose = numbers(body, "arr", 7)
    size = float(np.linalg.norm(pose[3:]))
    if size < LEAST_NORM:
        raise Malformed(f"the quaternion (x, y, z, w) of arr has norm {size:.3f}, which is no orientation")
    pose[3:] /= size
    return pose


def opening_in(gripper: GripperNumbers, body: Body) -> float:
    """The normalised opening of a /move_gripper request."""
    return gripper.opening_of_target(finite("gripper_pos", _entry(body, "gripper_pos")))


def check_load(face: Face, body: Body) -> None:
    """Answer /set_load."""
    face.check_load(
        finite("mass", _entry(body, "mass")), numbers(body, "F_x_center_load", 3), numbers(body, "load_inertia", 9)
    )


def numbers(body: Body, name: str, length: int) -> Array:
    """The entry ``name`` as float64 (length,). Raises `Malformed` unless they are numbers."""
    values = _entry(body, name)
    if not isinstance(values, list) or len(values) != length:
        raise Malformed(f"{name} must be a list of {length} numbers")
    return np.array([finite(f"{name}[{index}]", value) for index, value in enumerate(values)])


def _entry(body: Body, name: str) -> Any:
    if name not in body:
        raise Malformed(f'the body lacks "{name}"')
    return body[name]


def parse_body(raw: bytes) -> Body:
    """A JSON object, or an empty one if nothing was sent. Raises `Malformed`, also for numbers that are none."""
    if not raw:
        return {}
    try:
        body = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {str(error)[:100]}") from error
    if not isinstance(body, dict):
        raise Malformed(f"the body must be a JSON object, not {type(body).__name__}")
    return body


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


class Routes:
    """Answers requests, from any thread: status, type, bytes."""

    def __init__(self, face: Face, gripper: GripperNumbers) -> None:
        self._face = face
        self._getters = getters(gripper)
        self._actions = actions(gripper)

    def answer(self, path: str, raw: bytes) -> tuple[int, str, bytes]:
        """Never raises: a handler that fails is an answer of status 500."""
        try:
            return self._answer(path.partition("?")[0].strip("/"), raw)
        except HttpError as error:
            return _explain(error.status, error)
        except Malformed as error:
            return _explain(400, error)
        except CommandRefused as error:
            return _explain(409, error)
        except RobotError as error:
            return _explain(503, error)
        except Exception as error:
            log.exception("a request to %.40r failed; the service goes on", path)
            return _explain(500, error)

    def _answer(self, route: str, raw: bytes) -> tuple[int, str, bytes]:
        self._face.renew()
        if route in self._getters:
            return 200, "application/json", _json(self._getters[route](self._face.state()))
        if route not in self._actions:
            hint = nearest(route, [*self._getters, *self._actions])
            log.warning("unknown route %.40r%s", route, hint)
            raise HttpError(404, f'unknown route "/{route:.40}"{hint}')
        text, act = self._actions[route]
        try:
            act(self._face, parse_body(raw))
        finally:
            self._face.renew()  # a reset takes longer than a lease
        return 200, "text/plain; charset=utf-8", text.encode()


def _explain(status: int, error: Exception) -> tuple[int, str, bytes]:
    return status, "application/json", _json({"error": str(error) or type(error).__name__})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


# ── the server ───────────────────────────────────────────────────────────────────────────────────


class HttpServer:
    """Serves `Face` in threads of its own: ``with HttpServer(face, options) as server``. ``url`` is valid after `open`.

    Raises `RobotError` for a host that others can reach, unless ``insecure`` is said, and for a port that is taken.
    """

    def __init__(self, face: Face, options: HttpOptions) -> None:
        if not options.insecure and not _is_loopback(options.host):
            raise RobotError(
                f"refusing to serve HTTP on {options.host}: anyone who reaches it could move the arm. "
                "Serve on 127.0.0.1 and tunnel (ssh -L), or say insecure on a network of your own"
            )
        self.url = ""
        self._face = face
        self._options = options
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> HttpServer:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        host, port = self._options.host, self._options.port
        try:
            self._listener = _Listener((host, port), Routes(self._face, self._options.gripper))
        except (OSError, OverflowError) as error:
            raise RobotError(
                f"cannot serve HTTP on {host}:{port}: {error}; is another server running there?"
            ) from error
        self.url = f"http://{host}:{self._listener.server_address[1]}/"
        self._face.open()
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, and end the lease."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        self._face.close()


class _Listener(socketserver.ThreadingTCPServer):
    """One thread per connection, within bounds. Not http.server's own: that looks its name up in the DNS."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self.routes = routes
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            log.warning("more than %d connections: one is closed", MAX_CONNECTIONS)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("a connection from %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request after the other from a connection, which stays open between them."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "serl"
    sys_version = ""
    timeout = IDLE
    wbufsize = -1  # head and body leave in one packet
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        try:
            self._check_origin()
            raw = self.rfile.read(self._length())
        except HttpError as error:
            self.close_connection = True  # what follows on it was not read
            self._send(*_explain(error.status, error))
            return
        self._send(*self.server.routes.answer(self.path, raw))

    def do_GET(self) -> None:
        self.close_connection = True
        self._send(*_explain(405, HttpError(405, "all routes are POST")))

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _check_origin(self) -> None:
        if self.headers.get("Origin") is not None:
            raise HttpError(403, "requests from web pages are refused: any page could move the arm")

    def _length(self) -> int:
        if "Transfer-Encoding" in self.headers:
            raise HttpError(411, "send the body in one piece, with its Content-Length")
        text = self.headers.get("Content-Length", "0")
        if not (text.isascii() and text.isdigit()):
            raise HttpError(400, "the Content-Length is not a number")
        if len(text) > 9 or int(text) > MAX_BODY:
            raise HttpError(413, f"the body is larger than {MAX_BODY} bytes")
        return int(text)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):  # a name
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
