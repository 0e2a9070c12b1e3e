"""The page for verdicts in a real browser, as a person with a phone uses it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from link_ends import eventually

from robot_servers.interface import RobotError
from serl_core.teleop.console import Event
from serl_core.teleop.inbox import Inbox
from serl_core.teleop.page import Page

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PHONE = {"width": 360, "height": 640}
WAIT = 60_000  # ms


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium, or set CHROMIUM to the path of one")
    with playwright.sync_playwright() as tool:
        running = tool.chromium.launch(executable_path=chromium, args=QUIET)
        yield running
        running.close()


class Bench:
    """A page served, opened on a phone, and the arm's STOP beside it."""

    def __init__(self, browser: Any) -> None:
        self.stopped: list[str] = []
        self.fails = False
        self.inbox = Inbox(self.stop)
        self.page = Page(self.inbox, "127.0.0.1", 0, "a-token-of-the-test")
        self.page.open()
        self.phone = browser.new_page(viewport=PHONE, has_touch=True)
        self.phone.goto(self.page.url)
        self.said = self.phone.locator("#said")

    def stop(self, reason: str) -> None:
        if self.fails:
            raise RobotError("NOT STOPPED, use the hardware stop: nobody answers")
        self.stopped.append(reason)

    def tap(self, name: str) -> None:
        self.phone.get_by_role("button", name=name, exact=True).tap(timeout=WAIT)

    def reads(self, selector: str, text: str) -> None:
        self.phone.locator(selector, has_text=text).wait_for(timeout=WAIT)

    def events(self) -> list[Event]:
        return [said.event for said in self.inbox.take()]


@pytest.fixture
def bench(browser: Any) -> Iterator[Bench]:
    bench = Bench(browser)
    yield bench
    bench.phone.close()
    bench.page.close()


def test_a_tap_is_a_verdict(bench: Bench):
    """Guards the whole way from a finger to the loop."""
    bench.tap("Success")
    bench.reads("#said", "said: Success")
    bench.tap("That success was false")
    bench.reads("#said", "said: That success was false")
    assert bench.events() == [Event.SUCCESS, Event.FALSE_SUCCESS]


def test_stop_is_in_reach_and_acts_when_it_is_touched(bench: Bench):
    """Guards the red button: on a phone's screen wherever one has scrolled, large, at once, and reported truly."""
    for place in ("scrollTo(0, 0)", "scrollTo(0, 9999)"):
        bench.phone.evaluate(place)
        box = bench.phone.locator("#stop").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"]
        assert box["width"] > 300 and box["height"] > 90
    bench.phone.locator("#stop").dispatch_event("pointerdown")
    bench.reads("#said", "STOPPED. Only `serl recover` ends that.")
    assert bench.stopped == ["STOP by page"]
    bench.phone.keyboard.press("Escape")
    assert eventually(lambda: len(bench.stopped) == 2)


def test_a_stop_that_failed_is_red(bench: Bench):
    """Guards against a page that leaves a person in the belief that the arm is stopped."""
    bench.fails = True
    bench.tap("STOP")
    bench.phone.locator("#said.bad", has_text="NOT STOPPED: use the hardware stop!").wait_for(timeout=WAIT)


def test_what_cannot_be_undone_needs_two_taps(bench: Bench):
    """Guards against a pocket that discards episodes; no dialog may cover STOP meanwhile."""
    bench.tap("Undo it")
    bench.reads("button.armed", "again to undo it")
    assert not bench.events()
    bench.tap("again to undo it")
    bench.reads("#said", "said: Undo it")
    assert bench.events() == [Event.UNDO]


def test_figures_and_advice_are_shown_as_text(bench: Bench):
    """Guards the status, and against text of a log that becomes part of the page."""
    bench.page.show({"advice": "<b>let it try</b>", "env steps": 1234, "rate": 0.123456, "loss": float("nan")})
    bench.reads("#advice", "<b>let it try</b>")
    bench.reads("#status", "env steps")
    text = bench.phone.locator("#status").inner_text()
    assert "1234" in text and "0.123" in text and "loss" not in text


def test_a_page_that_nobody_serves_says_so(bench: Bench):
    """Guards against a STOP button that looks alive when the actor is gone."""
    bench.reads("#link", "connected")
    bench.page.close()
    bench.phone.locator("#link.bad", has_text="use the hardware stop").wait_for(timeout=WAIT)
    bench.tap("STOP")
    bench.phone.locator("#said.bad", has_text="NOT STOPPED").wait_for(timeout=WAIT)


def test_the_wrong_address_says_what_is_missing(bench: Bench):
    """Guards the person who typed the address without what follows the #."""
    bench.phone.goto("about:blank")
    bench.phone.goto(bench.page.url.partition("#")[0])
    bench.phone.locator("#link.bad", has_text="all after its #").wait_for(timeout=WAIT)


def test_nothing_is_fetched_from_elsewhere(browser: Any):
    """Guards a lab without internet, and people's privacy; and that the page runs without an error of its own."""
    bench, asked, errors = Bench(browser), list[str](), list[str]()
    bench.phone.on("request", lambda request: asked.append(request.url))
    bench.phone.on("pageerror", lambda error: errors.append(str(error)))
    bench.phone.reload()
    bench.reads("#link", "connected")
    bench.phone.close()
    bench.page.close()
    assert asked and all(url.startswith("http://127.0.0.1:") for url in asked) and not errors
