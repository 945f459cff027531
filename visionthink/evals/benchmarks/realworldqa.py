"""RealWorldQA (x.ai, 2024): exact match.

exact match = right answers / n. Where a letter from A to D is wanted, the answer's letter is compared; else the whole answer,
in lower case and without a final period.
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.benchmarks.choice_letter import choice_letter
from visionthink.evals.benchmarks.counting import Figures, answered, average, references
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript

LETTERS = "ABCD"


def realworldqa(scored: Sequence[Scored]) -> Figures:
    """`unparsed` are answers without a letter where one is wanted; they are wrong."""
    kept, _ = answered(scored)
    unparsed = sum(_is_letter(t.reference or "") and t.answer is not None and not choice_letter(t.answer, LETTERS) for t in kept)
    return average(scored, _right, "exact_match") | {"unparsed": unparsed}


def _right(answer: str, transcript: Transcript) -> bool:
    return any(matches(answer, reference) for reference in references(transcript))


def matches(answer: str, reference: str) -> bool:
    """Whether the answer is the reference."""
    if _is_letter(reference):
        return choice_letter(answer, LETTERS) == reference.strip().upper()
    return answer.lower().strip().rstrip(".") == reference.strip().lower()


def _is_letter(reference: str) -> bool:
    return reference.strip().upper() in tuple(LETTERS)
