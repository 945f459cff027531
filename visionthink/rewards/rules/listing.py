"""Several answers at once: equal as sets, or in order where the question or the brackets ask for it."""

from __future__ import annotations

import re
from collections.abc import Callable

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.number import read_number
from visionthink.rewards.rules.text import hedged

_SEPARATOR = re.compile(
    r"\s*(?:,\s*and\s+|,\s*&\s*|[,;\n→]|->|(?<=[a-z]{3})\s>\s(?=[a-z]{3})|\s+and\s+|\s+&\s+)\s*", re.IGNORECASE
)
_BULLET = re.compile(r"(?m)^\s*(?:\d+[.)]|[-*•])\s+")
_NUMBERED = re.compile(r"(?:^|\s)\d{1,2}[.)]\s+")
_OPEN_END = re.compile(r"[,\s]*(?:\.\.\.|…|\\l?dots)\s*$")
_BRACKETS = re.compile(r"^[(\[{](.*)[)\]}]$", re.DOTALL)
_IN_ORDER = re.compile(
    r"\b(?:order|sequence|respectively|from (?:the )?\w+|ascending|descending|then|coordinates?|point|rank|sort|"
    r"top to bottom|first|last|shortest|smallest|starting|beginning)\b|\band\b",
    re.IGNORECASE,
)
MOST = 20
"""Longer lists are not compared."""


def elements(text: str) -> list[str]:
    """Parts of a list; a single one where it is none. Separators of thousands do not part numbers."""
    text = _NUMBERED.sub("\n", text) if re.match(r"\s*1[.)]\s", text) and re.search(r"\s2[.)]\s", text) else text
    text = re.sub(r"[ \t]+", " ", re.sub(r"^[^\n]*:\s*\n", "", text.strip()))  # "The legend shows:"
    text = _OPEN_END.sub("", _BULLET.sub("", re.sub(r"^\$|\$$|\\[,;]", "", text.strip()))).rstrip(".")
    if bracketed := _BRACKETS.match(text):
        text = bracketed[1]
    number = read_number(text)
    if number is not None and not number.rest:
        return [text]
    return [part.strip(" '\"") for part in _SEPARATOR.split(text) if part.strip(" '\"")]


def same_list(pair: Pair, compare: Callable[[Pair], Finding | None]) -> Finding | None:
    """Applies where the reference has several parts; `compare` is asked about the parts."""
    pair = Pair(_solutions(pair.said), _solutions(pair.wanted), pair.question)
    wanted = elements(pair.wanted)
    if not 2 <= len(wanted) <= MOST or _brackets(pair.wanted) not in _PLAIN_BRACKETS:
        return None
    if all(re.fullmatch("[A-H]", w) for w in wanted) and (letters := _letters(pair.said)):
        return "same" if letters == set(wanted) else "different"
    said = elements(pair.said)
    if hedged(pair.said) or not said or len(said) > MOST or _brackets(pair.said) not in ("", _brackets(pair.wanted)):
        return "unsure"
    if "=" in pair.said + pair.wanted:
        return None
    ordered = in_order(pair.wanted, pair.question)
    found = [[compare(Pair(s, w, pair.question)) for s in said] for w in wanted]
    if len(said) != len(wanted):
        return _too_few(said, wanted, pair.question) or _other_length(said, found, pair.question)
    if all(found[i][i] == "same" for i in range(len(wanted))):
        return "same"
    if ordered:
        wrong = any(found[i][i] == "different" for i in range(len(wanted))) or _pairs_up(found)
        return "different" if wrong else "unsure"
    if _pairs_up(found):
        return "unsure" if is_title(pair.wanted, pair.question) or _IN_ORDER.search(pair.question) else "same"  # War and Peace
    missing = any(all(f == "different" for f in row) for row in found)
    return "different" if missing else "unsure"


_SOLUTION = r"\$?(?:([a-z])\s*=\s*)?([^=,\s]+)\$?"


