"""What a person says acts on the arm at once, and on the episode in which it was said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np
import pytest
from env_parts import REACH, Arm, Hand, push
from person_parts import Script, in_order

from robot_servers.interface import RobotError
from serl_core.attendance import parse_buttons
from serl_core.config import ConfigError
from serl_core.envs.attention import RESET, Attended, AttentiveClock, Ears, attended, by_hand
from serl_core.envs.build import build_env
from serl_core.envs.rewards import PersonJudge
from serl_core.rollout import Decision, Identity, rollout
from serl_core.teleop.buttons import SayingButtons
from serl_core.teleop.console import Event, Said
from serl_core.teleop.device import Device, Reading
from serl_core.types import EpisodeStart, Record, Step

STAY = np.zeros(4, np.float32)
B, S, F, M, D, E, H, Q, U, STOP = (
    Event.BEGIN, Event.SUCCESS, Event.FAILURE, Event.MISSED_SUCCESS, Event.DISCARD, Event.END, Event.HOLD, Event.QUIT,
    Event.UNDO, Event.STOP,
)  # fmt: skip


class Place:
    """An arm without physics, a person's console and, with ``readings``, their hand at a device."""

    def __init__(self, script: Script, readings: Sequence | None = None, max_steps: int = 20) -> None:
        self.arm, self.console = Arm(), script
        self.listened: list[tuple[Event, bool]] = []
        self.waited = 0
        self.ears = Ears(script, (self.arm.robot,), stop=lambda: len(script.shown) > 500, pause=self.pause)
        self.ears.listeners.append(lambda one, running: self.listened.append((one.event, running)))
        device: Device | None = None if readings is None else Hand(list(readings))
        env = build_env(
            REACH, self.arm.robot, obs="state", clock=AttentiveClock(self.arm.clock(), self.ears), truth=self.arm.truth,
            judge=PersonJudge(self.ears.verdicts), device=device,
        )  # fmt: skip
        self.env = Attended(env, self.ears, max_steps, 0.1, None if device is None else by_hand)

    def pause(self, seconds: float) -> None:
        self.waited += 1

    @property
    def mode(self) -> str:
        return self.arm.robot.status().mode

    def episodes(self, seeds: Iterable[int] = range(3), begin: bool = False) -> list[list[Step]]:
        """The steps of each episode of a rollout."""
        records: list[Record] = []
        rollout(
            self.env, lambda obs: Decision(STAY), [lambda record: records.append(record)], identity=Identity("a"),
            seeds=attended(seeds, self.ears, begin), stop=self.ears.over,
        )  # fmt: skip
        found: list[list[Step]] = []
        for record in records:
            found.append([]) if isinstance(record, EpisodeStart) else found[-1].append(record)
        return found


def ends(steps: list[Step]) -> tuple[int, bool, bool, bool]:
    last = steps[-1]
    return len(steps), last.success, last.terminated, last.truncated


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (S, (True, True, False)),
        (M, (True, True, False)),
        (F, (False, True, False)),
        (E, (False, False, True)),
        (D, (False, False, True)),
    ],
)
def test_what_is_said_ends_the_episode_in_which_it_is_said(event: Event, outcome: tuple[bool, ...]) -> None:
    """Guards what a person meant: a verdict terminates, an end without one is cut off and had a future."""
    place = Place(Script(in_order(("4", event), ("judge", S))))
    first, second, _ = place.episodes()
    assert ends(first)[1:] == outcome and len(first) < 10
    assert ends(second) == (20, False, False, True)
    assert place.listened[0] == (event, True)


def test_the_last_word_counts() -> None:
    """Guards against a slip of the finger that is mended at once."""
    place = Place(Script(lambda status: [S, F] if status.get("step") == 4 else []))
    assert not place.episodes(range(1))[0][-1].success


def test_a_verdict_between_two_episodes_does_not_end_the_next() -> None:
    """Guards the next episode against what was said of the last one during the reset."""
    once = [S]

    def script(status):
        return [once.pop()] if once and status.get("waits for") == RESET else []

    place = Place(Script(script))
    assert ends(place.episodes(range(1))[0]) == (20, False, False, True)
    assert place.listened == [(S, False)]


