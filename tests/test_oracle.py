"""What a perfect decision would ask for, on questions whose place is known."""

from __future__ import annotations

import dataclasses

import pytest

from visionthink.action_space import ActionSpace
from visionthink.data import places
from visionthink.errors import OptionError
from visionthink.evals.oracle import script
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import routing
from visionthink.menu import NAMED
from visionthink.model import Model, load
from visionthink.protocol import Protocol
from visionthink.resolution import PixelBudget
from visionthink.types import Call

BUDGET = PixelBudget(min_pixels=28 * 28, max_pixels=112 * 112)
LARGE = PixelBudget(min_pixels=28 * 28, max_pixels=224 * 224)


def spent(example, knows="evidence", *, menu="ten", turns=2, budget=BUDGET):
    """The oracle's script, and the visual tokens of all views relative to the full view."""
    chosen, dialect = NAMED[menu]
    chosen = dataclasses.replace(chosen, max_turns=turns if chosen.has_regions else None)
    protocol = Protocol(dialect or "compact")
    space = ActionSpace(chosen, [example.image.size], budget)
    said = script(example, space, protocol, knows)
    shown = space.shown(space.opening)
    for turn, text in enumerate(said):
        if text is not None:
            resolved = space.resolve(protocol.parse(text).calls, shown, turns=turn)
            shown = (*shown, *space.shown(resolved.looks))
    return said, sum(view.visual_tokens for view in shown) / space.full_tokens


def test_quadrant_half_and_full_cost_what_they_cost():
    space = ActionSpace(NAMED["ten"][0], [(112, 112)], BUDGET)
    opening = space.tokens(space.opening)
    costs = {offer.name: (opening + offer.visual_tokens) / 16 for offer in space.offers()}
    assert opening / 16 == 0.25
    assert costs == {**dict.fromkeys("01234", 0.5), **dict.fromkeys("5678", 0.75), "all": 1.25}


@pytest.mark.parametrize("knows", ["evidence", "knowable"])
def test_a_perfect_router_of_60_30_and_10_percent(knows):
    items = places.suite(100, cells=(("framed", False),) * 6 + (("framed", True),) * 3 + (("all", True),))
    assert sum(spent(item, knows)[1] for item in items) / 100 == pytest.approx(0.425)
    assert sum(spent(item, knows, menu="visionthink")[1] for item in items) / 100 == pytest.approx(0.65)


def test_the_mix_costs_what_it_says():
    items = places.suite(100)
    assert sum(spent(item, "knowable")[1] for item in items) / 100 == pytest.approx(0.3625, abs=0.005)
    assert sum(spent(item, "knowable", menu="visionthink")[1] for item in items) / 100 == pytest.approx(0.62)


@pytest.mark.parametrize(
    ("family", "evidence", "knowable"),
    [("framed", 0.5, 0.5), ("named", 0.5, 0.5), ("all", 1.25, 1.25), ("hidden", 0.5, 1.25), ("period", 0.5, 1.25)],
)
def test_what_each_family_costs(family, evidence, knowable):
    for i in range(6):
        hard, easy = (places.draw(family, i, hard=h) for h in (True, False))
        assert (spent(hard)[1], spent(hard, "knowable")[1]) == (evidence, knowable)
        assert spent(easy) == spent(easy, "knowable") == ((None,), 0.25)


def test_two_places_cost_two_crops_or_one_half():
    for i in range(12):
        example = places.draw("pair", i, hard=True)
        [said], cost = spent(example)
        assert cost == 0.75
        (one, _), (other, _) = example.evidence
        assert said.count("<look>") == (1 if one.left == other.left or one.top == other.top else 2)


def test_an_arrow_is_followed_in_the_turn_after_it_was_seen():
    example = places.draw("pointer", 3, hard=True)
    protocol = Protocol("compact_ids")
    quadrants = [str(2 * (box.top > 0) + (box.left > 0)) for box, _ in example.evidence]
    expected = tuple(protocol.request(Call(regions=(name,))) for name in quadrants)
    assert spent(example, "knowable", turns=3) == (expected, 0.75)
    assert spent(example, turns=3)[1] == 0.75
    assert spent(example, "knowable", turns=2) == (("<look>all</look>",), 1.25)  # one request is all there is


def test_stripes_take_the_lowest_level_that_shows_them():
    by_level = {e.evidence[0][1]: e for e in (places.draw("period", i, hard=h) for i in range(8) for h in (True, False))}
    for menu in ("levels", "ladder"):
        costs = {level: spent(e, menu=menu, budget=BUDGET)[1] * 16 for level, e in sorted(by_level.items())}
        assert costs == {1 / 16: 1, 1 / 4: 5, 1.0: 17 if menu == "levels" else 21}


def test_large_images():
    """A quadrant of a large image shows four slots; a box around one costs 4 of 64 tokens."""
    framed = places.draw("framed", 0, hard=True, side=224)
    assert spent(framed, budget=LARGE)[1] == 0.5
    assert spent(framed, menu="cells", budget=LARGE)[1] == 0.25 + 4 / 64


def test_names_of_oracles_are_parsed_once():
    plain, evidence, knowable = map(PolicySpec.parse, ("oracle", "oracle:evidence", "oracle:knowable"))
    assert plain == evidence != knowable
    assert (plain.knows, knowable.knows) == ("evidence", "knowable")
    for name in ("oracle:", "oracle:all", "oracle:evidence:1"):
        with pytest.raises(OptionError, match=r"choose one of .* oracle, oracle:knowable"):
            PolicySpec.parse(name)


def test_the_policy_knows_what_its_name_says():
    model = load("tiny", menu="ten", max_new_tokens=8)
    example = places.draw("hidden", 2, hard=True)
    said = {}
    for name in ("oracle", "oracle:knowable"):
        named = Model(model.policy, model.protocol, model.menu, model.budget)
        said[name] = routing(PolicySpec.parse(name), named)(example).policy.script
    assert said["oracle:knowable"] == ("<look>all</look>",) != said["oracle"]
