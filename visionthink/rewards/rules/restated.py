"""The reference inside a sentence that otherwise repeats the question: "The letter is addressed to Dr. Carter."."""

from __future__ import annotations

import re

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.listing import elements, in_order, is_title
from visionthink.rewards.rules.number import read_number
from visionthink.rewards.rules.text import contains, hedged, normalise, stems, words
from visionthink.rewards.rules.typed import LITTLE
from visionthink.rewards.rules.vocabulary import one_of_its_group

LONGEST = 30
"""Words of a sentence that is searched."""

_NO_TEXT = frozenset("yes no true false none nothing nobody zero all both unknown".split())
_LINKS = LITTLE | frozenset(
    (
        "shown displayed depicted written labelled labeled called named titled listed located marked indicated represented "
        "they re he she his her their contains include includes consists holds and to by with here"
    ).split()
)


def restated(pair: Pair) -> Finding | None:
    """Same where a sentence is the reference, or all parts of a list, and besides only words of the question in the question's
    order: "The cat is left of the dog" does not answer "What is left of the cat?" with the dog. Different where it holds another
    word of the reference's closed group instead: "The shop is closed on Sunday"."""
    said = normalise(re.sub(r"[\"“”`*()]", "", pair.said))
    if not 2 <= len(said.split()) <= LONGEST or hedged(pair.said) or not pair.question:
        return None
    parts = [normalise(part) for part in elements(pair.wanted)]
    if len(parts) == 1 and not contains(said, parts[0]) and (other := one_of_its_group(said, parts[0])):
        finding = restated(Pair(pair.said, other, pair.question))
        return "different" if finding == "same" else None
    asked = stems(words(pair.question))
    if any(_is_no_text(part, asked) for part in parts) or len(set(parts)) < len(parts):
        return None
    places = []
    for part in parts:
        found = list(re.finditer(rf"(?<![\w.-]){re.escape(part)}s?(?![\w-])", said))
        if len(found) != 1:
            return None
        places.append(found[0].span())
    if len(parts) > 1 and places != sorted(places) and _in_order(pair):
        return None
    for start, end in sorted(places, reverse=True):
        said = f"{said[:start]} {said[end:]}"
    left = stems(w for w in words(said) if w not in _LINKS)
    rest = iter(asked)
    return "same" if all(word in rest for word in left) else None


def _in_order(pair: Pair) -> bool:
    return in_order(pair.wanted, pair.question) or is_title(pair.wanted, pair.question)


def _is_no_text(part: str, asked: list[str]) -> bool:
    """Whether finding it in a sentence says nothing: the question holds it, or it is a number, a letter, a yes or a none."""
    spoken = words(part)
    return (
        sum(c.isalpha() for c in part) < 2
        or part in _NO_TEXT
        or set(stems(spoken)) <= set(asked)
        or (read_number(part) is not None)
        or hedged(part)
    )
