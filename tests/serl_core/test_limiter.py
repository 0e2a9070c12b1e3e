import pytest

from serl_core.limiter import RECENT, UpdateLimiter


def run(limiter: UpdateLimiter) -> int:
    calls = 0
    while limiter.grants():
        limiter.done()
        calls += 1
    return calls


def test_nothing_is_granted_without_data() -> None:
    """Bug: a learner that is not paced by incoming data trains for ever on the first transitions."""
    limiter = UpdateLimiter(utd=4, per_call=4, lockstep=True, start_after=10)
    limiter.insert(10)
    assert run(limiter) == 0
    assert "training starts after 10" in limiter.waiting()
    limiter.insert(5)
    assert run(limiter) == 5
    assert "due in 1.0 transitions" in limiter.waiting()
    assert limiter.achieved_utd == 4


def test_only_whole_calls_are_granted() -> None:
    """Bug: partial calls retrace the compiled update, rounding up raises the UTD."""
    limiter = UpdateLimiter(utd=0.5, per_call=4, lockstep=True, start_after=0)
    limiter.insert(7)
    assert run(limiter) == 0
    limiter.insert(1)
    assert run(limiter) == 1
    assert limiter.updates == 4


def test_lockstep_forgives_nothing_and_says_how_far_it_is_behind() -> None:
    """Bug: the actor runs away from a slow learner, so that results depend on the machine."""
    limiter = UpdateLimiter(utd=2, per_call=2, lockstep=True, max_behind=20, start_after=0)
    limiter.insert(210)
    assert limiter.behind == 210 and limiter.forgiven == 0 and limiter.waiting() == ""
    limiter.done()
    assert limiter.behind == 209


def test_realtime_caps_the_debt() -> None:
    """Bug: after a pause the learner works off an unbounded backlog on stale data."""
    limiter = UpdateLimiter(utd=4, per_call=4, lockstep=False, max_debt=200, start_after=0)
    limiter.insert(1000)
    assert run(limiter) == 50
    assert limiter.achieved_utd == pytest.approx(0.2)


def test_counters_survive_a_resume() -> None:
    """Bug: after a resume the learner catches up on, or forgets, what it was owed."""
    limiter = UpdateLimiter(utd=4, per_call=4, lockstep=True, start_after=10)
    limiter.insert(25)
    limiter.done()
    resumed = UpdateLimiter(utd=4, per_call=4, lockstep=True, start_after=10)
    resumed.load(limiter.state_dict())
    assert (resumed.debt, resumed.achieved_utd, resumed.stored) == (limiter.debt, limiter.achieved_utd, 25)
    with pytest.raises(ValueError, match="limiter state has"):
        resumed.load({"stored": 1})


def test_the_present_pace_forgets_what_came_before() -> None:
    """Bug: a learner that falls behind after hours still shows its old pace, so that nobody is told to wait for it."""
    limiter = UpdateLimiter(utd=4, per_call=4, lockstep=False, start_after=10)
    assert limiter.recent_utd == 0.0

    def go(transitions: int, every: int) -> None:
        for number in range(transitions):
            limiter.insert()
            if number % every == 0 and limiter.grants():
                limiter.done()

    go(1010, every=1)
    assert limiter.recent_utd == pytest.approx(4.0)
    go(RECENT, every=4)
    assert limiter.recent_utd == pytest.approx(1.0, rel=0.05) and limiter.achieved_utd > 3.4
    resumed = UpdateLimiter(utd=4, per_call=4, lockstep=False, start_after=10)
    resumed.load(limiter.state_dict())
    assert resumed.recent_utd == 0.0  # unknown, not the average of the run before
    go(2 * RECENT, every=1)
    assert limiter.recent_utd == pytest.approx(4.0, rel=0.05)


def test_settings_that_deadlock_are_refused() -> None:
    """Bug: the learner waits for more data than the actor may collect."""
    with pytest.raises(ValueError, match="never granted"):
        UpdateLimiter(utd=0.1, per_call=4, lockstep=True, max_behind=20)
    with pytest.raises(ValueError, match="never granted"):
        UpdateLimiter(utd=4, per_call=400, lockstep=False, max_debt=200)


@pytest.mark.parametrize("utd", [0.3, 1.0, 4.0, 7.5])
def test_two_sided_limiter_never_stalls(utd: float) -> None:
    """Bug: for some ratio neither side may go."""
    limiter = UpdateLimiter(utd=utd, per_call=4, lockstep=True, start_after=5)
    for _ in range(300):
        actor_may_go = limiter.behind <= limiter.max_behind  # the actor's own rule
        assert actor_may_go or limiter.grants()
        if actor_may_go:
            limiter.insert()
        else:
            limiter.done()
    run(limiter)
    assert limiter.updates <= utd * limiter.counted
