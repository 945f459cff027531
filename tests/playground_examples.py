"""The playground's example questions, drawn by the generator that the built-in model was trained on.

`python tests/playground_examples.py` writes them into the package again. They are kept as files because the server does not
depend on the generator. They are of the test split: the model was trained on none of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from visionthink.data import synth
from visionthink.types import Example

FOLDER = Path(__file__).parent.parent / "visionthink" / "serve" / "playground"


class Chosen(NamedTuple):
    """Which question of the generator it is."""

    family: str
    index: int
    hard: bool


CHOSEN = (
    Chosen("chart", 1, hard=False),
    Chosen("chart", 1, hard=True),
    Chosen("print", 3, hard=False),
    Chosen("print", 3, hard=True),
    Chosen("scene", 2, hard=False),
    Chosen("scene", 1, hard=True),
    Chosen("digits", 3, hard=False),
    Chosen("grating", 1, hard=True),
)


def drawn() -> list[Example]:
    """The examples, in the order of the page: one that the low view is enough for, then one that needs a closer look."""
    return [synth.draw(chosen.family, chosen.index, hard=chosen.hard, split="test") for chosen in CHOSEN]


def listed(examples: list[Example]) -> list[dict[str, str]]:
    """What `examples.json` says."""
    needs = {"easy": "low", "hard": "full"}
    return [
        {"image": f"playground/examples/{number}.png", "question": e.question, "answer": e.answer, "needs": needs[e.need or ""]}
        for number, e in enumerate(examples, start=1)
    ]


def write() -> None:
    examples = drawn()
    for number, example in enumerate(examples, start=1):
        example.image.save(FOLDER / "examples" / f"{number}.png", optimize=True)
    (FOLDER / "examples.json").write_text(json.dumps(listed(examples), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write()
