"""``python -m robot_servers.conformance ADDRESS``: does this server keep what the protocol promises?"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from rich.console import Console

from robot_servers.conformance.bench import REACH, TURN, Bench
from robot_servers.conformance.suite import run
from robot_servers.conformance.verdict import Result, as_json, as_table, holds
from robot_servers.interface import RobotError
from robot_servers.keys import load_client_keys

MOTION = (
    f"The arm will move by at most {REACH * 1e3:g} mm along each axis and turn by at most {math.degrees(TURN):g}° from "
    "where it is, many times; the gripper opens and closes. Empty it, and keep the hardware stop in reach."
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m robot_servers.conformance", description=__doc__)
    out.add_argument("address", help="of the robot server, tcp://HOST:PORT")
    out.add_argument("--json", action="store_true", help="print JSON instead of a table")
    out.add_argument("--yes", action="store_true", help="do not ask before a real arm moves")
    out.add_argument("--keys", type=Path, help="folder with this machine's keys, for a server that demands them")
    return out


def main(arguments: list[str] | None = None) -> int:
    """0 if every applicable check holds, 1 if one does not, 2 if nothing could be checked."""
    args = parser().parse_args(arguments)
    messages = Console(stderr=True, highlight=False)
    messages.print(MOTION)
    try:
        keys = None if args.keys is None else load_client_keys(args.keys)
        with Bench(args.address, keys) as bench:
            if not (args.yes or bench.simulated or _agreed(messages)):
                messages.print("nothing was checked: answer yes, or say --yes")
                return 2
            with messages.status("") as line:
                results = run(bench, tell=lambda name: line.update(f"checking: {name}"))
            robot, farthest = bench.metadata.robot, bench.farthest
    except RobotError as error:
        messages.print(f"conformance: {error}")
        return 2
    _show(args.address, robot, farthest, results, args.json)
    return 0 if holds(results) else 1


def _agreed(messages: Console) -> bool:
    messages.print("May it move now? [yes/no] ", end="")
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _show(address: str, robot: str, farthest: float, results: list[Result], as_machine: bool) -> None:
    if as_machine:
        print(json.dumps(as_json(address, robot, farthest, results), indent=1))
        return
    console = Console(highlight=False)
    console.print(as_table(results))
    count = {outcome: sum(one.result == outcome for one in results) for outcome in ("pass", "fail", "not applicable")}
    console.print(f"{robot} at {address}: " + ", ".join(f"{number} {outcome}" for outcome, number in count.items()))
    console.print(f"It was seen up to {farthest * 1e3:.1f} mm along one axis from where it was found.")


if __name__ == "__main__":
    sys.exit(main())
