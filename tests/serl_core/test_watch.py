"""What a person who demonstrates is warned of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from link_records import start, step

from serl_core.config import ConfigError
from serl_core.envs.takeover_machine import TakeoverConfig
from serl_core.recording.watch import Watch, WatchConfig, end_stops
from serl_core.tasks import load_task
from serl_core.types import Step


def moving(number: int, push: float = 0.5, gripper: float = 0.0, who="operator") -> Step:
    """A step at 10 Hz with one axis of motion and a gripper."""
    return replace(step("demo", 0, number), action=np.array([push, gripper], np.float32), who=who)


def watching(pushes: list[float], lengths: list[int] | None = None, **changes) -> list[str]:
    """The warnings after steps with these pushes."""
    watch = Watch(WatchConfig(), np.ones(1), 10.0, lambda: lengths or [])
    watch(start("demo", 0))
    for number, push in enumerate(pushes):
        watch(moving(number, push, **changes))
    return watch.warnings


def test_a_person_who_stands_still_is_told() -> None:
    """Guards demonstrations against pauses, which teach the policy to pause."""
    assert watching([0.5] * 5 + [0.01] * 29) == []
    assert watching([0.5] * 5 + [0.01] * 30) == ["no motion for 3 s"]
    assert watching([0.01] * 40 + [0.5]) == []


def test_a_gripper_that_closes_is_motion() -> None:
    """Guards a person who waits for the gripper."""
    watch = Watch(WatchConfig(idle=0.5), np.ones(1), 10.0, lambda: [])
    watch(start("demo", 0))
    for number, gripper in enumerate([0, 0, 0, -1, -1, 0, 0, 0]):
        watch(moving(number, 0.0, gripper))
        assert not watch.warnings


def test_a_device_at_its_end_stop_is_told_but_not_the_policys() -> None:
    """Guards against demonstrations that say nothing but full speed ahead."""
    assert watching([1.0] * 9) == []
    assert "at the end stop in 50% of the steps" in watching([1.0, 0.3] * 6)[0]
    assert watching([1.0] * 3 + [0.3] * 9) == []
    assert watching([1.0] * 40, who="policy") == []


def test_what_takes_twice_as_long_as_usual_is_told() -> None:
    """Guards against one demonstration in which the person lost their way."""
    assert watching([0.5] * 21, [10, 10]) == []
    assert watching([0.5] * 20, [10, 5, 30]) == []
    assert watching([0.5] * 21, [10, 5, 30]) == ["2.1 times as long as usual: discard it?"]


def test_an_episode_begins_without_warnings() -> None:
    """Guards the next demonstration against what the last one did."""
    watch = Watch(WatchConfig(), np.ones(1), 10.0, lambda: [])
    for record in [start("demo", 0), *[moving(number, 0.0) for number in range(50)]]:
        watch(record)
    assert watch.warnings
    watch(start("demo", 1))
    assert not watch.warnings
    watch(replace(moving(0), aborted=True))
    assert not watch.warnings


def test_episodes_with_a_warning_are_counted_once_each() -> None:
    """Guards `serl record --json`: one that comes and goes is one episode's, one that has gone counts."""
    lengths = [5, 5, 5]
    watch = Watch(WatchConfig(idle=0.5), np.ones(1), 10.0, lambda: lengths)
    for number, pushes in enumerate([[0.0] * 6 + [0.5] + [0.0] * 6, [0.5] * 6, [0.0] * 5 + [0.5]]):
        watch(start("demo", number))
        for index, push in enumerate(pushes):
            watch(moving(index, push))
    assert not watch.warnings
    assert watch.episodes == {"idle": 2, "long": 1, "saturated": 0}


@pytest.mark.parametrize("values", [{"idle": 0.0}, {"saturated": 0.0}, {"long": 1.0}])
def test_what_would_warn_always_is_refused(values: dict) -> None:
    """Guards warnings against being ignored."""
    with pytest.raises(ConfigError, match="watch"):
        WatchConfig(**values)


def test_the_end_stop_is_the_hands_not_the_arms() -> None:
    """Guards the warning under gain=0.5: the hand is at its end stop where the action is 0.5; a key has none."""
    reach = load_task("reach")
    half = end_stops("spacemouse:gain=0.5", reach, TakeoverConfig(gains=(1, 1, 0.5, 1, 1, 1)))
    assert half[:3].tolist() == [0.5, 0.5, 0.25]
    assert np.isinf(end_stops("keyboard", reach, TakeoverConfig())).all()
    assert (end_stops("scripted", reach, TakeoverConfig()) == 1.0).all()
    watch = Watch(WatchConfig(), half[:1], 10.0, lambda: [])
    watch(start("demo", 0))
    for number in range(12):
        watch(moving(number, 0.5))
    assert "at the end stop in 100%" in watch.warnings[0]
