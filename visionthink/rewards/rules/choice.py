"""Multiple choice: a letter, a letter with its text, or the text of an option."""

import re
from collections.abc import Iterable

from visionthink.rewards.rules.text import Finding, Pair, bare, characters, contains, meet, normalise, says
from visionthink.rewards.rules.word_lists import CASED, COMBINED

_LABELS = ("ABCDEFGHIJKLMNOPQRST", "123456789", ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii"))
_LABEL = r"(?:(?<![^\s:;,?!。、])|(?<=[一-鿿]))(?:\(\s*{0}\s*\)[.:]?|{0}\s*[).:、](?!\d))\s*"
_LONGEST = 2000  # characters of a question, from its end, that are searched for options


def options(question: str) -> dict[str, str]:
    """Labels and texts of the options that a question lists, the first label first and without a gap; empty where there are
    fewer than two."""
    question = characters(question[-_LONGEST:])
    for labels in _LABELS:
        for first in [m.start() for m in re.finditer(_LABEL.format(labels[0]), question, re.IGNORECASE)][:-9:-1]:
            marks, at = [], first
            for label in labels:
                if not (match := re.compile(_LABEL.format(label), re.IGNORECASE).search(question, at)):
                    break
                marks.append(match)
                at = match.end()
            ends = [m.start() for m in marks[1:]] + [len(question)]
            if len(marks) > 1 and "?" not in question[first:]:
                texts = (re.split(r"\n\s*\n", question[m.end() : end].strip())[0] for m, end in zip(marks, ends, strict=True))
                return {label: bare(text) for label, text in zip(labels, texts, strict=False)}
    return {}


def _label(text: str, labels: Iterable[str]) -> tuple[str, str] | None:
    """The label that a text begins with, and the text behind it."""
    known = "|".join(sorted(labels, key=len, reverse=True))
    before = r"(?:(?:option|choice|answer|letter)\s+)?"
    marked = rf"{before}(?:\(\s*({known})\s*\)[.:]?|({known})\s*[).:、]|({known})(?=$|[项項番번]$))\s*(.*)"
    if not (match := re.fullmatch(marked, text, re.IGNORECASE | re.DOTALL)):
        return None
    written = (match[1] or match[2] or match[3]).casefold()
    label = next((label for label in labels if label.casefold() == written), None)
    return (label, bare(match[4].strip("项項番번"))) if label else None


def _picks(text: str, listed: dict[str, str]) -> set[str]:
    """All labels that a text may mean, by its label and by its text; `?` where the two do not agree."""
    by_text = {label for label, option in listed.items() if option and normalise(option) == normalise(text)}
    found = _label(text, listed)
    if found is None:
        return by_text
    label, rest = found
    agree = {other for other, option in listed.items() if rest and contains(normalise(option), normalise(rest))}
    exact = {other for other, option in listed.items() if normalise(option) == normalise(rest)}
    return {label} | by_text if not rest or label in exact or agree == {label} else {label, "?"}


def multiple_choice(pair: Pair) -> Finding | None:
    """Compares the options that both sides pick; a label whose text says something else is unsure."""
    said, wanted = (bare(text) for text in pair.texts)
    if not (listed := options(pair.question)):
        a, b = (_label(text, "ABCDEFGHIJ") for text in (said, wanted))
        if a is None or b is None or (a[1] and b[1]):
            return None  # initials: "A. Lind"
        if a[0] == b[0] and said != wanted and says(pair.question, CASED):
            return "unsure"
        return "same" if a[0] == b[0] else "different"
    said_labels, right_labels = _picks(said, listed), _picks(wanted, listed)
    if not right_labels:
        return None
    label = rf"\(?(?:{'|'.join(listed)})\)?"
    if not said_labels and re.fullmatch(rf"{label}(?:\s*(?:[,;&/、]|and|和)\s*{label})+", said):
        both = says(" ".join(listed.values()), COMBINED)  # "Both A and B"
        return "different" if len(right_labels) == 1 and not both else "unsure"  # several where one is right
    if not said_labels:
        return "unsure"
    return "unsure" if "?" in said_labels | right_labels else meet(said_labels, right_labels, str.__eq__)
