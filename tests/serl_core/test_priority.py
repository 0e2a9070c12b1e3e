"""A learner stands back for actor and server, whichever terminals they run in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serl_core.priority import session_nice

pytestmark = pytest.mark.skipif(session_nice() is None, reason="this kernel does not group processes by session")

SAY = "import os; from serl_core import priority as p; say = lambda: print(os.nice(0), p.session_nice(), flush=True)"


def in_a_terminal(*lines: str, beside: str = "") -> list[tuple[int, int]]:
    """What a program prints that has a session of its own, but for a shell and what that starts ``beside`` it."""
    program = "\n".join([SAY, *lines])
    command = f"{beside} {sys.executable} -c '{program}'; kill %1 2>/dev/null; true"
    done = subprocess.run(
        ["bash", "-mc", command], capture_output=True, text=True, start_new_session=True, check=True, timeout=60
    )
    return [(int(own), int(session)) for own, session in map(str.split, done.stdout.splitlines())]


def test_a_learner_stands_back_with_its_terminal_and_gives_that_back() -> None:
    """Guards the arm's control loop: without the session's value the learner takes as much as actor and server."""
    own = os.nice(0)
    found = in_a_terminal("say()", "with p.standing_back(7): say()", "say()")
    assert found == [(own, 0), (own + 7, 7), (own + 7, 0)]


def test_a_terminal_that_others_run_in_stays_where_it_is() -> None:
    """Guards an actor that was started in the same terminal: it would stand back together with the learner."""
    own = os.nice(0)
    assert in_a_terminal("with p.standing_back(7): say()", beside="sleep 30 &") == [(own + 7, 0)]


def test_what_a_killed_learner_left_is_taken_back() -> None:
    """Guards the next actor in that terminal, which would come after everybody else."""
    (left, found) = in_a_terminal("p._set_session_nice(7)", "say()", "p.standing_in_front()", "say()")
    assert (left[1], found[1]) == (7, 0)


def test_nothing_happens_without_being_asked_to(tmp_path: Path) -> None:
    """Guards --nice 0."""
    own = os.nice(0)
    assert in_a_terminal("with p.standing_back(0): say()") == [(own, 0)]
