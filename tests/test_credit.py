"""From channels to advantages: the numbers of every credit, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionthink.errors import DataError, OptionError
from visionthink.rewards.benefit import Benefit
from visionthink.rewards.branches import action_values, decision_advantages
from visionthink.rewards.channels import Channels
from visionthink.rewards.credit import CREDITS, Credit, crop_reward
from visionthink.rewards.judge import Verdict
from visionthink.rewards.members import Member, Members, normalised
from visionthink.rewards.penalty import Penalty


def channels(accuracy=1.0, **changes):
    verdict = "unscored" if accuracy is None else "correct" if accuracy else "wrong"
    return Channels(accuracy=accuracy, verdict=Verdict(verdict, "test", ""), **({"format": 0.5} | changes))


def member(accuracy=1.0, turns=(1,), **changes):
    """One that said so many ids in each of its turns."""
    named = {name: changes.pop(name) for name in ("action", "kind", "forced", "decision", "probability") if name in changes}
    ids = np.repeat(np.arange(len(turns)), turns)
    return Member(channels=channels(accuracy, **changes), turns=ids, last=len(turns) - 1, **named)


def group(accuracies, costs):
    return [member(a, cost=c) for a, c in zip(accuracies, costs, strict=True)]


TWO_GROUPS = [
    group([1] * 8, [0] * 4 + [1] * 4),
    group([1, 1, 1, 0, 0, 0, 0, 1], [1] * 4 + [0] * 4),
]
"""All right, half pay; and paying is right 3 of 4 times, not paying 1 of 4 times."""


@pytest.mark.parametrize(
    "credit, first, second",
    [
        ("sum:price=0.1", [0.934, -0.934], [0.882, -1.078, -0.882, 1.078]),
        ("gdpo:price=0.1", [0.143, -0.143], [1.285, -1.570, -1.285, 1.570]),
        ("gdpo:price=1", [0.968, -0.968], [0.0, -1.936, 0.0, 1.936]),
        ("centred:price=0.1", [0.050, -0.050], [0.885, -0.985, -0.885, 0.985]),
    ],
)
def test_what_a_cost_weighs(credit, first, second):
    """Lambda .1, costs 0 and 1: free and payer of the first group; right payer, wrong payer, wrong free, right free."""
    found = [float(a) for a in Credit.parse(credit).advantages(TWO_GROUPS)]
    assert [found[0], found[4]] == pytest.approx(first, abs=6e-4)
    assert [found[8], found[11], found[12], found[15]] == pytest.approx(second, abs=6e-4)


def test_a_penalty_is_a_cost_too():
    """As by its price: .1 that is paid stays .1 where it is centred, and is as loud as an error where it is normalised."""
    payers = [[member(1, penalty=p, cost=1.0) for p in [0.0] * 4 + [0.1] * 4]]
    assert float(Credit.parse("centred").advantages(payers)[4]) == pytest.approx(-0.05)
    assert float(Credit.parse("sum").advantages(payers)[4]) == pytest.approx(-0.934, abs=1e-3)


def test_a_floor_keeps_the_sign():
    costs = group([1, 1, 1, 0], [1.25, 0.25, 0.25, 0.25])
    plain, floored = (np.array(Credit.parse(text).advantages([costs])) for text in ("centred:price=2", "centred:price=2,floor"))
    assert plain[0] == pytest.approx(0.5 - 1.5, abs=1e-3) and floored[0] == 0
    assert (floored[1:3] == plain[1:3]).all() and plain[3] == pytest.approx(-1.5 + 0.5, abs=1e-3) and floored[3] == plain[3]


def test_forced_members_pay_nothing_for_what_they_did_not_choose():
    costs = [*group([1, 1], [0.25, 1.25]), member(1, cost=1.25, forced=True)]
    found = [float(a) for a in Credit.parse("centred:price=0.1").advantages([costs])]
    assert found == pytest.approx([0.05, -0.05, 0.0])


CROPPED = [
    member(1, turns=(20,), crop=0.0),
    member(0, turns=(30,), crop=0.0),
    member(1, turns=(25, 10), crop=1.0, area=0.10, penalty=0.1),
    member(1, turns=(15, 12), crop=1.0, area=0.30, penalty=0.1),
]


def test_dtpo():
    """AdaptVision, Eq. 11-15: direct right, direct wrong, a small and a large crop that are right; lambda .3, theta .2."""
    assert Penalty("released")([0, 0, 1, 1], [True, False, True, True]) == pytest.approx([0, 0, 0.1, 0.1])
    assert [m.channels.total for m in CROPPED] == pytest.approx([1.5, 0.5, 1.4, 1.4])
    members = Members([CROPPED])
    assert crop_reward(members).tolist() == pytest.approx([0, 0, 1, 0])
    outcome = normalised(members.total, members.groups, 1e-6)
    assert outcome.tolist() == pytest.approx([0.6396, -1.4924, 0.4264, 0.4264], abs=1e-4)
    assert normalised(crop_reward(members), members.groups, 1e-6).tolist() == pytest.approx([-0.5, -0.5, 1.5, -0.5], abs=1e-4)
    for first, loss in ((1.0, -0.2334), (0.5, 0.0923)):
        rows = Credit(name="dtpo", first=first).advantages([CROPPED])
        scale = first * 112 / 40, 112 / 72
        assert [float(r[0]) for r in rows[:2]] == pytest.approx([scale[1] * 0.4896, scale[1] * -1.6424], abs=2e-4)
        assert [float(r[0]) for r in rows[2:]] == pytest.approx([scale[0] * 0.8764, scale[0] * 0.2764], abs=2e-4)
        assert [float(r[-1]) for r in rows[2:]] == pytest.approx([scale[1] * 0.4264] * 2, abs=2e-4)
        assert -np.concatenate(rows).mean() == pytest.approx(loss, abs=1e-4)
    grpo = [float(a) for a in Credit(name="sum").advantages([[member(1, penalty=-t) for t in (0.0, -1.0, 0.0, -0.1)]])]
    assert grpo == pytest.approx([0.5663, -1.4929, 0.5663, 0.3604], abs=1e-3)  # the crops' reward added up: 1.5 .5 1.5 1.4


def test_dtpo_in_the_units_of_the_released_code():
    """0.1 crop - 0.2 area differs from crop - 2 area by a factor, which the standard deviation takes out."""
    paper = crop_reward(Members([CROPPED]))
    alike = [normalised(0.1 * paper, [np.arange(4)], 1e-6), normalised(paper, [np.arange(4)], 1e-6)]
    assert alike[0] == pytest.approx(alike[1], abs=1e-4)


def test_two_means_are_one_mean_of_scaled_advantages():
    """Over ratios that clip: .5 x mean over first turns + mean over last turns."""
    rows = np.concatenate(Credit(name="dtpo", first=0.5).advantages([CROPPED]))
    members = Members([CROPPED]).members
    last = np.concatenate([m.turns == m.last for m in members])
    plain = rows / np.where(last, 112 / 72, 0.5 * 112 / 40)
    ratio = np.exp(np.random.default_rng(3).normal(0, 0.3, len(rows)))

    def clipped(advantages):
        return -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.24) * advantages)

    assert clipped(rows).mean() == pytest.approx(0.5 * clipped(plain)[~last].mean() + clipped(plain)[last].mean(), abs=1e-9)
    assert clipped(rows).mean() == pytest.approx(0.1853667, abs=1e-4)


def test_where_the_evidence_is_not_known_a_crop_is_judged_by_its_answer_alone():
    unknown = [member(1, turns=(2, 3), crop=None), member(0, turns=(2,), crop=None)]
    first, last = Credit.parse("dtpo").advantages([unknown])[0][[0, -1]]
    assert first / (7 / 2) == pytest.approx(last / (7 / 5)) == pytest.approx(0.7071, abs=1e-4)


def test_dtpo_counts_tokens_over_all_processes():
    alone = Credit.parse("dtpo").advantages([CROPPED])
    doubled = Credit.parse("dtpo").advantages([CROPPED], summed=lambda counts: counts + np.array([60, 8]))
    assert doubled[2][0] / alone[2][0] == pytest.approx((180 / 100) / (112 / 40))
    assert doubled[2][-1] / alone[2][-1] == pytest.approx((180 / 80) / (112 / 72))


def test_gdpo_is_whitened_over_all_processes():
    both = [float(a) for a in Credit.parse("gdpo").advantages(TWO_GROUPS)]
    other: list[np.ndarray] = []

    def recorded(array):
        other.append(array)
        return array

    Credit.parse("gdpo").advantages(TWO_GROUPS[1:], summed=recorded)
    sums = iter(other[:1])
    # the second process's squares are about the common mean, which is 0 as groups are centred
    found = Credit.parse("gdpo").advantages(TWO_GROUPS[:1], summed=lambda a: a + (next(sums, None) if len(a) == 2 else other[1]))
    assert [float(a) for a in found] == pytest.approx(both[:8], abs=1e-6)


@pytest.mark.parametrize("name", [name for name in CREDITS if name != "branches"])
def test_unscored_is_not_zero(name):
    """A member that could not be judged changes nobody's advantage, and has none."""
    scored = [member(1, turns=(2,), cost=0.25, crop=0.0), member(0, turns=(2, 1), cost=1.25, crop=1.0, area=0.5)]
    credit = Credit.parse(name)
    alone = credit.advantages([scored])
    lost = Member(channels=channels(None, cost=9.0, crop=1.0, area=1.0), turns=np.array([-1, -1, -1]))
    with_it = credit.advantages([[*scored, lost]])
    assert all((a == b).all() for a, b in zip(alone, with_it, strict=False))
    assert not with_it[2].any()


