"""What a judge's reply says. Strict: a reply that does not keep the format, or contradicts itself, says nothing.

The released code takes any "1" in the reply as correct (`legacy_contains_1`), so that "Score: 0 ... by a factor of 100" scores 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from visionthink.protocol import after_thinking

ReplyParser = Callable[[str], "bool | None"]
"""True for correct, False for wrong, None where the reply gives no verdict."""

_MARKUP = r"[\s\"'`*_]*"
_SCORE = re.compile(
    rf"\bscore{_MARKUP}[:=]{_MARKUP}(?P<score>[01])(?:[.,]0+)?(?:\s*/\s*1)?(?!\d|[.,]\d|\s*/\s*\d)"
    rf"(?!{_MARKUP}(?:or|and|to|for|if|means|indicates|when|-)\b)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"(?:(?<=\W)|^)(?:\"[^\"\n]*\"|“[^”\n]*”|'[^'\n]*'|`[^`\n]*`|«[^»\n]*»)(?!\w)")
_SUPPOSED = re.compile(r"\b(?:would|had|if|were|could|cannot|can['’]t|not|deserves?|earn)\b", re.IGNORECASE)
_ALONE = re.compile(
    rf"(?:[\s#>-]|{_MARKUP})*(?:final\s+)?score{_MARKUP}[:=]{_MARKUP}(?P<score>[01])(?:[.,]0+)?(?:\s*/\s*1)?{_MARKUP}[.}}]?{_MARKUP}",
    re.IGNORECASE,
)
_MARK = re.compile(r"\[\[(YES|NO)\]\]", re.IGNORECASE)


def _visible(reply: str) -> str:
    """Without the thinking, which may try out verdicts; nothing is left where the thinking does not end."""
    reply = unicodedata.normalize("NFKC", reply.translate({0x200B: None, 0x200C: None, 0x200D: None, 0xFEFF: None})).strip()
    return after_thinking(reply)


def parse_score(reply: str) -> bool | None:
    """ "Score: 1" or "Score: 0", or a reply that is only the digit.

    A last line that holds nothing but the score decides, unless another such line contradicts it; otherwise all scores in the
    reply must agree. What is quoted or only supposed ("Had it said 47, Score: 1") is no score.
    """
    reply = _visible(reply)
    if bare := re.fullmatch(rf"{_MARKUP}([01]){_MARKUP}\.?", reply):
        return bare[1] == "1"
    lines = [alone["score"] if (alone := _ALONE.fullmatch(line)) else None for line in reply.splitlines()]
    if lines and lines[-1]:
        return lines[-1] == "1" if len(set(filter(None, lines))) == 1 else None
    scores = {score for sentence in re.split(r"(?<=[.!?])\s+|\n", _QUOTED.sub(_unquoted, reply)) for score in _scores(sentence)}
    return scores.pop() == "1" if len(scores) == 1 else None


def _unquoted(quotation: re.Match[str]) -> str:
    """Nothing, where the quotation holds a score; a quoted word such as "score" stays."""
    return "" if _SCORE.search(quotation[0]) else quotation[0]


def _scores(sentence: str) -> list[str]:
    return [match["score"] for match in _SCORE.finditer(sentence) if not _SUPPOSED.search(sentence[: match.start()])]


def parse_marks(reply: str) -> bool | None:
    """ "[[YES]]" or "[[NO]]"; all marks in the reply must agree."""
    marks = {mark.upper() for mark in _MARK.findall(_visible(reply))}
    return marks.pop() == "YES" if len(marks) == 1 else None


def legacy_contains_1(reply: str) -> bool | None:
    """The released code's reading, kept to reproduce its mistakes; never used to train."""
    return "1" in reply
