"""Where was looked, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from episodes import record, scored, turn, view

from visionthink.evals.looks import looks, place
from visionthink.evals.metrics import Scored
from visionthink.evals.summary import summarise
from visionthink.rewards.judge import Verdict
from visionthink.types import Box, Shown

DIGIT, OTHER = ((Box(60, 4, 100, 44), 1.0),), ((Box(8, 70, 40, 100), 1.0),)
"""What answers depend on in a drawing of 112 px: in the top right, and in the bottom left quarter."""
LOW = Shown(box=Box(0, 0, 112, 112), level=0.25, width=56, height=56, visual_tokens=4)
OPENING = dataclasses.replace(turn(0.25, 4), views=(LOW,))


def episode(name: str, correct: bool, *boxes: tuple[int, ...], evidence=DIGIT, family: str = "framed") -> Scored:
    """The low view of a drawing of 112 px, then crops of it in one turn."""
    crops = tuple(
        Shown(box=Box(*b), level=1.0, width=b[2] - b[0], height=b[3] - b[1], visual_tokens=(b[2] - b[0]) * (b[3] - b[1]) // 784)
        for b in boxes
    )
    later = dataclasses.replace(turn(1.0, sum(c.visual_tokens for c in crops)), views=crops)
    kept = record(name, OPENING, *([later] if crops else []), evidence=evidence, family=family)
    verdict = Verdict("correct" if correct else "wrong", "test", "")
    return Scored(dataclasses.replace(kept, sizes=((112, 112),)), verdict)


RIGHT, LEFT, TOP = (56, 0, 112, 56), (0, 0, 56, 56), (0, 0, 112, 56)
RUN = [
    episode("a", True, RIGHT),
    episode("b", False, LEFT),
    episode("c", True, TOP),
    episode("d", False, LEFT, RIGHT, evidence=DIGIT + OTHER, family="pair"),
    episode("e", True, evidence=DIGIT),
    episode("f", True, RIGHT, evidence=()),
]


def test_looks():
    found = looks(RUN)
    assert found["looks_per_episode"] == 1.0
    assert found["places"] == {"top right": 3, "top left": 2, "top half": 1}
    assert (found["n"], found["looked"], found["known"]) == (6, 5 / 6, 4)
    assert found["right_looks"] == 3 / 5 and found["covered"] == 2 / 4
    assert (found["accuracy_covered"], found["accuracy_not_covered"]) == (1.0, 0.0)
    assert found["density_area"] == pytest.approx((0.25 + 0.25 + 0.5 + 0.5 + 0 + 0.25) / 6)
    pair = found["by_family"]["pair"]
    assert (pair["n"], pair["right_looks"], pair["covered"], pair["accuracy_covered"]) == (1, 0.5, 0.0, None)


def test_a_summary_has_them_where_parts_were_shown():
    assert summarise(RUN, suite="s", model="m", policy="adaptive")["looks"] == looks(RUN)
    assert looks([scored("a", True, 25, 100)]) is None
    assert record("a", turn(0.25, 4)).evidence == () and view(0.25, 4).box == (0, 0, 1, 1)


def test_evidence_is_kept_with_a_transcript():
    kept = RUN[3].transcript
    assert type(kept).from_dict(kept.to_dict()) == kept and kept.evidence == DIGIT + OTHER
    with pytest.raises(ValueError, match=r"evidence\[0\]\[0\]: a list of 4|evidence"):
        type(kept).from_dict(kept.to_dict() | {"evidence": [[[1, 2, 3], 1.0]]})


def test_names_of_places():
    assert place(Box(0, 0, 112, 112), 112, 112) == "whole image"
    assert place(Box(28, 28, 84, 84), 112, 112) == "centre"
    assert place(Box(50, 0, 150, 100), 150, 100) == "top right"  # sides of at least 100 px
    assert place(Box(500, 40, 580, 60), 800, 600) == "around row 1, column 3 of 4"


def test_ratios_of_each_example_beside_the_ratio_of_sums():
    """AwaRes' Eq. 9: a small image at 1.25 weighs as much as a large one at 0.25."""
    run = [scored("small", True, 4, 16, full=16), scored("large", True, 400, full=1600)]
    s = summarise(run, suite="s", model="m", policy="adaptive")
    assert s["retain_per_example"] == (1.25 + 0.25) / 2
    assert s["retain_cumulative"] == 420 / 1616
