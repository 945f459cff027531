"""MMBench (arXiv 2307.06281): the share of right choices.

accuracy = right answers / n, every row by itself. The benchmark's circular evaluation, where a question counts if it is answered
right in every order of its options, is not done here.

A choice is read without a model, as in lmms-eval's static task: the only letter that stands by itself, as "A", "A.", "(A)" and
so on; else the only option whose text is in the answer; else what `choice_letter` finds.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from visionthink.errors import DataError
from visionthink.evals.benchmarks.choice_letter import choice_letter
from visionthink.evals.benchmarks.counting import Figures, answered, average, references
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript

_AROUND_A_LETTER = (
    *(("", after) for after in ("", ".", ",", ":", ")", ").")),
    *(("(", after) for after in (")", ").")),
    *((":", after) for after in ("", ",", ".", ")", ").")),
)


def mmbench(scored: Sequence[Scored]) -> Figures:
    """Over all and by category. `unparsed` answers choose no option; they are wrong.

    Raises:
        DataError: an example has no options to choose from.
    """
    kept, _ = answered(scored)
    unparsed = sum(t.answer is not None and read_option(t.answer, _options(t)) is None for t in kept)
    return average(scored, _right) | {"unparsed": unparsed}


def _right(answer: str, transcript: Transcript) -> bool:
    return read_option(answer, _options(transcript)) in references(transcript)


def _options(transcript: Transcript) -> Sequence[str]:
    options = transcript.metadata.get("options")
    if not isinstance(options, (list, tuple)) or not options:
        raise DataError(f"example {transcript.example_id}: no options to choose from")
    return [str(option) for option in options]


def read_option(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option an answer chooses; None where it chooses none."""
    letters = string.ascii_uppercase[: len(options)]
    return _by_letter(answer) or _by_text(answer, letters, options) or choice_letter(answer, letters)


def _by_letter(answer: str) -> str | None:
    words = answer.split()
    for before, after in _AROUND_A_LETTER:
        found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
        is_article = found == ["A"] and len(words) > 3 and not before + after
        if len(found) == 1 and not is_article:
            return found[0]
    return None


def _by_text(answer: str, letters: str, options: Sequence[str]) -> str | None:
    found = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None
