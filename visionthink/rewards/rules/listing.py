"""Several answers at once: equal as sets, or in order where the question or the brackets ask for it."""

import re
from collections.abc import Callable

from visionthink.rewards.rules.quantity import read_quantity
from visionthink.rewards.rules.text import CJK, Finding, Pair, hedged, says
from visionthink.rewards.rules.word_lists import IN_ORDER, SETS

_SEPARATORS = (
    re.compile(r"\s*[;\n→]\s*|\s*->\s*"),  # between these, a comma belongs to a part
    re.compile(
        rf"\s*(?:,\s*and\s+|,\s*&\s*|、|,(?!\d{{3}}(?!\d))|\s+and\s+|\s+&\s+|(?<=[{CJK}])[和与與](?=[{CJK}]))\s*", re.IGNORECASE
    ),
)
_BRACKETS = re.compile(r"^([(\[{])([^()\[\]{}]*)([)\]}])$", re.DOTALL)
_TITLE = re.compile(r"[^,;\n]+?\s(?:and|&)\s[^,;\n]+", re.IGNORECASE)
_MOST = 20  # longer lists are not compared


def _elements(text: str, question: str) -> tuple[str, list[str]]:
    """(brackets, parts) of a list; a single part where it is none. Separators of thousands do not part numbers."""
    text = text.strip().rstrip(".")
    match = _BRACKETS.match(text)
    brackets, text = (match[1] + match[3], match[2]) if match else ("", text)
    if re.search(r"[()\[\]{}]", text):
        return brackets, [text]
    if not brackets and re.search(r"\d,\d", text) and ", " not in text and read_quantity(text, question) is not None:
        return brackets, [text]
    separator = next((s for s in _SEPARATORS if s.search(text)), _SEPARATORS[0])
    return brackets, [part.strip(" '\"") for part in separator.split(text) if part.strip(" '\"")]


def same_list(pair: Pair, compare: Callable[[Pair], Finding | None]) -> Finding | None:
    """Applies where the reference has several parts; `compare` is asked about the parts."""
    (around_said, said), (around, wanted) = (_elements(text, pair.question) for text in pair.texts)
    if not 2 <= len(wanted) <= _MOST or around not in ("", "()", "[]", "{}") or re.search(r"[\\=]", pair.wanted):
        return None
    ends = ["..." in text or "dots" in text for text in pair.texts]
    if hedged(pair.said) or len(said) > _MOST or around_said not in ("", around) or any(ends):
        return "unsure"
    found = [[compare(Pair(s, w, pair.question)) for s in said] for w in wanted]
    if len(said) != len(wanted):  # of numbers and small words, a list that lacks some or has more; "London, UK" is no list
        parts = all(len(p.split()) == 1 and p == p.casefold() for p in (*said, *wanted)) and len(said) > 1
        lacks = all("same" in row for row in found) or all("same" in column for column in zip(*found, strict=True))
        return "different" if parts and lacks else "unsure"
    in_place = [row[i] for i, row in enumerate(found)]
    if all(f == "same" for f in in_place):
        return "same"
    if around == "()" or re.search("→|->", pair.wanted):
        return "different" if "different" in in_place else "unsure"
    title = _TITLE.fullmatch(pair.wanted.strip()) and pair.wanted != pair.wanted.casefold()  # War and Peace
    if not title and any(all(f == "different" for f in row) for row in found):
        return "different"
    matched = sorted(row.index("same") for row in found if "same" in row) == list(range(len(wanted)))
    a_set = not pair.question or (says(pair.question, SETS) and not says(pair.question, IN_ORDER))
    return "same" if matched and a_set and not title else "unsure"
