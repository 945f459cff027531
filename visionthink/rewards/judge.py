"""Is a predicted answer the reference answer? By rules, on text alone; no model is asked.

First form: exact and normalised text, aliases, yes/no, numbers. What rules cannot compare is *unscored*, never wrong.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal
from typing import Protocol as TypingProtocol

from visionthink.types import Transcript

VerdictKind = Literal["correct", "wrong", "unscored"]


@dataclass(frozen=True)
class Verdict:
    """`by` names the judge; `reason` says in a few words what decided."""

    verdict: VerdictKind
    by: str
    reason: str


class Judge(TypingProtocol):
    """Scores transcripts. A failure to judge is a verdict (unscored), not an exception."""

    def judge(self, transcript: Transcript) -> Verdict: ...


def normalise(text: str) -> str:
    """Case, accents' encoding, white space, articles and closing punctuation do not change an answer."""
    words = unicodedata.normalize("NFKC", text).casefold().strip(" \t\r\n\"'`.!;,").split()
    return " ".join(w for w in words if w not in ("a", "an", "the")) or " ".join(words)  # "A" may be a choice


_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?|[+-]?\.\d+", re.IGNORECASE)


def _number(text: str) -> Decimal | None:
    text = text.strip().rstrip(".")
    return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


_YES_NO = ("yes", "no")
_FIRST_YES_NO = re.compile(r"(yes|no)(?=$|\s*[,.;:!])")  # "no idea" is neither


def _contains(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


class RulesJudge:
    """Correct if the normalised answer equals the reference or an alias, is the same number, or says the same yes or no.

    An answer is only called wrong where both sides are of a kind that rules can compare: numbers, yes and no, or short
    texts of at most `max_words` words of which neither contains the other. The rest is unscored, and so is an example
    without a reference.
    """

    name = "rules"

    def __init__(self, max_words: int = 5):
        self.max_words = max_words

    def compare(self, prediction: str, references: tuple[str, ...]) -> Verdict:
        """Verdict on one prediction; `references` holds the answer and its aliases."""
        if not any(r.strip() for r in references):
            return Verdict("unscored", self.name, "no reference answer")
        said, wanted = normalise(prediction), [normalise(r) for r in references]
        if not said:
            return Verdict("wrong", self.name, "empty answer")
        if said in wanted:
            return Verdict("correct", self.name, "same text")
        said_number, numbers = _number(said), [_number(w) for w in wanted]
        if said_number is not None and said_number in numbers:
            return Verdict("correct", self.name, "same number")
        if said_number is not None and all(n is not None for n in numbers):
            return Verdict("wrong", self.name, "another number")
        if all(w in _YES_NO for w in wanted) and (first := _FIRST_YES_NO.match(said)):
            return Verdict("correct" if first[1] in wanted else "wrong", self.name, "yes or no")
        if any(_contains(said, w) or _contains(w, said) for w in wanted):
            return Verdict("unscored", self.name, "one text contains the other")
        if len(said.split()) <= self.max_words and all(len(w.split()) <= self.max_words for w in wanted):
            return Verdict("wrong", self.name, "another text")
        return Verdict("unscored", self.name, "too long for rules")

    def judge(self, transcript: Transcript) -> Verdict:
        """Verdict on an episode. One that ended without an answer is wrong, except where the policy failed or refused."""
        if transcript.reference is None:
            return Verdict("unscored", self.name, "no reference answer")
        if transcript.stop_reason in ("policy_error", "refused"):
            return Verdict("unscored", self.name, str(transcript.stop_reason))
        if transcript.answer is None:
            return Verdict("wrong", self.name, f"no answer: {transcript.stop_reason}")
        return self.compare(transcript.answer, (transcript.reference, *transcript.aliases))
