"""Generated questions: the need is a fact about the pixels."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from visionthink.data import drawing, synth
from visionthink.errors import DataError


def test_same_arguments_same_bytes_other_splits_other_images():
    def digest(example):
        return hashlib.sha256(example.image.tobytes() + example.question.encode()).hexdigest()

    one = [digest(e) for e in synth.suite(60, split="test")]
    assert one == [digest(e) for e in synth.suite(60, split="test")]
    for split in ("train", "validation"):
        assert set(one).isdisjoint(digest(e) for e in synth.suite(60, split=split))


def test_no_handwritten_digit_is_in_two_splits():
    pools = [set(drawing.scan_pool(split)) for split in drawing.SPLITS]
    assert [len(p) for p in pools] == [1077, 360, 360]
    assert len(set.union(*pools)) == 1797


def test_items_know_everything_about_themselves():
    for example in synth.suite(60):
        assert example.image.size == (112, 112)
        assert example.family in synth.FAMILIES and example.need in ("easy", "hard")
        assert example.answer and example.question
        left, top, right, bottom = example.metadata["evidence_box"]
        assert 0 <= left < right <= 112 and 0 <= top < bottom <= 112
        assert example.metadata["certified"] == (example.need == "hard")


@pytest.mark.parametrize("family", list(synth.FAMILIES))
def test_shares_follow_the_paper(family):
    needs = [synth.draw(family, i).need for i in range(300)]
    assert needs.count("hard") / 300 == pytest.approx(synth.FAMILIES[family].hard_share, abs=0.07)


def test_shares_are_those_of_the_paper():
    assert {name: f.hard_share for name, f in synth.FAMILIES.items()} == {
        "chart": 0.79,
        "digits": 0.62,
        "grating": 0.30,
        "scene": 0.31,
        "presence": 0.10,
        "print": 0.07,
    }


@pytest.mark.parametrize("family", list(synth.FAMILIES))
def test_certificates(family):
    """The counterfactual twin differs in the full view (noise has sigma 2) and not in the quarter view."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        scene = synth.draw_scene(family, rng, hard=True, split="test")
        low, full = synth.certificate(scene)
        assert low < 2.0 and full > 8.0
        assert scene.certified


def test_nothing_of_the_answer_is_left_in_the_quarter_view():
    """Fine ink: a quarter view with a mark equals one without it to less than a level on average."""
    mark = drawing.Mark(kind="circle", value="circle", x=56, y=56, size=28, fine=True)
    with_mark, without = (drawing.render(m, (160, 160, 160), 0) for m in ([mark], []))
    difference = np.abs(np.asarray(with_mark, float) - np.asarray(without, float))
    assert difference.max() > 70
    lows = [np.asarray(i.resize((56, 56), Image.Resampling.LANCZOS), float) for i in (with_mark, without)]
    assert np.abs(lows[0] - lows[1]).mean() < 0.1


def test_a_scene_that_is_not_certified_is_refused(monkeypatch):
    monkeypatch.setattr(drawing, "_FINE_PERIOD", 16)
    with pytest.raises(DataError, match="grating: not certified"):
        synth.draw_scene("grating", np.random.default_rng(0), hard=True)


def test_answers_are_balanced_so_that_a_blind_guess_is_chance():
    for family, answers in [("grating", 2), ("chart", 2), ("presence", 2), ("digits", 10), ("print", 10)]:
        drawn = [synth.draw(family, i, hard=True).answer for i in range(400)]
        top = max(drawn.count(a) for a in set(drawn)) / 400
        assert len(set(drawn)) == answers and top < 1 / answers + 0.08, family


def test_cells_of_a_suite_come_in_turn_and_never_the_same_item_twice():
    items = synth.suite(28, split="train", cells=(*synth.BALANCED, ("chart", True), ("chart", True)))
    assert [(e.family, e.need) for e in items[:4]] == [
        ("chart", "easy"),
        ("chart", "hard"),
        ("digits", "easy"),
        ("digits", "hard"),
    ]
    assert [(e.family, e.need) for e in items[12:15]] == [("chart", "hard"), ("chart", "hard"), ("chart", "easy")]
    assert len({e.id for e in items}) == 28
    assert synth.suite(12, cells=synth.BALANCED) == [synth.draw(f, int(hard), hard=hard) for f, hard in synth.BALANCED]


def test_unknown_names():
    with pytest.raises(DataError, match="unknown family 'x'; choose from chart"):
        synth.draw("x", 0)
    with pytest.raises(DataError, match="unknown split"):
        synth.draw("chart", 0, split="x")
