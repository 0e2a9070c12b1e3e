import numpy as np
import pytest

from serl_core.data.labels import Outcome
from serl_core.data.routing import HilSerl, Imitation, Rlif, Routed, Routing, Seen, seen_in
from serl_core.types import Source, Step, Who

HANDS: dict[str, Who] = {"p": "policy", "o": "operator", "O": "operator", "n": "nobody"}
FAILED, SUCCEEDED = Outcome(0.0, True, False, False), Outcome(1.0, True, False, True)
TIME_LIMIT, RUNNING = Outcome(0.0, False, True, False), Outcome(0.0, False, False, False)


def episode(hands: str, end: Outcome = TIME_LIMIT) -> list[Step]:
    """An episode with a letter per step: p policy, o operator, O operator in a takeover of its own, n nobody."""
    takeover, steps = -1, []
    for number, letter in enumerate(hands):
        begins = letter == "O" or (letter == "o" and (number == 0 or hands[number - 1] == "p"))
        takeover += begins
        outcome = end if number == len(hands) - 1 else RUNNING
        steps.append(
            Step(
                actor="actor",
                episode=0,
                step=number,
                action=np.zeros(2, np.float32),
                proposal=np.zeros(2, np.float32),
                target=np.zeros(7),
                bent=False,
                next_obs={},
                reward=outcome.reward,
                grasp_penalty=0.0,
                terminated=outcome.terminated,
                truncated=outcome.truncated,
                success=outcome.success,
                who=HANDS[letter],
                takeover=-1 if letter == "p" else takeover,
                policy_version=0,
                time=0.0,
            )
        )
    return steps


def routed(routing: Routing, hands: str, end: Outcome = TIME_LIMIT, source: Source = "online") -> list[Routed]:
    return [routing.route(seen) for seen in seen_in(episode(hands, end), source, routing.lookback)]


def rewards(routing: Routing, hands: str, end: Outcome = TIME_LIMIT) -> list[float]:
    return [transition.reward for transition in routed(routing, hands, end)]


def online(routing: Routing, hands: str, source: Source = "online") -> str:
    """Which steps are in the partition "online", as a pattern of 1 and 0."""
    return "".join(str(int(transition.online)) for transition in routed(routing, hands, source=source))


def demos(routing: Routing, hands: str, source: Source = "online") -> str:
    return "".join(str(int(transition.demos)) for transition in routed(routing, hands, source=source))


# ── RLIF ──


@pytest.mark.parametrize(
    ("hands", "expected"),
    [
        ("ppp", [0, 0, 0]),
        ("ppoopp", [0, -1, 0, 0, 0, 0]),  # the policy's transition before it, not the expert's first
        ("ooopp", [0, 0, 0, 0, 0]),  # at t = 0 nobody is to blame
        ("poopoop", [-1, 0, 0, -1, 0, 0, 0]),  # two of them
        ("pooOop", [-1, 0, 0, 0, 0, 0]),  # one takeover directly after another: the expert is not blamed
        ("ponp", [-1, 0, 0, 0]),  # taken over, and then the device was lost
    ],
)
def test_a_takeover_costs_the_step_before_it(hands, expected):
    """Guards the only reward of RLIF."""
    assert rewards(Rlif(), hands) == expected


def test_bootstrapping_goes_on_through_a_takeover():
    """Guards the returns: a takeover is no end, and a time limit is none either."""
    assert not any(transition.terminated for transition in routed(Rlif(), "ppoop", TIME_LIMIT))


def test_a_failure_is_not_the_best_state_of_all():
    """Guards the trap: all returns are ≤ 0, so an end with value 0 beats going on; a failure carries −1."""
    assert rewards(Rlif(), "ppp", FAILED) == [0, 0, -1]
    assert routed(Rlif(), "ppp", FAILED)[-1].terminated


def test_a_success_ends_with_nothing():
    """Guards RLIF against the task reward: 0 at the end is already the highest return there is."""
    assert rewards(Rlif(), "ppp", SUCCEEDED) == [0, 0, 0]
    assert routed(Rlif(), "ppp", SUCCEEDED)[-1].terminated


def test_a_failure_after_a_takeover_is_blamed_once():
    """Guards against −2 for one mistake."""
    assert Rlif().route(Seen("online", "policy", FAILED, before=1)).reward == -1


@pytest.mark.parametrize("kept", ["last", "none", "all"])
def test_which_of_the_experts_transitions_count(kept):
    """Guards the switch: the released code stores the last one of each takeover, once the policy acts again."""
    hands = "ppoooop" + "poooo"  # the second takeover ends with the episode
    expected = {"last": "1100011" + "10000", "none": "1100001" + "10000", "all": "1" * 12}[kept]
    assert online(Rlif(expert=kept), hands) == expected


def test_initial_trajectories_lie_in_the_one_buffer():
    """Guards offline ratio 0: without them in "online" they would never be sampled."""
    assert online(Rlif(), "oooo", source="demo") == "1111"
    assert Rlif().demo_ratio == 0.0
    assert [t.reward for t in routed(Rlif(), "oooo", SUCCEEDED, source="demo")] == [0, 0, 0, 0]


def test_a_demonstration_is_never_a_takeover():
    """Guards demonstrations that begin with a step of nobody's: no policy acted in them."""
    assert [seen.before for seen in seen_in(episode("poo"), "demo", 1)] == [0, 0, 0]


# ── HIL-SERL ──


def test_interventions_are_in_both_partitions():
    """Guards the method's data: what the person did counts twice, what the policy did once."""
    assert online(HilSerl(), "ppoop") == "11111" and demos(HilSerl(), "ppoop") == "00110"
    assert online(HilSerl(), "oo", source="demo") == "00" and demos(HilSerl(), "oo", source="demo") == "11"


def test_steps_of_nobody_teach_dynamics_and_are_nobodys_demonstration():
    """Guards demonstrations against an arm that stood still because a device was lost."""
    assert online(HilSerl(), "ponnp") == "11111" and demos(HilSerl(), "ponnp") == "01000"


def test_the_penalty_reaches_as_far_back_as_asked():
    """Guards the switch: the policy's own last steps before a takeover, none of an earlier takeover."""
    assert rewards(HilSerl(penalty=0.5, penalty_steps=2), "pppoop") == [0, -0.5, -0.5, 0, 0, 0]
    assert rewards(HilSerl(penalty=0.5, penalty_steps=3), "popo") == [-0.5, 0, -0.5, 0]
    assert rewards(HilSerl(), "pppoop", SUCCEEDED) == [0, 0, 0, 0, 0, 1]


def test_a_penalty_has_the_right_sign():
    """Guards against a reward for being rescued."""
    with pytest.raises(ValueError, match="must not be negative"):
        HilSerl(penalty=-0.5)


# ── imitation ──


def test_hg_dagger_adds_the_corrections_and_cloning_does_not():
    """Guards the two baselines: the same demonstrations, with and without what came later."""
    assert demos(Imitation(corrected=True), "ppoop") == "00110"
    assert demos(Imitation(corrected=False), "ppoop") == "00000"
    for corrected in (True, False):
        assert demos(Imitation(corrected), "oo", source="demo") == "11" and Imitation(corrected).demo_ratio == 1.0