def test_over_limit():
    """1 1 0(over) 0: it counts in the statistics where it is masked (arXiv 2509.07969), and in nothing where it is excluded."""
    rewards, groups = np.array([1.0, 1, 0, 0]), [np.arange(4)]
    assert normalised(rewards, groups, 0).tolist() == pytest.approx([0.866, 0.866, -0.866, -0.866], abs=1e-3)
    masked = [*group([1, 1], [0, 0]), Member(channels=channels(0), turns=np.array([-1])), *group([0], [0])]
    found = [float(a) for a in Credit(name="sum").advantages([masked])]
    assert found == pytest.approx([0.866, 0.866, 0, -0.866], abs=1e-3)
    excluded = [*group([1, 1], [0, 0]), Member(channels=channels(None), turns=np.array([-1])), *group([0], [0])]
    found = [float(a) for a in Credit(name="sum").advantages([excluded])]
    assert found == pytest.approx([0.577, 0.577, 0, -1.155], abs=1e-3)


def test_eq3_is_what_trl_computes():
    rewards = [1.5, 0.5, 1.4, 0.4, 1.5, 1.5, 0.5, 0.0]
    tensor = torch.tensor(rewards)
    expected = (tensor - tensor.mean()) / (tensor.std() + 1e-4)
    found = Credit(name="sum").advantages([[member(r - 0.5) for r in rewards]])
    assert [float(a) for a in found] == pytest.approx(expected.tolist(), abs=1e-5)


