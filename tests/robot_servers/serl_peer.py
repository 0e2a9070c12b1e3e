"""A plain server in the manner of SERL's, for tests: it forwards every pose to a simulated arm and checks nothing.

As a program it prints ``ready http://… truth tcp://…`` and serves until it is ended. A joint reset also places
the objects anew, as a person would.
"""

from __future__ import annotations

import argparse
import json
import signal
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import zmq

from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.interface import Compliance
from robot_servers.lease import Lease
from robot_servers.serl_dialect import with_params

CYCLE_HZ = 100.0


class Peer:
    """The arm, moved in real time by a thread, and what its HTTP server does with it.

    Trouble on demand: clear ``running`` and every request hangs until it is set; set ``broken`` and the state
    holds a NaN; set ``frozen`` and it stays as it is; set ``slow`` s and joint resets take so long.
    """

    def __init__(self, scene: str = "pick_cube") -> None:
        self.arm = MujocoDriver(scene, clock="realtime", cycle_hz=CYCLE_HZ)
        self.arm.connect()
        self.lock = threading.Lock()
        self.running = threading.Event()
        self.running.set()
        self.broken = self.frozen = False
        self.slow = 0.2
        self.calls: list[str] = []  # every route but /getstate
        self.params: dict[str, float] = {}
        self.poses: list[list[float]] = []
        self._resets = 0
        self._answer = b""
        self._closing = threading.Event()
        self._gripper: float | None = None
        self._thread = threading.Thread(target=self._move, daemon=True)
        self._thread.start()
        self._http = _Server(("127.0.0.1", 0), self)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/"
        self._serving = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._serving.start()

    def close(self) -> None:
        self.running.set()
        self._http.shutdown()
        self._http.server_close()
        self._serving.join()
        self._closing.set()
        self._thread.join()
        self.arm.close()

    def _move(self) -> None:
        due = time.monotonic()
        while not self._closing.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1.0 / CYCLE_HZ, time.monotonic() - 0.1)
            with self.lock:
                self.arm.cycle()

    # ── the routes ──

    def answer(self, route: str, body: dict) -> bytes:
        self.running.wait()
        if route == "getstate":
            return self.state()
        self.calls.append(route)
        with self.lock:
            self.act(route, body)
        if route == "jointreset":
            time.sleep(self.slow)
        return b"Done"

    def state(self) -> bytes:
        if self.frozen:
            return self._answer
        with self.lock:
            state = self.arm.state()
        names = ("pose", "vel", "force", "torque", "q", "dq", "jacobian")
        answer = {name: getattr(state, name).tolist() for name in names} | {"gripper_pos": state.gripper}
        if self.broken:
            answer["force"][1] = float("nan")
        self._answer = json.dumps(answer).encode()
        return self._answer

    def act(self, route: str, body: dict) -> None:
        if route == "pose":
            self.poses.append(body["arr"])
            self.arm.track(np.array(body["arr"]), self._gripper)
        elif route == "jointreset":
            self._resets += 1
            self.arm.place_objects(self._resets)
        elif route == "update_param":
            self.params.update(body)
            self.arm.set_compliance(with_params(Compliance(), self.params))
        elif route in ("open_gripper", "close_gripper", "move_gripper"):
            self._gripper = {"open_gripper": 1.0, "close_gripper": 0.0}.get(route)
            if self._gripper is None:
                self._gripper = 1.0 - body["gripper_pos"] / 255.0  # a Robotiq: 255 is closed
            self.arm.track(self.arm.state().pose if not self.poses else np.array(self.poses[-1]), self._gripper)
        elif route == "stopimp":
            self.arm.stop()
        elif route == "startimp":
            self.arm.recover()
            self.poses.clear()

    def truth(self) -> dict:
        with self.lock:
            return dict(self.arm.ground_truth())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], peer: Peer) -> None:
        self.peer = peer
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # whoever asked is gone


class _Handler(BaseHTTPRequestHandler):  # HTTP/1.0, as Flask's own server speaks it: one request per connection
    server: _Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = self.server.peer.answer(self.path.strip("/"), json.loads(raw) if raw else {})
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve_truth(peer: Peer, stop: threading.Event) -> None:
    """The privileged socket of the simulated scene, until ``stop``."""
    from robot_servers.answering import Call, answer_request

    lease = Lease(1.0, lambda: None)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        print(f"ready {peer.url} truth tcp://127.0.0.1:{port}", flush=True)
        while not stop.is_set():
            if socket.poll(50):
                client, *frames = socket.recv_multipart()
                answer = answer_request(frames, {"ground_truth": Call((), peer.truth)}, lease)
                socket.send_multipart([client, *answer])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scene", default="pick_cube")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    peer = Peer(parser.parse_args().scene)
    serve_truth(peer, stop)
    peer.close()


if __name__ == "__main__":
    main()
