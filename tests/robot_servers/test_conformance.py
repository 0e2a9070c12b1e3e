"""The conformance suite: it passes on our servers, and catches each broken one by the right name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from broken_parts import SILENCE, Broken, broken
from broken_servers import BROKEN
from served import LOOPBACK, served_at

from robot_servers.conformance import measurement, owners, protocol
from robot_servers.conformance.__main__ import main
from robot_servers.conformance.bench import REACH, Bench
from robot_servers.conformance.suite import CHECKS, Check, run
from robot_servers.conformance.verdict import Result
from robot_servers.drivers.fake import FakeDriver
from robot_servers.drivers.mujoco import MujocoDriver
from robot_servers.guarded import GuardedRobot
from robot_servers.interface import Driver

ALL = frozenset(check.name for check in CHECKS)
TIMED = {"rate"}  # in real time it judges the machine as well, and this one may be loaded
CLOCKED = ALL & {  # what a clock may change; the rest is seen in lockstep, which wastes no time
    *("clock", "advance", "stream", "translation", "velocity", "watchdog", "hold", "dead owner", "stop", "gripper"),
    "cameras",
}
SLOW = {"observers", "stream", "fight", "dead owner", "garbage"}  # run for those servers only that they must catch
STILL = {protocol.__name__, measurement.__name__}  # their checks move nothing: every broken server is put to them


@dataclass(frozen=True)
class Robot:
    """A robot that must conform: what is checked of it, and which of that it has not."""

    make: Callable[[], Driver]
    checks: frozenset[str] = ALL
    without: frozenset[str] = frozenset()


# A driver with an emulator is added by one line here.
ROBOTS: dict[str, Robot] = {
    "fake lockstep": Robot(lambda: FakeDriver(cameras=("front", "wrist")), without=frozenset(("joints", "jacobian"))),
    "fake realtime": Robot(lambda: FakeDriver(clock="realtime", cameras=("front",)), CLOCKED),
    "mujoco lockstep": Robot(lambda: MujocoDriver("pick_cube"), without=frozenset(("cameras",))),
    "mujoco realtime": Robot(
        lambda: MujocoDriver("pick_cube", clock="realtime"), CLOCKED, without=frozenset(("cameras",))
    ),
}


def related(caught: frozenset[str]) -> list[Check]:
    """What a broken server is put to: all that moves nothing, and everything akin to the checks that must catch it."""
    families = STILL | {check.run.__module__ for check in CHECKS if check.name in caught}
    return [check for check in CHECKS if check.run.__module__ in families and check.name not in SLOW - caught]


def failed(results: list[Result]) -> dict[str, str]:
    """Name → what was seen, of every check that failed."""
    return {result.name: result.seen for result in results if result.result == "fail"}


@pytest.mark.parametrize("name", ROBOTS)
def test_our_servers_conform(name: str) -> None:
    """Guards against a server of ours that breaks its own protocol, and against a check that nobody can pass."""
    robot = GuardedRobot(ROBOTS[name].make())
    robot.connect()
    try:
        with served_at(robot, silence=SILENCE) as address, Bench(address) as bench:
            results = run(bench, [check for check in CHECKS if check.name in ROBOTS[name].checks])
            farthest = bench.farthest
    finally:
        robot.close()
    assert failed(results) == {}
    assert {result.name for result in results if result.result == "not applicable"} == ROBOTS[name].without
    assert 0.003 < farthest < REACH + 0.001, "it moves, and no farther than it says"


@pytest.mark.parametrize("name", BROKEN)
def test_broken_servers_are_caught_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a check that lets its own failure pass, and against one that blames the wrong thing."""
    monkeypatch.setattr(owners, "PATIENCE", 3.0)
    what = BROKEN[name]
    with broken(what) as address, Bench(address) as bench:
        results = run(bench, [check for check in related(what.caught) if bench.lockstep or check.name not in TIMED])
    assert failed(results).keys() == what.caught, failed(results)
    assert all(result.advice for result in results if result.result == "fail")


def test_what_cannot_be_judged_does_not_run() -> None:
    """Guards against motions of an arm of which nobody knows where it is."""
    with broken(BROKEN["states in millimetres"]) as address, Bench(address) as bench:
        results = run(bench, related(frozenset(["translation"])))
        farthest = bench.farthest
    translation = next(result for result in results if result.name == "translation")
    assert translation.result == "not applicable" and "position" in translation.seen
    assert farthest == 0.0


def test_checks_have_names_of_their_own() -> None:
    """Guards against two checks of one name, and needs that name no check or a later one."""
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for place, check in enumerate(CHECKS):
        assert set(check.needs) <= set(names[:place]), check.name


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a table in the machine's output, and an exit status that hides a failure."""
    monkeypatch.setattr("robot_servers.conformance.suite.CHECKS", ())
    monkeypatch.setattr("robot_servers.conformance.__main__.run", lambda bench, tell: run(bench, CHECKS[:7], tell))
    for what, status in ((Broken(frozenset()), 0), (BROKEN["truth for all"], 1)):
        with broken(what) as address:
            assert main([address, "--json"]) == status
        report = json.loads(capsys.readouterr().out)
        assert report["holds"] is not bool(status) and len(report["checks"]) == 7


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a failure without its name and without a word of what to do."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("robot_servers.conformance.__main__.run", lambda bench, tell: run(bench, CHECKS[:7], tell))
    with broken(BROKEN["truth for all"]) as address:
        assert main([address]) == 1
    shown = capsys.readouterr()
    assert "ground truth" in shown.out and "refuse it on the public socket" in shown.out and "1 fail" in shown.out
    assert "5 mm" in shown.err


def test_a_real_arm_needs_a_persons_yes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an arm that moves because somebody typed a command."""
    robot = GuardedRobot(FakeDriver(clock="realtime"))
    robot.connect()
    try:
        with served_at(robot, silence=SILENCE) as address:
            for answer in ("", "no\n"):
                monkeypatch.setattr("sys.stdin", io.StringIO(answer))
                assert main([address]) == 2
        assert robot.status().commands == 0
    finally:
        robot.close()
    assert "nothing was checked" in capsys.readouterr().err


def test_an_absent_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a traceback where a port is wrong."""
    assert main([LOOPBACK.replace("*", "1"), "--yes"]) == 2
    assert "no robot server answers" in " ".join(capsys.readouterr().err.split())
