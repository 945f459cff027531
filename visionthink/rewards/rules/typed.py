"""The one number, date or time in a sentence that otherwise only repeats the question, where the reference is one."""

from __future__ import annotations

import re

from visionthink.rewards.rules.date import read_date, read_time, same_date
from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.number import read_number
from visionthink.rewards.rules.quantity import read_unit, same_quantity
from visionthink.rewards.rules.text import contains, hedged, stems, words

_NUMBER = re.compile(
    r"(?<![\w.,/:-])(?:US\$|[$€£¥₹])?[+-]?(?:\d{1,3}(?:[ ,\u00a0\u202f]\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?(?:/\d+)?|\.\d+)"
    r"(?:\s*(?:x|×)\s*10\^?-?\d+)?(?:\s?(?:million|billion|trillion|thousand|bn|[kKMB])\b)?(?!\d)(?!\.\d)"
)
_UNIT = re.compile(r"\s?(?:%|°\s?[CF]?|percent|per cent|(?:square |cubic )?[^\W\d]+(?:/[^\W\d]+)?[²³]?)")
_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_DATE = re.compile(
    rf"\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}/\d{{1,2}}/\d{{4}}|(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?(?:{_MONTHS})\w*|(?:{_MONTHS})\w*\s+"
    rf"\d{{1,2}}(?:st|nd|rd|th)?\b(?!\d))(?:,?\s+\d{{4}})?"
)
_TIME = re.compile(r"\b\d{1,2}:\d{2}(?:\s*[ap]\.?m\b\.?)?|\b\d{1,2}\s*[ap]\.?m\b\.?", re.IGNORECASE)
LONGEST = 25
"""Words of a sentence that is searched."""


def one_of_its_kind(pair: Pair) -> Finding | None:
    """Applies to sentences that are not hedged and hold exactly one value of the reference's kind."""
    if not 2 <= len(pair.said.split()) <= LONGEST or re.search(r"[\\π√^=]", pair.said):
        return None
    if hedged(_ASKED_FROM.sub(" ", pair.said) if _ASKED_FROM.search(pair.question) else pair.said):
        return None
    if read_date(pair.wanted) or read_time(pair.wanted):
        found = list((_DATE if read_date(pair.wanted) else _TIME).finditer(pair.said))
        if len(found) != 1 or not _plain(pair.said[: found[0].start()] + " " + pair.said[found[0].end() :], pair.question):
            return None
        return same_date(Pair(found[0][0], pair.wanted, pair.question))
    sentence = pair.said.replace("−", "-").replace("–", "-")
    wanted = read_number(pair.wanted)
    if wanted is None or read_unit(wanted.rest) is None:
        return None
    if not re.search(r"\d", sentence):
        sentence = _SPOKEN.sub(lambda m: str(2 + _SMALL.index(m[0].casefold())), sentence)
    numbers = list(_NUMBER.finditer(sentence))
    if len(numbers) > 1:
        numbers = [n for n in numbers if not contains(pair.question, n[0])]  # "14 % in 1998"
    if len(numbers) != 1:
        return None
    if "/" in pair.wanted and not re.search(r"[/.%]", numbers[0][0] + sentence[numbers[0].end() :][:2]):
        return None  # 9/25 may be a month
    said = re.sub(r"(?<=\d)[ \u00a0\u202f](?=\d{3})", ",", numbers[0][0])
    behind = _UNIT.match(sentence, numbers[0].end())
    unit = behind[0] if behind and read_unit(behind[0]) else ""
    end = numbers[0].end() + len(unit)
    if not _plain(sentence[: numbers[0].start()] + " " + sentence[end:], pair.question):
        return None
    finding = same_quantity(Pair(said + unit, pair.wanted, pair.question))
    if finding == "different" and same_quantity(Pair(f"-{said}{unit}".removeprefix("--"), pair.wanted, pair.question)) == "same":
        return "unsure"  # "fell by 5" is -5
    return finding


_ASKED_FROM = re.compile(r"\b(?:from|between)\b", re.IGNORECASE)
"""No hedge where the question has it too: the distance from the village, the difference between two bars."""

LITTLE = frozenset(
    (
        "the a an it is are was were there this that these those has have shows show says read reads displays equals in on of at "
        "for i can see count we you its total value answer about approximately image picture photo chart graph figure diagram "
        "document table sign text label by rose rise fell fall grew off"
    ).split()
)


_NEUTRAL = frozenset(
    stems(
        "contain hold cover supply make made together display rate offer cost weigh measure last take come add give lie stand "
        "visible seen found present located wheel piece according point remain left mark tall long wide high deep heavy".split()
    )
)
"""Stems of words that say that something is so, and not how much of it."""

_SMALL = "two three four five six seven eight nine ten eleven twelve".split()
_SPOKEN = re.compile(rf"\b(?:{'|'.join(_SMALL)})\b", re.IGNORECASE)


def _plain(rest: str, question: str) -> bool:
    """Whether the rest of a sentence only repeats the question."""
    return set(stems(words(rest))) <= set(stems(LITTLE)) | _NEUTRAL | set(stems(words(question)))
