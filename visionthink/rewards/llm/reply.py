"""What a judge's reply says. Strict: one that does not keep the format, or contradicts itself, says nothing and is asked again.

The released code takes any "1" in the reply as correct (`legacy_contains_1`), so that "Score: 0 ... by a factor of 100" scores 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from visionthink.protocol import after_thinking

ReplyParser = Callable[[str], "bool | None"]
"""True for correct, False for wrong, None where the reply gives no verdict."""

_LONGEST = 20_000
"""Characters of a reply that is read. Every repetition below is bounded, too: a reply must not cost more than a glance."""

_DIGIT = r"(?P<score>[01])(?:[.,]0{1,3})?(?: ?/ ?1)?(?![\d⁄])"
_NAMED = rf"(?:final |overall )?[\"'*_` ]{{0,6}}score[\"'*_` ]{{0,6}}[:=][\"'*_` ]{{0,6}}{_DIGIT}"
_ALONE = re.compile(rf"[ \t#*_`\"'(\[{{-]{{0,20}}{_NAMED}[\"'*_`\s.)\]}}]{{0,20}}", re.IGNORECASE)
_FIRST = re.compile(
    rf"[ \t#*_`\"'(\[{{-]{{0,20}}{_NAMED}[\"'*_`)\]}}]{{0,6}}(?P<rest>$|[.;,:\n].*| \(.*| [-–—] .*| because .*)",
    re.IGNORECASE | re.DOTALL,
)
_MENTION = re.compile(r"(?P<kind>\w+ )?score[\"'*_` ]{0,6}[:=][\"'*_` ]{0,6}(?P<number>[\d.,/%]{1,8})", re.IGNORECASE)
_OF_THE_WHOLE = ("", "final ", "overall ", "the ", "my ", "a ", "corrected ", "revised ")
_QUOTED = re.compile(r"(?:(?<=\W)|^)(?:\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”|'[^'\n]{0,300}'|`[^`\n]{0,300}`|«[^»\n]{0,300}»)(?!\w)")
_SUPPOSED = re.compile(
    r"\b(?:would|had|if|were|could|cannot|can['’]t|not|n['’]t|deserves?|earn|ignored?|asked|injected)\b|n['’]t\b", re.IGNORECASE
)
_INTRODUCED = re.compile(r"(?:score|verdict|judge?ment|rating|result|evaluation)[*_ ]{0,4}:[*_ ]{0,4}$", re.IGNORECASE)
_TAKEN_BACK = re.compile(r"\b(?:wait|actually|correction|revise|reconsider|second thought|verdict|scratch that)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:wrong|incorrect|inaccurate|mismatch|does not match|doesn['’]t match|not correct|not the same)\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])\s|\n")
_MARK = re.compile(r"\[\[(YES|NO)\]\]", re.IGNORECASE)


def _visible(reply: str) -> str:
    """Without the thinking, which may try out verdicts, and without invisible characters."""
    reply = unicodedata.normalize("NFKC", reply[-_LONGEST:])
    reply = "".join(c for c in reply if unicodedata.category(c) != "Cf")
    return after_thinking(reply).strip()


def parse_score(reply: str) -> bool | None:
    """ "Score: 1" or "Score: 0": alone on the last line, as the last sentence, or before an explanation; or a reply that is only
    the digit. All scores in the reply must agree; what is quoted or only supposed ("Had it said 47, Score: 1") is none."""
    reply = _visible(reply)
    if bare := re.fullmatch(r"[\"'*_` ]{0,6}([01])[\"'*_` ]{0,6}\.?", reply):
        return bare[1] == "1"
    lines = [line for line in reply.splitlines() if line.strip()]
    score = _last_line(lines) or _last_sentence(reply) or _before_explanation(reply)
    return score == "1" if score and _others_agree(reply, score) else None


def _last_line(lines: list[str]) -> str | None:
    if not lines or not (alone := _ALONE.fullmatch(lines[-1])):
        return None
    before = lines[-2].rstrip() if len(lines) > 1 else ""
    return None if before.endswith(":") and not _INTRODUCED.search(before) else alone["score"]


def _last_sentence(reply: str) -> str | None:
    *before, last = _SENTENCE.split(reply)
    said = [sentence for sentence in before if sentence.strip()]
    alone = _ALONE.fullmatch(last) if said and not said[-1].rstrip().endswith(":") else None
    return alone["score"] if alone else None


def _before_explanation(reply: str) -> str | None:
    first = _FIRST.fullmatch(reply)
    if not first:
        return None
    rest = _QUOTED.sub("", first["rest"])
    if _TAKEN_BACK.search(rest) or re.search(r"(?m)^\s*[01]\s*$|->|→", rest) or (first["score"] == "1" and _DENIED.search(rest)):
        return None
    return first["score"]


def _others_agree(reply: str, score: str) -> bool:
    for sentence in _SENTENCE.split(_QUOTED.sub(_unquoted, reply)):
        if sentence.lstrip().startswith(">"):
            continue
        for mention in _MENTION.finditer(sentence):
            if _SUPPOSED.search(sentence[: mention.start()]):
                continue
            number = re.match(r"([01])(?:[.,]0*)?(?:/1)?[.,]?$", mention["number"])
            if not number or number[1] != score or (mention["kind"] or "").lower() not in _OF_THE_WHOLE:
                return False
    return True


def _unquoted(quotation: re.Match[str]) -> str:
    """Nothing, where the quotation holds a score; a quoted word such as "score" stays."""
    return "" if _MENTION.search(quotation[0]) else quotation[0]


def parse_marks(reply: str) -> bool | None:
    """ "[[YES]]" or "[[NO]]", as the last sentence or before an explanation; all marks in the reply must agree."""
    reply = _visible(reply)
    marks = {mark.upper() for mark in _MARK.findall(reply)}
    if len(marks) != 1:
        return None
    *_, last = _SENTENCE.split(reply)
    alone = r"[\"'*_`\s#.-]{0,10}\[\[(?:YES|NO)\]\][\"'*_`\s.]{0,10}"
    first = re.match(alone, reply, re.IGNORECASE)
    if not re.fullmatch(alone, last, re.IGNORECASE) and not (first and not _TAKEN_BACK.search(reply[first.end() :])):
        return None
    return marks.pop() == "YES"


def legacy_contains_1(reply: str) -> bool | None:
    """The released code's reading, kept to reproduce its mistakes; never used to train."""
    return "1" in reply