def test_stop_stops_the_arm_and_ends_the_episode() -> None:
    """Guards the person: STOP acts in the period in which it is heard."""
    place = Place(Script(in_order(("3", STOP))))
    place.env.reset(seed=0)
    ended = [place.env.step(STAY)[3] for _ in range(9) if place.mode != "stopped"]
    assert place.mode == "stopped" and ended[-1] and len(ended) < 9
    assert "STOP by key" in place.arm.robot.status().reason


def test_stop_is_heard_in_a_reset() -> None:
    """Guards against a reset that goes on for seconds although somebody said STOP."""
    place = Place(Script(lambda status: [STOP] if not place.listened else []))
    place.arm.robot.recover, recovered = lambda: None, []

    def stopped_by(_: float) -> None:
        recovered.append(place.mode)
        raise KeyboardInterrupt

    place.ears.listeners.append(lambda one, running: stopped_by(0.0))
    with pytest.raises(KeyboardInterrupt):
        place.env.reset(seed=0)
    assert recovered == ["stopped"]


def test_a_hold_lasts_until_begin_and_the_next_episode_follows_it() -> None:
    """Guards a person at the table: nothing moves between HOLD and BEGIN."""
    modes: list[str] = []

    def script(status):
        if status.get("waits for") == "begin":
            modes.append(place.mode)
            return [B] if len(modes) > 5 else []
        return [H] if status.get("step") == 3 and not modes else []

    place = Place(Script(script))
    first, second = place.episodes(range(2))
    assert first[-1].truncated and len(first) < 10 and len(second) == 20
    assert set(modes) == {"holding"} and place.waited >= 5


def test_a_hold_in_a_reset_lasts_until_begin_too() -> None:
    """Guards a hand that comes too near while the arm drives to its start."""
    modes: list[str] = []

    def script(status):
        if status.get("waits for") == "begin":
            modes.append(place.mode)
            return [B] if len(modes) > 5 else []
        return [H] if status.get("waits for") == RESET and not modes else []

    place = Place(Script(script))
    assert [len(steps) for steps in place.episodes(range(1))] == [20]
    assert len(modes) == 6 and set(modes) == {"holding"}


def test_nothing_moves_before_begin_where_it_is_asked_for() -> None:
    """Guards hands in the scene: the arm does not even reset before the person says so."""
    place = Place(Script(in_order(("begin", B), ("5", S), ("begin", B), ("5", F), ("begin", Q))))
    resets: list[int] = []
    place.ears.listeners.append(lambda one, running: resets.append(place.arm.robot.status().resets))
    assert [ends(steps)[1] for steps in place.episodes(count(), begin=True)] == [True, False]
    assert resets == [0, 1, 1, 2, 2]


def test_an_end_without_a_verdict_waits_for_it() -> None:
    """Guards a verdict that takes a look: the next episode does not begin, nor take it for its own."""
    place = Place(Script(in_order(("5", E), ("judge", F))))
    assert len(place.episodes(range(2))) == 2
    assert place.listened == [(E, True), (F, False)] and place.waited >= 1


def test_an_episode_that_was_ended_can_be_taken_back() -> None:
    """Guards against an arm that waits for a verdict on what nobody wants any more."""
    place = Place(Script(in_order(("5", E), ("judge", U))))
    assert len(place.episodes(range(2))) == 2


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("event", [S, F, D, U])
def test_a_verdict_from_a_page_sets_no_waiting_arm_in_motion(event: Event, at_once: bool) -> None:
    """Guards hands in the scene against somebody who judges from the next room, however fast."""
    resets: list[int] = []
    far = Said(event, "page", 0.0)
    said = iter([[E, far] if at_once else [E], [] if at_once else [far]])

    def script(status):
        if status.get("waits for") == "begin":
            resets.append(place.arm.robot.status().resets)
            return [B] if len(resets) > 5 else []
        return next(said, []) if status.get("step") == 3 or "failure" in str(status.get("waits for")) else []

    place = Place(Script(script))
    assert len(place.episodes(range(2))) == 2
    assert resets == [1] * 6 and place.arm.robot.status().resets == 2