# ------------------------------------------------------------------------------------------------ penalties and bonuses


def test_eq_n():
    """Right members by their highest rung: 1, 3, 2."""
    rungs = [0, 1, 1, 1, 2, 2]
    assert Penalty("eqN", theta=0.2)(rungs, [True] * 6) == [0.1, 0, 0, 0, 0.1, 0.1]  # r = .167 .667 1: rung 1
    assert Penalty("eqN", theta=0.1)(rungs, [True] * 6) == [0, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert Penalty("eqN")([0, 1, 2], [False] * 3) == [0, 0, 0]
    for right in range(16):
        correct = [bool(right & 1 << i) for i in range(4)]
        for theta in (0.0, 0.2, 0.5, 1.0):
            two = [p([0, 0, 1, 1], correct) for p in (Penalty("eqN", theta=theta), Penalty("eq5", theta=theta))]
            assert two[0] == two[1]


def test_awares():
    """s - C: C = 2 for a hard question without a crop, .25 + .01 x the area with one (arXiv 2603.16932)."""
    pay = Penalty("awares")
    rows = [
        (False, 0, 0.92, 0.0, 0.92),
        (False, 1, 0.95, 0.25, 0.6975),
        (True, 0, 0.30, 0.0, -1.70),
        (True, 1, 0.95, 0.25, 0.6975),
        (True, 1, 0.95, 1.0, 0.69),
    ]
    for hard, rung, similarity, area, expected in rows:
        [paid] = pay([rung], [True], areas=[area], hard=hard)
        assert similarity - paid == pytest.approx(expected)
    paid = pay([1] * 8, [True] * 8, areas=[0.25] * 4 + [1.0] * 4, hard=True)
    tied = [[member(0.95, format=0.0, penalty=p) for p in paid]]
    found = [float(a) for a in Credit(name="sum").advantages(tied)]
    assert found == pytest.approx([0.9126] * 4 + [-0.9126] * 4, abs=1e-3)
    with pytest.raises(DataError, match=r"penalty awares: its need \(easy or hard\) is not known"):
        pay([0], [True])


def test_benefit_of_adatooler():
    pay = Benefit.parse("adatooler")
    expected = [0.0406, 0.0748, 0.1233, 0.1820, 0.2402, 0.2838, 0.3000]
    assert [pay.calls(n, 0.5) for n in range(7)] == pytest.approx(expected, abs=1e-4)
    assert [pay.calls(n, -0.5) for n in range(7)] == pytest.approx([-e for e in expected], abs=1e-4)


# ------------------------------------------------------------------------------------------------ forced branches


def test_action_values_of_forced_branches():
    """k = 4, look 4/4, direct 1/4, lambda .1, b .4, costs 1.25 and .25, pi(look) .1."""
    values = action_values({"look": [1, 1, 1, 1], "direct": [1, 0, 0, 0]}, {"look": 1.25, "direct": 0.25}, 0.1 / 0.4)
    assert values == pytest.approx({"look": 0.75, "direct": 0.25})
    assert decision_advantages(values, {"look": 0.1, "direct": 0.9}) == pytest.approx({"look": 0.45, "direct": -0.05})
    free = action_values({"look": [1] * 4, "direct": [1, 0, 0, 0]}, {"look": 1.25, "direct": 0.25}, 0.0)
    assert free["look"] - free["direct"] == 0.75  # dS of a benefit
    shrunk = action_values({"look": [1] * 4, "direct": [0] * 4}, {"look": 1.25, "direct": 0.25}, 0.0, shrink=4)
    assert shrunk == pytest.approx({"look": 0.75, "direct": 0.25})  # half of the difference of 1


def test_branch_credit():
    """The same group: the decision gets A(a), other tokens the outcome less that of the branch, forced or free."""

    def looked(accuracy, **more):
        return member(accuracy, turns=(2, 3), action=("whole",), kind="whole", cost=1.25, **more)

    def direct(accuracy, **more):
        return member(accuracy, turns=(3,), cost=0.25, decision=0, **more)

    forced = [*[looked(1, forced=True)] * 4, direct(1, forced=True), *[direct(0, forced=True)] * 3]
    free = [looked(1, probability=0.1), direct(0, probability=0.9), direct(1, probability=0.9)]
    rows = Credit.parse("branches").advantages([[*free, *forced]], price=0.1 / 0.4)
    assert rows[0].tolist() == pytest.approx([0.45, 0.45, 0, 0, 0])  # all who looked are right
    within = 1 / 3  # of direct answers, forced ones included, 2 of 6 are right
    assert rows[1].tolist() == pytest.approx([-0.05, -within, -within])
    assert rows[2].tolist() == pytest.approx([-0.05, 1 - within, 1 - within])
    assert rows[3].tolist() == pytest.approx([0] * 5) and rows[7].tolist() == pytest.approx([1 - within] * 3)
    counted = Credit.parse("branches").advantages(
        [[looked(1), *[direct(0)] * 9, *forced]], price=0.1 / 0.4
    )  # the same frequency, where no id says a probability
    assert [counted[0][0], counted[1][0]] == pytest.approx([0.45, -0.05])


def test_a_policy_that_never_looks_still_learns_what_looking_is_worth():
    def direct(accuracy, **more):
        return member(accuracy, cost=0.25, decision=0, **more)

    looks = [member(1, turns=(1, 1), action=("whole",), kind="whole", cost=1.25, forced=True)] * 2
    group = [direct(0, probability=0.99), direct(0, probability=0.99), direct(0, forced=True), direct(0, forced=True), *looks]
    rows = Credit.parse("branches").advantages([group], price=0.0)
    assert rows[0][0] == pytest.approx(-0.01)  # 1 % looks, which are worth 1 more


def test_an_action_that_was_not_tried_by_force_is_known_by_its_kind():
    crop = {"turns": (1, 1), "kind": "crop", "cost": 0.5}
    group = [
        member(1, action=("left",), **crop),
        member(0, decision=0, cost=0.25),
        member(1, action=("right",), forced=True, **crop),
        member(0, forced=True, cost=0.25),
        member(1, turns=(1, 1), action=("whole",), kind="whole", cost=1.25),
    ]
    rows = Credit.parse("branches").advantages([group], price=0.0)
    assert rows[0][0] == pytest.approx(0.5) and rows[1][0] == pytest.approx(-0.5)
    assert rows[4][0] == 0  # nothing is known of the whole image


def test_the_mean_that_branches_shrink_to_counts_an_action_once():
    """3 crops are right, 1 direct answer is wrong, one more is unscored: Q moves from 1 and 0 towards 1/2, to 7/8 and 1/4. With
    the crop counted again by its kind, the mean would be 2/3."""
    crop = {"turns": (1, 1), "kind": "crop", "cost": 0.25, "probability": 0.5}
    forced = [*[member(1, action=("left",), forced=True, **crop)] * 3, *[member(a, forced=True, cost=0.25) for a in (0, None)]]
    direct = member(0, decision=0, probability=0.5, cost=0.25)
    for region in ("left", "right"):  # one that was tried by force, and one that is known by its kind
        rows = Credit.parse("branches:shrink=1").advantages([[member(1, action=(region,), **crop), direct, *forced]], price=0.0)
        assert (rows[0][0], rows[1][0]) == (pytest.approx(5 / 16), pytest.approx(-5 / 16))


# ------------------------------------------------------------------------------------------------ names and settings


def test_which_groups_have_something_to_compare():
    alike, costly = group([1, 1], [0.25, 0.25]), group([1, 1], [0.25, 1.25])
    assert not Credit.parse("eq3").varies(costly) and not Credit.parse("centred").varies(costly)
    assert Credit.parse("centred:price=0.1").varies(costly) and not Credit.parse("centred:price=0.1").varies(alike)
    assert Credit.parse("centred").varies(costly, price=0.2)
    assert Credit.parse("gdpo").varies([member(1, bonus=0.1), member(1, bonus=0.2)])
    assert Credit.parse("dtpo").varies([member(1, crop=1.0, area=0.1), member(1, crop=1.0, area=0.3)])
    assert not Credit.parse("dtpo").varies([member(1, crop=1.0, area=0.1), member(None, crop=0.0)])


@pytest.mark.parametrize(
    "text, message",
    [
        ("x", "unknown credit 'x'; choose from eq3, sum, gdpo, centred, dtpo, branches, with settings as"),
        ("", "unknown credit ''"),
        ("eq3:price=1", "credit 'eq3:price=1': eq3 has no setting 'price'; settings of eq3: none"),
        ("centred:price=0.1,price=0.2", "credit 'centred:price=0.1,price=0.2': price is named twice"),
        ("centred:0.1", "credit 'centred:0.1': centred has no setting '0.1'; settings of centred: price, floor"),
        ("dtpo:first=half", "credit 'dtpo:first=half': first must be a number, as first=0.1"),
        ("dtpo:first=-1", "credit dtpo: first -1.0: must be a number of at least 0"),
        ("centred:floor=no", "credit 'centred:floor=no': floor must be true or false"),
        ("sum:price=nan", "credit sum: price nan: must be a number"),
    ],
)
def test_a_credit_that_cannot_be_is_refused(text, message):
    with pytest.raises(OptionError) as error:
        Credit.parse(text)
    assert str(error.value).startswith(message)


def test_credits_are_values():
    assert Credit.parse("dtpo:first=0.5,weight=0.2") == Credit(name="dtpo", first=0.5, weight=0.2)
    assert Credit.parse("centred:floor, price=0.1") == Credit(name="centred", floor=True, price=0.1)
    assert Credit.parse("gdpo").price == 0.1
    assert {name: Credit.parse(name).loss for name in CREDITS} == dict.fromkeys(CREDITS, "grpo") | {"dtpo": "dapo"}
    assert {name: Credit.parse(name).penalty for name in CREDITS} == {
        "eq3": "eq5",
        "sum": "eq5",
        "gdpo": "eq5",
        "centred": "eq5",
        "dtpo": "released",
        "branches": "none",
    }
    assert Credit.parse("centred:price=0.1").penalty == "none"
