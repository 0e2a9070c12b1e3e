"""The page for verdicts, over plain HTTP: who is heard, what is refused, and that STOP gets through."""

from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from link_ends import eventually

from robot_servers.interface import RobotError
from serl_core.config import ConfigError
from serl_core.teleop.console import Event
from serl_core.teleop.consoles import check_console, open_console
from serl_core.teleop.inbox import Inbox
from serl_core.teleop.page import EVENTS, MAX_BODY, MAX_CONNECTIONS, Page, make_token

TOKEN = "correct-horse-battery"


class Site:
    """A page, the arm's STOP beside it, and requests to it."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.fails = False
        self.inbox = Inbox(self.stop)
        self.page = Page(self.inbox, "127.0.0.1", 0, TOKEN)

    def stop(self, reason: str) -> None:
        if self.fails:
            raise RobotError("NOT STOPPED, use the hardware stop: nobody answers")
        self.stopped.append(reason)

    @property
    def port(self) -> int:
        return int(self.page.url.split(":")[2].split("/")[0])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(
            method, path, raw, {"X-Token": TOKEN, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text, dict(answer.headers)

    def say(self, event: str, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", "/say", {"event": event}, **headers)[:2]

    def events(self) -> list[Event]:
        return [said.event for said in self.inbox.take()]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.page:
        yield site


def test_each_button_says_its_event(site: Site):
    """Guards the way of a verdict from a phone to the loop."""
    for event in EVENTS:
        assert site.say(event) == (200, {"said": event})
    assert site.events() == list(EVENTS) and site.stopped == ["STOP by page"]


def test_no_page_sets_the_arm_in_motion(site: Site):
    """Guards against an arm that goes on after a hold because somebody far away touched a phone."""
    status, answer = site.say("begin")
    assert status == 403 and "beside it" in answer["error"] and not site.events()


def test_figures_are_plain_json(site: Site):
    """Guards the status against values that JSON has no word for, and shows how old it is."""
    site.page.show({"steps": 3, "rate": 0.5, "loss": float("nan"), "path": Path("/x"), "on": True, "none": None})
    status, answer, _ = site.ask("GET", "/status")
    assert status == 200 and 0 <= answer["age"] < 30 and answer["waiting"] == 0
    assert answer["status"] == {"steps": 3, "rate": 0.5, "loss": None, "path": "/x", "on": True, "none": None}
    assert "begin" not in answer["events"] and "stop" in answer["events"]


def test_the_page_needs_nothing_from_elsewhere_and_tells_no_secret(site: Site):
    """Guards a lab without internet, and the token: whoever fetches the page does not get it."""
    status, text, headers = site.ask("GET", "/", X_Token="")
    assert status == 200 and "STOP" in text and TOKEN not in text
    assert "http:" not in text and "https:" not in text and "src=" not in text and "<link" not in text
    assert (
        "frame-ancestors 'none'" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
    )


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "ü"])
def test_nobody_is_heard_without_the_token(site: Site, token: str):
    """Guards against other users of the machine or the network, who must neither speak nor read."""
    headers = {"X_Token": token.encode().decode("latin-1")}
    assert site.say("success", **headers)[0] == 403 and site.say("stop", **headers)[0] == 403
    assert site.ask("GET", "/status", **headers)[0] == 403
    assert not site.events() and not site.stopped


def test_pages_of_others_are_not_heard(site: Site):
    """Guards against a web page, open in the same browser, that posts to loopback."""
    for origin in ("https://example.org", "null", f"http://127.0.0.1:{site.port + 1}"):
        assert site.say("success", Origin=origin)[0] == 403
    assert not site.events()
    assert site.say("success", Origin=f"http://127.0.0.1:{site.port}")[0] == 200


def test_what_cannot_be_meant_is_refused_with_the_fix(site: Site):
    """Guards the thread that serves: malformed requests are answered, and the next one is heard."""
    bodies = [b"", b"{", b"[]", b'"stop"', b"null", b'{"event": null}', b'{"event": ["stop"]}', b"\xff\xfe", b"[" * 200]
    for body in bodies:
        status, answer, _ = site.ask("POST", "/say", body)
        assert status == 400 and answer["error"], body
    assert "did you mean" in site.say("sucess")[1]["error"]
    assert site.ask("POST", "/say", b"x" * (MAX_BODY + 1))[0] == 413
    assert site.ask("POST", "/say", b"{}", Content_Length="1e3")[0] == 411
    assert site.ask("POST", "/say", b"0\r\n\r\n", Transfer_Encoding="chunked")[0] == 411
    assert site.ask("POST", "/status", {})[0] == site.ask("GET", "/say")[0] == site.ask("GET", "/../page.py")[0] == 404
    assert site.ask("DELETE", "/say")[0] == 501
    assert not site.events()
    assert site.say("failure")[0] == 200


def test_a_stop_that_failed_is_an_error(site: Site):
    """Guards against a page that says stopped when nobody knows."""
    site.fails = True
    status, answer = site.say("stop")
    assert status == 502 and "use the hardware stop" in answer["error"]
    assert site.events() == [Event.STOP]  # the loop is told all the same


def test_stop_gets_through_while_the_loop_hangs(site: Site):
    """Guards the one button that must work when all else is stuck: a full queue of verdicts does not matter."""
    events = [event for event in EVENTS if event is not Event.STOP]
    status = 200
    for number in range(64):
        site.inbox.put(events[number % len(events)], f"source {number}")
    status, answer = site.say("success")
    assert status == 503 and "the loop hangs" in answer["error"]
    assert site.say("stop")[0] == 200 and site.stopped == ["STOP by page"]


def test_stop_gets_through_a_crowd_of_silent_connections(site: Site):
    """Guards against a browser, or anybody, that holds all connections there are."""
    crowd = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(3 * MAX_CONNECTIONS)]
    assert site.say("stop")[0] == 200 and site.stopped
    for connection in crowd:
        connection.close()


def test_garbage_does_not_stop_the_service(site: Site):
    """Guards the thread that listens against whatever a port scanner sends."""
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /say HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", site.port)) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    assert site.say("failure")[0] == 200


def test_the_address_stays_the_same_after_a_restart(tmp_path: Path):
    """Guards the phone on the bench: its STOP must work when the actor was restarted; and the secret is one."""
    path = tmp_path / "run" / "page.token"
    token = make_token(path)
    assert make_token(path) == token and len(token) >= 22
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    path.chmod(0o644)
    assert len(make_token(path)) >= 22 and make_token(None) != make_token(None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(RobotError, match="token"), open_console("page:0", print, token_file=path / "in-a-file"):
        pass


def test_a_taken_port_is_one_line(site: Site):
    """Guards two actors on one machine: the second says what to do."""
    with pytest.raises(RobotError, match="page:PORT"), Page(site.inbox, "127.0.0.1", site.port, TOKEN):
        pass


def test_several_consoles_are_one():
    """Guards the order of what is said at different ends, and that all of them show the same."""
    lines: list[str] = []
    stopped: list[str] = []
    with open_console("keys+page:0", stopped.append, say=lines.append) as console:
        console.say(Event.HOLD, "button")
        console.show({"advice": "let it try"})
        port, token = lines[1].split(":")[-1].split("/#")
        site = Site()
        site.page.url = f"http://127.0.0.1:{port}/"
        assert site.ask("POST", "/say", {"event": "failure"}, X_Token=token)[0] == 200
        assert site.ask("GET", "/status", X_Token=token)[1]["status"] == {"advice": "let it try"}
        assert [(said.event, said.source) for said in console.poll()] == [
            (Event.HOLD, "button"),
            (Event.FAILURE, "page"),
        ]
        assert console.poll() == []
    assert len(lines) == 2
    assert eventually(lambda: not any(thread.name in ("page", "keys") for thread in threading.enumerate()))


def test_a_page_alone_warns_that_a_hold_lasts():
    """Guards against a run that nobody beside the arm can let go on."""
    lines: list[str] = []
    with open_console("page:127.0.0.1:0", lambda reason: None, say=lines.append):
        assert "keys+page" in lines[-1]


def test_none_hears_nothing():
    """Guards runs without a person: nothing is opened."""
    with open_console("none", lambda reason: None, say=pytest.fail) as console:
        console.show({"a": 1})
        assert console.poll() == []


WRONG = ["", "key", "keys+keys", "page+page:1", "keys:1", "page:x", "page:70000", "page:h:", "none+keys"]


@pytest.mark.parametrize("spec", WRONG)
def test_a_console_that_means_nothing_is_one_line(spec: str):
    """Guards the command line: wrong words are named before anything is opened."""
    with pytest.raises(ConfigError, match="page:PORT"):
        check_console(spec)
    for good in ("keys", "page", "page:5581", "page:0.0.0.0:5581", "keys+page", "page+keys", "none"):
        check_console(good)


def test_a_verdict_that_arrives_in_the_next_episode_is_not_that_ones(site: Site):
    """Guards an episode against a tap on a phone that was meant for the one before; hold and STOP are of no episode."""
    site.page.show({"episode": 8})
    for event in ("success", "discard", "undo"):
        status, answer, _ = site.ask("POST", "/say", {"event": event, "episode": 7})
        assert status == 409 and "episode 8" in answer["error"] and "NOTHING WAS DONE" in answer["error"]
    for event, episode in (("failure", 8), ("end", None), ("hold", 7), ("stop", 7)):
        assert site.ask("POST", "/say", {"event": event, "episode": episode})[0] == 200
    assert site.events() == [Event.FAILURE, Event.END, Event.HOLD, Event.STOP]
    assert site.ask("POST", "/say", {"event": "success", "episode": "8"})[0] == 400
