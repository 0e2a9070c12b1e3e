"""All checks in their order, and what runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from robot_servers.conformance import bounds, devices, measurement, motion, owners, protocol, refusals, stopping
from robot_servers.conformance.bench import Bench
from robot_servers.conformance.verdict import NotApplicable, Result, Violation
from robot_servers.interface import RobotError


@dataclass(frozen=True)
class Check:
    """``run`` says what it saw, or raises `Violation` or `NotApplicable`; the sentence is what must hold.

    Without the checks named in ``needs`` it would say nothing, or move where nobody knows: then it does not run.
    """

    name: str
    sentence: str
    run: Callable[[Bench], str]
    needs: tuple[str, ...] = ()


PLACE = ("state", "clock", "rate", "position", "orientation")  # whoever moves has to know where it is

CHECKS: tuple[Check, ...] = (
    Check("hello", "The first call names protocol version and metadata.", protocol.hello),
    Check("metadata", "What it says of itself is complete and sane.", protocol.metadata),
    Check("unknown call", "A misspelt call is answered with the nearest one.", protocol.unknown_call),
    Check("ground truth", "The scene's truth is not on the public socket.", protocol.ground_truth),
    Check("advance", "Nobody hurries the clock of real time, nor stops it in lockstep.", protocol.advance),
    Check("observers", "Anybody may look, and as many as want to.", protocol.observers),
    Check("state", "States have the stated shapes and are finite.", measurement.state),
    Check("clock", "States are fresh, and their time advances as it should.", measurement.clock),
    Check("rate", "States come as often as stated.", measurement.rate, ("state", "clock")),
    Check("stream", "The stream of states carries what is asked for.", measurement.stream, ("state", "clock")),
    Check("position", "The arm is inside its box, in metres.", measurement.position, ("state", "metadata")),
    Check("orientation", "The arm is within its tilt, scalar-last.", measurement.orientation, ("state", "metadata")),
    Check("joints", "Joints are inside their limits, in radians.", measurement.joints, ("state", "metadata")),
    Check("wrench", "Forces are next to nothing in free air.", measurement.wrench, ("state",)),
    Check("translation", "A small translation arrives, along x, y and z.", motion.translation, PLACE),
    Check("rotation", "A small rotation arrives, about the axis asked.", motion.rotation, PLACE),
    Check("tool frame", "A translation along the tool's axes does not turn it.", motion.tool_frame, PLACE),
    Check("velocity", "Velocities add up to the motion.", motion.velocity, PLACE),
    Check("jacobian", "The Jacobian agrees with velocities and joint speeds.", motion.jacobian, (*PLACE, "velocity")),
    Check("box", "Targets outside of the box are bent, said so, and not reached.", bounds.box, PLACE),
    Check("step", "Targets too far from the arm are bent, said so, and not reached.", bounds.step, PLACE),
    Check("tilt", "Targets turned too far are bent, said so, and not reached.", bounds.tilt, PLACE),
    Check("applied", "What is answered as the target is the target.", motion.applied, (*PLACE, "translation", "box")),
    Check("loosening", "Limits are tightened by a client, never loosened.", bounds.loosening, PLACE),
    Check("not finite", "NaN and infinity are refused.", refusals.not_finite, PLACE),
    Check("malformed", "What is no command is refused.", refusals.malformed, PLACE),
    Check("stale", "Answers to old or future states are refused.", refusals.stale, PLACE),
    Check("order", "Overtaken commands are refused.", refusals.order, PLACE),
    Check("watchdog", "Without commands the arm holds, with the next it goes on.", stopping.watchdog, PLACE),
    Check("hold", "Anybody may hold the arm, and only a reset ends it.", stopping.hold, PLACE),
    Check("still", "Whoever holds does not creep.", stopping.still, PLACE),
    Check("reset", "Reset plans run to their end, inside the limits.", stopping.reset, PLACE),
    Check("person", "A plan that asks a person waits for the answer.", stopping.person, PLACE),
    Check("lease", "Only the owner of the lease commands.", owners.lease, PLACE),
    Check("fight", "Two that fight for the lease never both command.", owners.fight, PLACE),
    Check("gripper", "The gripper opens and closes in normalised numbers.", devices.gripper, PLACE),
    Check("cameras", "Pictures have the stated size, are fresh and not frozen.", devices.cameras, ("state", "clock")),
    Check("stop", "After STOP nothing moves until somebody recovers the arm.", stopping.stop, PLACE),
    Check("dead owner", "The lease of a dead client ends, in a hold.", owners.dead_owner, PLACE),
    Check("flood", "A client that does not read delays no other.", protocol.flood),
    Check("garbage", "No bytes end the service.", protocol.garbage),
)


def run(
    bench: Bench, checks: Sequence[Check] = CHECKS, tell: Callable[[str], None] = lambda name: None
) -> list[Result]:
    """One result for each check; ``tell`` hears the name of each before it begins."""
    results: list[Result] = []
    for check in checks:
        tell(check.name)
        results.append(_one(bench, check, {result.name: result for result in results}))
    return results


def _one(bench: Bench, check: Check, before: dict[str, Result]) -> Result:
    unmet = [name for name in check.needs if name in before and before[name].result == "fail"]
    if unmet:
        return _none(check, f"not run: it needs {', '.join(unmet)}")
    if not measurement.still_answers(bench):
        return _none(check, "not run: the server does not answer any more")
    begun = time.monotonic()
    result = _run(bench, check)
    try:
        bench.rest()
    except RobotError as error:
        if result.result != "fail":
            result = _failed(check, f"afterwards: {error}", "whatever clients do, the service goes on")
    return replace(result, seconds=round(time.monotonic() - begun, 3))


def _run(bench: Bench, check: Check) -> Result:
    try:
        return Result(check.name, check.sentence, "pass", check.run(bench))
    except NotApplicable as why:
        return _none(check, str(why))
    except Violation as violation:
        return _failed(check, str(violation), violation.advice)
    except RobotError as error:
        return _failed(check, str(error), "this call should have been carried out")


def _failed(check: Check, seen: str, advice: str) -> Result:
    return Result(check.name, check.sentence, "fail", seen, advice)


def _none(check: Check, why: str) -> Result:
    return Result(check.name, check.sentence, "not applicable", why)
