import pytest

from serl_core.clock import LockstepClock, RealtimeClock


class Wall:
    """A wall clock that only moves when somebody sleeps or works."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_lockstep_time_is_what_the_robot_is_advanced_by():
    """Guards simulated time: one tick is one control period, whatever the wall clock says."""
    advanced: list[float] = []
    clock = LockstepClock(0.1, advanced.append)
    clock.start()
    clock.tick()
    clock.tick()
    assert advanced == [0.1, 0.1]


def test_work_within_a_period_does_not_shift_the_schedule():
    """Guards against drift: n ticks take n periods, not n periods plus the work."""
    wall = Wall()
    clock = RealtimeClock(0.1, wall.now, wall.sleep)
    clock.start()
    for step in range(50):
        wall.time += 0.09 * (step % 2)
        clock.tick()
    assert wall.time == pytest.approx(105.0)
    assert clock.late == 0


def test_a_late_tick_is_counted_and_made_up_for():
    """Guards the report of lateness, and the ticks after it."""
    wall = Wall()
    clock = RealtimeClock(0.1, wall.now, wall.sleep)
    clock.start()
    wall.time += 0.15
    clock.tick()
    assert clock.late == 1
    clock.tick()
    assert wall.time == pytest.approx(100.2)


def test_a_long_pause_is_not_followed_by_a_burst():
    """Guards the arm: after a stall, steps come at the control rate again, not all at once."""
    wall = Wall()
    clock = RealtimeClock(0.1, wall.now, wall.sleep)
    clock.start()
    wall.time += 5.0
    clock.tick()
    resumed = wall.time
    clock.tick()
    assert wall.time == pytest.approx(resumed + 0.1)
