"""Requests that no script means, and where the routes are served: an answer that says what is wrong, always."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from http_site import PATIENCE, Site, post, site, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_servers.client import RobotClient
from robot_servers.drivers.fake import LIMITS, FakeDriver
from robot_servers.http import MAX_BODY, MAX_CONNECTIONS, HttpServer
from robot_servers.http_face import Face
from robot_servers.http_options import HttpOptions
from robot_servers.interface import RobotError
from robot_servers.serl_dialect import NAMES

# ── what cannot be meant ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", 'lacks "arr"'),
        (b"{", "not JSON"),
        (b"[1,2,3]", "JSON object"),
        (b'{"arr": [1,2,3]}', "list of 7"),
        (b'{"arr": [0.5,0,NaN,1,0,0,0]}', "not a number"),
        (b'{"arr": [0.5,0,Infinity,1,0,0,0]}', "not a number"),
        (b'{"arr": [0.5,0,1e999,1,0,0,0]}', "finite"),
        (b'{"arr": [0.5,0,"0.3",1,0,0,0]}', "finite"),
        (b'{"arr": [0.5,0,true,1,0,0,0]}', "finite"),
        (b'{"arr": [0.5,0,0.3,0,0,0,0.1]}', "no orientation"),
        (b'{"arr": "0.5,0,0.3,1,0,0,0"}', "list of 7"),
        (b"[" * 9000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_malformed_poses_are_refused_and_nothing_moves(calm, raw, words):
    """Guards against an arm that goes where nobody meant it to."""
    status, said = calm.refused("pose", raw=raw)
    assert status == 400 and words in said
    assert calm.robot.status().commands == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(["pose", "move_gripper", "set_load", "update_param"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=8)
                | st.dictionaries(st.sampled_from(["arr", "gripper_pos", "mass", *NAMES]), inner, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda tree: json.dumps(tree).encode()),
    ),
)
def test_no_body_breaks_the_service_or_leaves_the_box(shared, route, body):
    """Guards against a body that ends the server, raises inside it, or moves the arm out of its limits."""
    status, _, _ = post(shared.url, route, body)
    assert status in (200, 400, 409)
    pose = shared.robot.state().pose[:3]
    assert (pose >= np.array(LIMITS.box_low) - 1e-6).all() and (pose <= np.array(LIMITS.box_high) + 1e-6).all()


@pytest.fixture(scope="module")
def shared() -> Iterator[Site]:
    with site(FakeDriver(clock="realtime")) as found:
        yield found
        assert found.get("getstate")


@pytest.mark.parametrize(
    ("headers", "raw", "status"),
    [
        ({"Origin": "http://evil.example"}, b"{}", 403),
        ({"Content-Length": str(MAX_BODY + 1)}, b"", 413),
        ({"Content-Length": "9" * 4000}, b"", 413),
        ({"Content-Length": "-1"}, b"", 400),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", 411),
    ],
)
def test_requests_that_are_none_of_a_script(calm, headers, raw, status):
    """Guards against web pages, endless bodies and bodies without an end."""
    assert calm.refused("pose", raw=raw, **headers)[0] == status
    assert calm.get("getpos")


def test_unknown_routes_are_answered_with_the_nearest(calm, caplog):
    """Guards against a misspelt route that nobody notices."""
    with caplog.at_level(logging.WARNING):
        status, said = calm.refused("getpose")
    assert status == 404 and 'did you mean "getpos"' in said
    assert "getpos" in caplog.text


def test_getting_is_answered_with_what_to_do_instead(calm):
    """Guards against a browser or curl without -X POST that sees nothing."""
    parts = urlsplit(calm.url)
    with contextlib.closing(
        http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    ) as connection:
        connection.request("GET", "/getstate")
        answer = connection.getresponse()
        assert answer.status == 405 and "POST" in answer.read().decode()


def test_silent_connections_do_not_keep_others_out_for_ever(fake):
    """Guards against threads without bound: beyond the limit connections are closed, the service goes on."""
    parts = urlsplit(fake.url)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 5):
            stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE))
    wait_for(lambda: _answers(fake), "an answer")


def _answers(found: Site) -> bool:
    try:
        return post(found.url, "getpos")[0] == 200
    except (http.client.HTTPException, OSError):
        return False


def test_without_the_robots_server_requests_say_so():
    """Guards against a face that hangs, or hides that the robot is gone."""
    with HttpServer(Face(_nobody), HttpOptions(port=0)) as server:
        status, _, text = post(server.url, "getstate")
        assert status == 503 and "no robot server" in json.loads(text)["error"]


def _nobody() -> RobotClient:
    raise RobotError("no robot server answers")


# ── where it serves ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "robot.local", ""])
def test_only_loopback_unless_somebody_says_insecure(host):
    """Guards against an arm that anybody on the network can move."""
    with pytest.raises(RobotError, match="refusing to serve HTTP"):
        HttpServer(Face(_nobody), HttpOptions(host, 0))


def test_insecure_serves_others():
    """Guards against a refusal that nothing lifts."""
    with HttpServer(Face(_nobody), HttpOptions("0.0.0.0", 0, insecure=True)) as server:
        assert server.url.startswith("http://0.0.0.0:")


def test_a_taken_port_is_said(calm):
    """Guards against a face that silently serves nobody."""
    port = urlsplit(calm.url).port
    assert port is not None
    with pytest.raises(RobotError, match="is another server"), HttpServer(Face(_nobody), HttpOptions(port=port)):
        pass
