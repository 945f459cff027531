"""Generated questions: where to look, and how closely, are facts about the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from visionthink.data import place_families, place_scenes, places
from visionthink.data.drawing import DIRECTIONS, render, rms
from visionthink.errors import DataError
from visionthink.geometry import ten_crops
from visionthink.recipes import SUITES, suite
from visionthink.types import Box

FAMILIES = list(place_families.FAMILIES)
DRAWS = [pytest.param(20), pytest.param(300, marks=pytest.mark.slow)]


def scenes(family, n, *, hard, side=112, split="test"):
    for i in range(n):
        yield places.draw_scene(family, np.random.default_rng((7, i)), hard=hard, split=split, side=side)


@pytest.mark.parametrize("count", DRAWS)
@pytest.mark.parametrize("side", place_scenes.SIDES)
@pytest.mark.parametrize("family", FAMILIES)
def test_twins_differ_only_inside_the_evidence_and_only_where_it_is_shown(family, side, count):
    for scene in scenes(family, count, hard=True, side=side):
        assert scene.certified and scene.hard
        image = np.asarray(scene.image(), int)
        for twin in scene.twins:
            below, at = places.certificate(scene, twin)
            assert below < 2 and at > 8
            assert twin.answer != scene.answer
            difference = np.abs(image - np.asarray(scene.image(twin), int)).max(axis=2)
            left, top, right, bottom = twin.box
            assert difference[top:bottom, left:right].max() > 40
            difference[top:bottom, left:right] = 0
            assert difference.max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_box_of_the_evidence_has_a_twin(family):
    """So no box can be left out; counting shapes needs the whole image, of which one place is swapped at a time."""
    for hard in (True, False):
        for scene in scenes(family, 10, hard=hard):
            if family == "all":
                assert scene.evidence == (((0, 0, 112, 112), 1.0 if hard else 0.25),)
            else:
                assert [(twin.box, twin.level) for twin in scene.twins] == list(scene.evidence)


def test_evidence_of_each_family():
    drawn = {family: places.draw(family, 1, hard=True) for family in FAMILIES}
    assert {family: (len(e.evidence), e.metadata["where"], e.metadata["sequential"]) for family, e in drawn.items()} == {
        "framed": (1, "cue", False),
        "named": (1, "question", False),
        "pair": (2, "cue", False),
        "pointer": (2, "cue", True),
        "all": (1, "everywhere", False),
        "period": (1, "hidden", False),
        "hidden": (1, "hidden", False),
    }
    assert {places.draw("period", i, hard=False).evidence[0][1] for i in range(8)} == {1 / 16, 1 / 4}
    assert all(places.draw(family, 0, hard=False).need == "easy" for family in FAMILIES)


def test_a_quadrant_shows_one_frame_of_a_small_image_and_four_slots_of_a_large_one():
    for side, area in ((112, 1.0), (224, 0.25)):
        crops = list(ten_crops(side, side, 0).values())[:4]
        for i in range(30):
            [(box, level)] = places.draw("framed", i, hard=True, side=side).evidence
            [around] = [crop for crop in crops if box.within(crop) == box]
            assert (box.area / around.area, level) == (area, 1.0)


def test_the_cue_is_visible_at_every_level():
    """Frames of other colours differ at 1/4 and 1/16 of the pixels by tens of levels."""
    scene = next(scenes("framed", 1, hard=True, side=224))
    frames = [mark for mark in scene.marks if mark.kind == "frame"]
    swapped = [
        replace(mark, colour=frames[0].colour if mark is frames[1] else frames[1].colour) if mark in frames[:2] else mark
        for mark in scene.marks
    ]
    other = render(swapped, scene.paper, scene.noise_seed, 224)
    box = scene.evidence[0][0]
    assert all(rms(scene.image(), other, box, scale) > 30 for scale in (1, 2, 4))


def test_same_arguments_same_bytes_other_splits_other_images():
    def digest(example):
        return hashlib.sha256(example.image.tobytes() + example.question.encode()).hexdigest()

    one = [digest(e) for e in places.suite(60)]
    assert one == [digest(e) for e in places.suite(60)]
    for other in (places.suite(60, split="train"), places.suite(60, split="validation"), places.suite(60, seed=1)):
        assert set(one).isdisjoint(map(digest, other))


def test_twins_of_an_item_are_what_its_image_would_be_with_another_answer():
    for family in FAMILIES:
        example = places.draw(family, 4, hard=True)
        found = places.twins(example)
        assert len(found) == len(example.evidence)
        for twin in found:
            assert (twin.question, twin.evidence) == (example.question, example.evidence)
            assert twin.answer != example.answer and twin.image.tobytes() != example.image.tobytes()


def test_the_mix_needs_what_it_says():
    """62 % for a model that knows only the whole image, 36 % where crops can be chosen; both views counted."""
    items = places.suite(100)
    assert sum(e.need == "hard" for e in items) == 37
    crops = {"framed": 0.25, "named": 0.25, "pair": 0.5, "hidden": 1.0, "all": 1.0}
    assert 0.25 + sum(e.need == "hard" for e in items) / 100 == pytest.approx(0.62)
    assert 0.25 + sum(crops[e.family] for e in items if e.need == "hard") / 100 == pytest.approx(0.3625)
    assert len({e.id for e in places.suite(600)}) == 600


def test_suites_by_name():
    assert set(SUITES) >= {"mini", "places", "places-224", "framed", "hidden-224"}
    assert suite("places", 8) == places.suite(8)
    assert [e.need for e in suite("pair-224", 4)] == ["easy", "hard"] * 2
    assert suite("pair-224", 1)[0].image.size == (224, 224)
    assert len(suite("framed")) == 600


def test_pairs_are_the_same_half_of_the_time():
    answers = [scene.answer for scene in scenes("pair", 200, hard=False)]
    assert 0.4 < answers.count("yes") / 200 < 0.6


def test_arrows_point_to_the_frame_that_is_read():
    for scene in scenes("pointer", 40, hard=True, side=224):
        [arrow] = [mark for mark in scene.marks if mark.kind == "arrow"]
        (cue, _), (target, _) = scene.evidence
        across, down = DIRECTIONS[arrow.value]
        assert target == Box(*(at + place_scenes.SLOT * step for at, step in zip(cue, (across, down) * 2, strict=True)))


def test_nothing_of_a_hidden_digit_can_be_learnt_from_the_quarter_view():
    """A classifier that is trained to tell, by the quarter view, where the digit is, or a scene from its twin, stays at chance;
    on the full view it does not."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neural_network import MLPClassifier

    n, train = 1200, 800
    drawn = list(scenes("hidden", n, hard=True, split="train"))
    low, full = [], []
    for i, scene in enumerate(drawn):  # every second one is shown as its twin
        image = scene.image(scene.twins[0] if i % 2 else None).convert("L")
        low.append(np.asarray(image.resize((56, 56), Image.Resampling.LANCZOS), float).ravel())
        full.append(np.abs(np.asarray(image, float)[:, 1:] - np.asarray(image, float)[:, :-1]).ravel())
    places_of = np.array([2 * (s.evidence[0][0].top > 0) + (s.evidence[0][0].left > 0) for s in drawn])
    digit = np.array([int((s.twins[0] if i % 2 else s).answer) < 5 for i, s in enumerate(drawn)])

    def accuracy(classifier, views, labels):
        x = np.array(views) - np.mean(views, axis=1, keepdims=True)
        x /= x[:train].std()
        return classifier.fit(x[:train], labels[:train]).score(x[train:], labels[train:])

    def interval(chance):  # three standard errors
        return pytest.approx(chance, abs=3 * (chance * (1 - chance) / (n - train)) ** 0.5)

    for classifier in (RidgeClassifier(1000), MLPClassifier(64, early_stopping=True, random_state=0)):
        assert accuracy(classifier, low, places_of) == interval(0.25)
        assert accuracy(classifier, low, digit) == interval(0.5)
    assert accuracy(RidgeClassifier(1000), full, places_of) > 0.95


def test_unknown_names():
    with pytest.raises(DataError, match="unknown family 'x'; choose from framed"):
        places.draw("x", 0, hard=True)
    with pytest.raises(DataError, match="unknown split"):
        places.draw("framed", 0, hard=True, split="x")
    with pytest.raises(DataError, match="side 64: choose one of 112, 224 px"):
        places.draw("framed", 0, hard=True, side=64)


def test_a_scene_that_is_not_certified_is_refused(monkeypatch):
    monkeypatch.setattr("visionthink.data.drawing._FINE_AMPLITUDE", 5)
    with pytest.raises(DataError, match="framed: not certified"):
        places.draw("framed", 0, hard=True)
