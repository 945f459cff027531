"""MME (arXiv 2306.13394): two yes-no questions about every image, one of each answer.

score of a category = 100 (acc + acc+), acc = share of right answers, acc+ = share of images with both answers right; in
[0, 200]. perception and cognition are sums over their 10 and 4 categories, and total is the sum of both, in [0, 2800].

As in lmms-eval an answer is read from its first four characters, so that "not sure" is a no.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from visionthink.errors import DataError
from visionthink.evals.benchmarks.counting import Figures, answered
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def mme(scored: Sequence[Scored]) -> Figures:
    """Pairs that do not have both of their answers are left out and counted in `incomplete_pairs`; `categories` says how many of
    the 14 the sums are over.

    Raises:
        DataError: an example has no question_id, or its category is none of MME's.
    """
    kept, unscored = answered(scored)
    counted = set(map(id, kept))
    pairs: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for s in scored:
        right = pairs[_pair(s.transcript)]  # a pair whose answers are all unscored is incomplete, too
        if id(s.transcript) in counted:
            right.append(_right(s.transcript))
    complete = {pair: right for pair, right in pairs.items() if len(right) == 2}
    categories: Figures = {}
    for category in (*PERCEPTION, *COGNITION):
        if members := [right for (of, _), right in complete.items() if of == category]:
            points = sum(50 * sum(right) + 100 * all(right) for right in members)
            categories[category] = points / len(members)
    return {
        "total": _sum(categories, (*PERCEPTION, *COGNITION)),
        "perception": _sum(categories, PERCEPTION),
        "cognition": _sum(categories, COGNITION),
        "n": 2 * len(complete),
        "unscored": unscored,
        "incomplete_pairs": len(pairs) - len(complete),
        "categories": len(categories),
        **{f"score/{category}": points for category, points in categories.items()},
    }


def _sum(points: Figures, names: Sequence[str]) -> float | None:
    there = [value for name in names if (value := points.get(name)) is not None]
    return sum(there) if there else None


def _pair(transcript: Transcript) -> tuple[str, str]:
    category, question_id = transcript.family, transcript.metadata.get("question_id")
    if category not in PERCEPTION + COGNITION:
        raise DataError(f"example {transcript.example_id}: {category} is not a category of MME")
    if question_id is None:
        raise DataError(f"example {transcript.example_id}: no question_id, which tells the pairs of MME")
    return category, str(question_id)


def _right(transcript: Transcript) -> bool:
    return transcript.answer is not None and read_yes_no(transcript.answer) == read_yes_no(transcript.reference or "")


def read_yes_no(answer: str) -> str | None:
    """What an answer begins with: "yes", "no", or None for neither."""
    text = answer.lower().strip().replace(".", "")
    if text in ("y", "n"):
        return {"y": "yes", "n": "no"}[text]
    return next((word for word in ("yes", "no") if word in text[:4]), None)
