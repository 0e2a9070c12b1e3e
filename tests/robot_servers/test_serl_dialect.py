"""The numbers and names of SERL's servers: a wrong one opens a gripper that should close, or stiffens an arm."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_servers.interface import Compliance
from robot_servers.serl_dialect import NAMES, GripperNumbers, Malformed, to_params, with_params

KINDS = [GripperNumbers(dialect, kind) for dialect in ("serl", "hil-serl") for kind in ("robotiq", "hand")]


@pytest.mark.parametrize(
    ("numbers", "reported", "target"),
    [
        (GripperNumbers("serl", "robotiq"), (255.0, 0.0), (255, 0)),
        (GripperNumbers("serl", "hand"), (0.0, 0.08), (0, 204)),
        (GripperNumbers("hil-serl", "robotiq"), (0.0, 1.0), (255, 0)),
        (GripperNumbers("hil-serl", "hand"), (0.0, 1.0), (0, 204)),
    ],
)
def test_closed_and_open_by_each_dialect(numbers, reported, target):
    """Guards against a script that closes the gripper and sees it open."""
    for opening, number, order in zip((0.0, 1.0), reported, target, strict=True):
        assert numbers.report(opening) == pytest.approx(number)
        assert numbers.target(opening) == order
        assert numbers.opening_of_target(order) == pytest.approx(opening)


@pytest.mark.parametrize("numbers", KINDS, ids=str)
@given(opening=st.floats(0.0, 1.0))
def test_openings_survive_the_way_there_and_back(numbers, opening):
    """Guards against a driver and a server that disagree about a gripper half-way."""
    assert numbers.opening(numbers.report(opening)) == pytest.approx(opening)
    assert numbers.opening_of_target(numbers.target(opening)) == pytest.approx(opening, abs=1 / 200)


@pytest.mark.parametrize("numbers", KINDS, ids=str)
@given(number=st.floats(allow_nan=False))
def test_every_number_means_some_opening(numbers, number):
    """Guards against an opening outside of [0, 1], which the guard would refuse as malformed."""
    assert 0.0 <= numbers.opening(number) <= 1.0
    assert 0.0 <= numbers.opening_of_target(number) <= 1.0


def test_the_names_are_those_of_the_scripts():
    """Guards against a parameter that scripts send and nobody takes."""
    said = {
        "translational_stiffness", "translational_damping", "rotational_stiffness", "rotational_damping",
        "nullspace_stiffness", "joint1_nullspace_stiffness", "translational_Ki", "rotational_Ki",
        *(f"{kind}_clip_{axis}" for kind in ("translational", "rotational")
          for axis in ("x", "y", "z", "neg_x", "neg_y", "neg_z")),
    }  # fmt: skip
    assert set(NAMES) == said
    assert to_params(with_params(Compliance(), dict.fromkeys(said, 0.01))) == dict.fromkeys(said, 0.01)


def test_an_update_is_partial_and_clamps_clips():
    """Guards against an update that resets what it does not name, and against a clip that lets the arm press."""
    base = Compliance(rotational_stiffness=99.0)
    found = with_params(base, {"translational_clip_neg_z": 3.0, "translational_stiffness": 1000})
    assert found.translational_clip_neg == (0.01, 0.01, 0.1)
    assert (found.translational_stiffness, found.rotational_stiffness) == (1000.0, 99.0)
    assert found.translational_clip == base.translational_clip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, None, "1", [1.0], 10**400])
def test_values_that_are_no_numbers_are_refused(value):
    """Guards against a stiffness of infinity, or of nan, which every comparison lets through."""
    with pytest.raises(Malformed, match="translational_stiffness"):
        with_params(Compliance(), {"translational_stiffness": value})


def test_a_misspelt_name_is_answered_with_the_right_one():
    """Guards against a parameter that is silently ignored."""
    with pytest.raises(Malformed, match="translational_stiffness"):
        with_params(Compliance(), {"translation_stiffness": 1.0})
