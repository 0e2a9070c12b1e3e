"""Checks of the lease: one client at a time commands, and none keeps the robot when it is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from robot_servers.conformance.bench import Bench
from robot_servers.conformance.verdict import expect, fail
from robot_servers.interface import Command, NotOwner, RobotError

ROUNDS = 5
FIGHT = 0.5  # s
PATIENCE = 45.0  # s; under the lockstep clock a lease may last half a minute


def lease(bench: Bench) -> str:
    """Only its owner commands: not a second client, and not who does not say who it is."""
    bench.ready()
    refusal = ""
    with bench.channel() as second, bench.channel(named=False) as nameless:
        for _ in range(ROUNDS):
            bench.send(bench.start)
            for who, channel in (("a second client", second), ("a client without a name", nameless)):
                refusal = _not_owner(who, lambda channel=channel: channel.call("command", _command(bench)))
            _not_owner("a second client", lambda: second.call("acquire", bench.small()))
            second.call("release")  # of what it does not own
    bench.send(bench.start)
    return refusal


def fight(bench: Bench) -> str:
    """Two at once, as fast as they can: all accepted commands are of one of them."""
    bench.ready()
    bench.yield_lease()
    pair = [bench.client() for _ in range(2)]
    limits, start, accepted = bench.small(), bench.start, [0, 0]

    def command(which: int) -> None:
        until = time.monotonic() + FIGHT
        while time.monotonic() < until:
            try:
                pair[which].tighten(limits)
                state = pair[which].state()
                pair[which].command(Command(start, None, state.time))
                accepted[which] += 1
            except RobotError:  # the other one has it, or this thread was too slow for its state
                continue

    threads = [threading.Thread(target=command, args=(which,)) for which in range(2)]
    for client in pair:
        client.connect()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in pair:
        client.close()
    expect(
        min(accepted) == 0 < max(accepted),
        f"commands accepted: {accepted[0]} of one, {accepted[1]} of the other, none of whom released the lease",
        "check, carry out and count a call in one thread, so that no other owner comes in between",
    )
    return f"{max(accepted)} commands of one were accepted, none of the other"


def dead_owner(bench: Bench) -> str:
    """A client that is gone without a word: held, and free for the next one."""
    bench.ready()
    bench.yield_lease()
    with bench.channel() as dead:
        dead.call("acquire", bench.small())
        dead.call("command", _command(bench))
    begun = time.monotonic()
    while not _taken(bench):
        waited = time.monotonic() - begun
        expect(waited < PATIENCE, f"still owned {waited:.0f} s after its owner died", "end a lease by its silence")
        time.sleep(0.1)
    waited, mode = time.monotonic() - begun, bench.status().mode
    expect(mode == "holding", f"mode {mode} after its owner died", "hold when the owner's lease ends")
    return f"held, and free again after {waited:.1f} s"


def _taken(bench: Bench) -> bool:
    try:
        bench.robot.tighten(bench.small())
    except NotOwner:
        return False
    return True


def _command(bench: Bench) -> Command:
    return Command(bench.start, None, bench.robot.state().time)


def _not_owner(who: str, call: Callable[[], object]) -> str:
    try:
        call()
    except NotOwner as refusal:
        return str(refusal)
    except RobotError as error:
        fail(f"{who} is refused with: {error}", "refuse with NotOwner, naming who owns the robot")
    fail(f"{who} was obeyed while another one owns the robot", "ask for the lease before anything that changes")
