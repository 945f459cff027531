"""Multiple choice: a letter, a letter with its text, or the text of an option."""

from __future__ import annotations

import re
from dataclasses import dataclass

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.text import contains, hedged, normalise, skeleton

_OPTION_LINE = re.compile(r"(?m)^\s*\(?([A-Ha-h])[).:]\s*(\S.*?)\s*$")
_OPTION_INLINE = re.compile(
    r"(?:(?<=\s)|^|(?<=[:?,;]))\(?([A-Ha-h])[).:]\s*(.+?)(?=[\s,;]+\(?[A-Ha-h][).:]\s*\S|\s*$)", re.DOTALL
)
_LETTER = re.compile(
    r"(?:(?:option|choice|answer|letter)\s+)?(?:\(\s*([A-Ha-h])\s*\)|([A-Ha-h])\s*[).:]?|([A-H]))", re.IGNORECASE
)
_LETTER_AND_TEXT = re.compile(r"(?:(?:option|choice)\s+)?(?:\(([A-Ha-h])\)|([A-Ha-h])[).:])\s*(\S.*)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(r"\b(?:option|choice|answer)\s+\(?([A-H])\b\)?|\(([A-H])\)")


_LONGEST = 4000
"""Characters of a question, from its end, that are searched for options."""


@dataclass(frozen=True)
class _Pick:
    letter: str | None
    text: str | None


def options(question: str) -> dict[str, str]:
    """Letters and texts of the options a question lists, A first and without a gap; empty where there are fewer than two."""
    question = question[-_LONGEST:]
    for pattern in (_OPTION_LINE, _OPTION_INLINE):
        found = [(letter.upper(), text.strip(" .,;")) for letter, text in pattern.findall(question)]
        if len(found) >= 2 and [letter for letter, _ in found] == [chr(ord("A") + i) for i in range(len(found))]:
            return dict(found)
    return {}


def _alike(a: str, b: str) -> bool:
    return normalise(a) == normalise(b) or (bool(skeleton(a)) and skeleton(a) == skeleton(b))


def _pick(text: str, listed: dict[str, str]) -> _Pick:
    text = text.strip().rstrip(".").strip()
    if match := _LETTER.fullmatch(text):
        letter = (match[1] or match[2] or match[3]).upper()
        return _Pick(letter, listed.get(letter))
    if match := _LETTER_AND_TEXT.fullmatch(text):
        return _Pick((match[1] or match[2]).upper(), match[3].strip())
    letters = [letter for letter, option in listed.items() if _alike(option, text)]
    if len(letters) == 1:
        return _Pick(letters[0], text)
    return _Pick(_only_one_mentioned(text, listed), None) if listed else _Pick(None, text)


def _only_one_mentioned(text: str, listed: dict[str, str]) -> str | None:
    """The one option that a sentence names, by its letter or its text; None where it names none or several, or is hedged."""
    if hedged(text):
        return None
    lower = normalise(text)
    if len(lower.split()) > 14 or re.search(r"\b(?:rule|exclud\w*|eliminat\w*|other than|similar|like|looks)\b", lower):
        return None
    named = {a or b for a, b in _NAMED.findall(text)}
    mentioned = {letter for letter, option in listed.items() if contains(lower, normalise(option))}
    if len(named | mentioned) != 1:
        return None
    if named:
        return named.pop()
    # its text alone counts as what the sentence is about: at its beginning, or behind its verb
    option = re.escape(normalise(listed[next(iter(mentioned))]))
    verb = r"(?:is|are|was|were|has|had|shows?|means?|=)"
    about = re.match(rf"{option}(?!\w).*\b{verb}\b", lower) or re.search(rf"\b{verb} (?:\w+ )?{option}(?!\w)", lower)
    return mentioned.pop() if about else None


def multiple_choice(pair: Pair) -> Finding | None:
    """Compares letters where both sides have one; a letter whose text says something else is unsure."""
    listed = options(pair.question)
    wanted, said = _pick(pair.wanted, listed), _pick(pair.said, listed)
    if wanted.letter is None or (wanted.text is None and listed and wanted.letter not in listed):
        return None
    if listed and wanted.letter not in listed:
        return None  # a letter that is no option is not meant as one
    if not listed and wanted.text is not None and said.text is not None:
        return None  # initials: "A. Lind"
    if len(letters := re.findall(r"[A-H]", pair.said)) > 1 and re.fullmatch(
        r"[(]?[A-H][)]?(?:(?:\s*[,;&]\s*|\s+and\s+)[(]?[A-H][)]?)+\.?", pair.said
    ):
        return "different" if len(set(letters)) > 1 else "unsure"  # several options where one is right
    if said.letter is None:
        if wanted.text and said.text and _alike(said.text, wanted.text):
            return "same"
        return "unsure" if listed else None
    if said.letter != wanted.letter:
        if said.text and wanted.text and _alike(said.text, wanted.text):
            return "unsure"  # the other letter with the right text
        agrees = said.text is None or not listed or _alike(said.text, listed.get(said.letter, ""))
        return "different" if agrees else "unsure"
    if said.text and wanted.text and not _alike(said.text, wanted.text):
        return "unsure"
    return "same"