def _solutions(text: str) -> str:
    """ "x = 2 or x = -3" as "2, -3"."""
    parts = re.split(r"\s*(?:,\s*(?:or|and)\b|,|\bor\b|\band\b)\s*", text.strip().rstrip("."))
    found = [re.fullmatch(_SOLUTION, part) for part in parts]
    if len(parts) < 2 or not found[0] or not found[0][1] or any(m is None or m[1] not in (None, found[0][1]) for m in found):
        return text
    return ", ".join(m[2] for m in found if m)


_COUNTS = {"two": 2, "both": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def _too_few(said: list[str], wanted: list[str], question: str) -> Finding | None:
    """One name where the question asks for two, as many as the reference has."""
    asked = [n for word, n in _COUNTS.items() if re.search(rf"\b{word}\b", question, re.IGNORECASE)]
    short = all(len(part.split()) <= 3 for part in said)
    return "different" if asked == [len(wanted)] and len(said) < len(wanted) and short else None


def is_title(wanted: str, question: str) -> bool:
    """War and Peace, Black & Decker: two names that are one, where the question does not ask for several."""
    joined = re.fullmatch(r"[^,;\n]+?\s(?:and|&)\s[^,;\n]+", wanted.strip(), re.IGNORECASE)
    return bool(joined) and wanted != wanted.casefold() and not _SEVERAL.search(question)


def in_order(wanted: str, question: str) -> bool:
    """Whether the order of a list matters by its brackets, its arrows or what is asked for."""
    return bool(
        re.match(r"^\(", wanted.strip())
        or re.search(r"→|->|>", wanted)
        or re.search(
            r"\border(?! to)\b|\b(?:rank|sort)\b|\bfrom (?:the )?(?:left|right|top|bottom|largest|smallest)\b",
            question,
            re.IGNORECASE,
        )
    )


_SEVERAL = re.compile(
    r"\b(?:two|three|four|five|six|both|list|all|(?:what|which|who|whose) are|"
    r"(?:what|which)(?: (?!does\b|was\b|is\b|has\b)\w+)? \w+s(?<!is)(?<!was)(?<!does)(?<!has)|name (?:the|all))\b",
    re.IGNORECASE,
)
"""Asks for several things."""

_MORE_THAN_A_NAME = re.compile(
    r"\b(?:ahead|behind|than|then|followed|by|with|in|at|on|for|of|before|after|among|which|who|that|as|both|are|is|was|were)\b",
    re.IGNORECASE,
)


def _other_length(said: list[str], found: list[list[Finding | None]], question: str) -> Finding:
    """A plain list that holds only some of the parts, or all of them and more, is another one."""
    plain = all(len(part.split()) <= 3 and not _MORE_THAN_A_NAME.search(part) for part in said)
    of_said = [["same" if row[i] == "same" else None for row in found] for i in range(len(said))]
    some = all("same" in column for column in of_said)
    more = all("same" in row for row in found)
    decided = all("same" in row or all(f == "different" for f in row) for row in found)
    plain_words = all(part.isalpha() and part.islower() for part in said)
    several = bool(_SEVERAL.search(question) or plain_words) and len(said) > 1 and len(found) > 1  # "London, UK" is no list
    return "different" if plain and several and (some or more or decided) else "unsure"


_PLAIN_BRACKETS = ("", "()", "{}", "[]")


def _brackets(text: str) -> str:
    """The pair of brackets around a text; `[)` is an interval and no list."""
    text = text.strip().rstrip(".").strip("$ ")
    return text[:1] + text[-1:] if text[:1] in tuple("([{") and text[-1:] in tuple(")]}") else ""


def _letters(text: str) -> set[str]:
    """Letters of choices, where there is nothing else: "AC", "A and C", "A, C"."""
    bare = re.sub(r"[\s,;&.()]|\band\b", "", text)
    return set(bare) if re.fullmatch("[A-H]{1,8}", bare) else set()


def _pairs_up(found: list[list[Finding | None]]) -> bool:
    """Whether every wanted part has a said part of its own."""
    free = set(range(len(found)))
    for row in found:
        match = next((i for i in sorted(free) if row[i] == "same"), None)
        if match is None:
            return False
        free.remove(match)
    return True
