"""Open questions of MMMU (arXiv 2311.16502): an answer is right if one of the candidates in it is the reference.

Candidates are the shortest rest of each line behind a word such as "is" or "therefore" (the whole answer where there is none),
and every number in these. A number is compared after rounding to 2 decimals, a text is right if it holds the reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce

_BEFORE_AN_ANSWER = tuple(f"{word} " for word in ("could be", "so", "is", "thus", "therefore", "final", "answer", "result"))

_NUMBERS = (
    r"-?\b\d\d?\d?(?:,\d\d\d)+\b",  # 1,234
    r"-?\d+(?:[.]\d+)?[eE][-+]?\d+",  # 1.2e3
    r"-?(?:\d*[.]\d+|\d+\b)(?![eE][-+]?\d+|[,\d])",  # 12, .5, 1.25
)


def open_answer_is(answer: str, wanted: Sequence[str]) -> bool:
    """Whether the answer holds one of the wanted ones."""
    references = [value for text in wanted for value in _values(text)]
    return any(_same(candidate, reference) for candidate in _candidates(answer) for reference in references)


def _same(candidate: str | float, reference: str | float) -> bool:
    if isinstance(candidate, str):
        return isinstance(reference, str) and reference in candidate
    return candidate == reference


def _candidates(answer: str) -> set[str | float]:
    whole = answer.strip().strip(".").lower()
    *lines, last = whole.split("\n")
    rests = [*(_rest(line, _BEFORE_AN_ANSWER) for line in lines), _rest(last, (*_BEFORE_AN_ANSWER, "="))]
    texts = [rest for rest in rests if rest and rest not in tuple(":,.!?;'")] or [whole]
    numbers = [number for text in texts for pattern in _NUMBERS for number in re.findall(pattern, text)]
    return {value for text in (*texts, *numbers) for value in _values(text)}


def _rest(line: str, words: Sequence[str]) -> str:
    """The shortest of what stands behind the last occurrence of each word; a later one replaces an empty one."""
    rests = [line.rpartition(word)[2].strip() for word in words if word in line]
    return reduce(lambda kept, rest: rest if not kept or len(rest) < len(kept) else kept, rests, "")


def _values(text: str) -> list[str | float]:
    """A number rounded to 2 decimals, or the text in lower case; a single letter has a space beside it: words hold letters."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]
