"""Scenes of four shapes, one at each place, with a question about the colour or the kind of one of them. A method that compresses
the image to one token can keep the answer only if it knows the question."""

from __future__ import annotations

import numpy as np

from visionthink.data.drawing import PLACES, SHAPES, SPLITS, Mark, draw_paper, pick, render
from visionthink.data.synth import FAMILIES, draw_shape
from visionthink.errors import DataError
from visionthink.types import Box, Example


def questions_about(marks: tuple[Mark, ...]) -> list[tuple[str, str]]:
    """All questions about a scene with their answers: four about colours and four about kinds, in the order of the places."""
    colours = [(f"What colour is the shape at the {place}?", mark.colour) for place, mark in zip(PLACES, marks, strict=True)]
    return colours + [(f"What shape is at the {place}?", mark.kind) for place, mark in zip(PLACES, marks, strict=True)]


def draw(index: int, *, split: str = "test", seed: int = 0) -> Example:
    """Example `index` of a split; the same arguments give the same bytes.

    Raises:
        DataError: unknown split.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    rng = np.random.default_rng((SPLITS.index(split), seed, len(FAMILIES), index))
    marks = tuple(draw_shape(rng, pick(rng, SHAPES), slot, fine=False) for slot in range(len(PLACES)))
    questions = questions_about(marks)
    which = int(rng.integers(len(questions)))
    question, answer = questions[which]
    return Example(
        id=f"slots-{split}-{seed}-{index}",
        question=question,
        image=render(marks, draw_paper(rng), int(rng.integers(2**31))),
        answer=answer,
        need="easy",
        family="slots",
        evidence=((Box(*marks[which % len(PLACES)].box), 0.25),),
        metadata={"captions": [mark.caption for mark in marks]},
    )


def suite(n: int, *, split: str = "test", seed: int = 0) -> list[Example]:
    """The first `n` examples of a split."""
    return [draw(index, split=split, seed=seed) for index in range(n)]