def test_quit_ends_after_the_episode() -> None:
    """Guards the running episode: it is not cut short, and none follows."""
    place = Place(Script(in_order(("5", Q))))
    assert [len(steps) for steps in place.episodes()] == [20]


def test_an_episode_begins_with_the_persons_hand() -> None:
    """Guards demonstrations against seconds of nothing while the person reaches for the device."""
    hand = [push()] * 30 + [push(0.5)] * 40
    place = Place(Script(lambda status: []), hand)
    steps = place.episodes(range(1))[0]
    assert len(steps) == 20 and all(step.who == "operator" for step in steps)
    assert any(shown.get("waits for") == "your hand at the device" for shown in place.console.shown)


def test_waiting_for_a_hand_one_can_leave() -> None:
    """Guards against a recorder that can only be killed, and against an episode of one step at its end."""
    script = Script(lambda status: [Q] if "hand" in str(status.get("waits for")) else [])
    assert Place(script, [push()] * 99).episodes() == []


def test_a_button_of_the_device_is_heard_while_the_arm_waits() -> None:
    """Guards a person with both hands at the device: BEGIN is a press of it, when no step reads it."""
    pressed = [(), (), ("start",), ()]
    hand = Hand([Reading(np.zeros(6), pressed=names) for names in pressed])
    queue: list[Event] = []
    device = SayingButtons(
        hand, parse_buttons("start=begin"), lambda event, _: queue.append(event), lambda reading: reading.pressed
    )
    console = Script(lambda status: [queue.pop()] if queue else [])
    ears = Ears(console, (Arm().robot,), lambda: len(console.shown) > 50, lambda seconds: None, device.read)
    assert list(attended([7], ears, begin=True)) == [7] and console.heard == [B]
    with pytest.raises(ConfigError, match="BUTTON=EVENT"):
        parse_buttons("start=begin,select=dance")


def test_a_robot_that_does_not_answer_does_not_keep_the_other_from_stopping() -> None:
    """Guards the second arm, and the loop: an error is said, not raised."""
    arm = Arm()

    class Gone:
        def stop(self, reason: str) -> None:
            raise RobotError("no answer")

    heard = iter([[Said(STOP, "page", 0.0)]])
    console = Script(lambda status: [])
    console.poll = lambda: next(heard)  # type: ignore[method-assign]
    Ears(console, (Gone(), arm.robot)).hear()  # type: ignore[arg-type]
    assert arm.robot.status().mode == "stopped"


def test_the_console_is_shown_how_things_stand() -> None:
    """Guards the figures a person acts on: time left, who leads, and a device that is gone."""
    hand = [push(0.5)] * 10 + [push(connected=False)] * 20
    place = Place(Script(lambda status: []), hand)
    place.episodes(range(1))
    shown = place.console.shown
    assert {"2 s", "1 s", "0 s"} <= {status.get("left") for status in shown}
    assert [status["led by"] for status in shown if status.get("step") == 3] == ["operator"]
    assert shown[-1]["led by"] == "nobody" and shown[-1]["device"] == "disconnected"


def test_a_hold_that_was_said_while_nobody_listened_counts_before_anything_moves() -> None:
    """Guards a person who reaches in during an outage, or while the learner is away, having been told "hold"."""
    said = iter([[H], [], [], [B]])
    place = Place(Script(lambda status: next(said, [Q])))
    began: list[int] = []
    reset = place.env.env.reset
    place.env.env.reset = lambda **options: began.append(place.waited) or reset(**options)
    place.env.reset(seed=0)
    assert began == [3] and not place.ears.held  # it waited for BEGIN first


@pytest.mark.parametrize("text", ["start=stop", "select=success,start=stop"])
def test_stop_is_no_buttons_word(text: str) -> None:
    """Guards against a STOP that only a loop that may hang would read."""
    with pytest.raises(ConfigError, match="STOP is on the keys and the page"):
        parse_buttons(text)
