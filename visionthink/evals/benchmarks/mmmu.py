"""MMMU (arXiv 2311.16502) and MMMU-Pro (arXiv 2409.02813): the share of right answers to multiple-choice and open questions.

accuracy = right answers / n; of MMMU-Pro, the mean over its sets (standard, vision).

A choice is read as "(A)"; else as "A "; else as "A."; else, in an answer of more than five words, as the text of an option. Of
several the last one counts. lmms-eval guesses at random where nothing is found; here that is wrong, and counted as `unparsed`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from visionthink.errors import DataError
from visionthink.evals.benchmarks.counting import Figures, answered, average, ratio, references
from visionthink.evals.benchmarks.mmmu_open import open_answer_is
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript

OPEN, CHOICE = "open", "multiple-choice"


def mmmu(scored: Sequence[Scored]) -> Figures:
    """Over all and by family: subject, or set of MMMU-Pro.

    Raises:
        DataError: an example does not say what type of question it is, or has no options to choose from.
    """
    kept, _ = answered(scored)
    choices = [t for t in kept if _type(t) == CHOICE and t.answer is not None]
    unparsed = sum(read_choice(t.answer or "", _options(t)) is None for t in choices)
    return average(scored, _right) | {"unparsed": unparsed}


def mmmu_pro(scored: Sequence[Scored]) -> Figures:
    """Scores like `mmmu`, but the accuracy is the mean over the sets that are there."""
    figures = mmmu(scored)
    sets = [value for name, value in figures.items() if name.startswith("accuracy/") and value is not None]
    return figures | {"accuracy": ratio(sum(sets), len(sets))}


def _right(answer: str, transcript: Transcript) -> bool:
    if _type(transcript) == OPEN:
        return open_answer_is(answer, references(transcript))
    return read_choice(answer, _options(transcript)) in references(transcript)


def _type(transcript: Transcript) -> str:
    kind = transcript.metadata.get("question_type")
    if kind not in (OPEN, CHOICE):
        raise DataError(f"example {transcript.example_id}: question_type {kind!r} is neither {CHOICE} nor {OPEN}")
    return str(kind)


def _options(transcript: Transcript) -> Sequence[str]:
    options = transcript.metadata.get("options")
    if not isinstance(options, (list, tuple)) or not options:
        raise DataError(f"example {transcript.example_id}: no options to choose from")
    return [str(option) for option in options]


def read_choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option an answer chooses; None where it chooses none."""
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    text = f" {answer} "
    letters = string.ascii_uppercase[: len(options)]
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in letters if form.format(letter) in text]:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    places = {letter: lower.rfind(option.lower()) for letter, option in zip(letters, options, strict=True) if option.strip()}
    last = max(places, key=places.__getitem__, default=None)
    return last if last is not None and places[last] >= 0 else None
