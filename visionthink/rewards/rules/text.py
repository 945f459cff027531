"""Text as people write it: normal forms, refusals and hedges, yes and no."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from visionthink.rewards.rules.finding import Finding, Pair

ARTICLES = ("a", "an", "the")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")


def normalise(text: str) -> str:
    """Case, accents' encoding, kinds of dashes, white space, articles and closing punctuation do not change an answer."""
    plain = unicodedata.normalize("NFKC", _RAISED.sub(_written_out, text)).translate(_DASHES)
    words = bare(plain.casefold()).split()
    # "A" may be a choice, and a last one a name: Vitamin A
    return " ".join(w for i, w in enumerate(words) if w not in ARTICLES or i == len(words) - 1)


_QUOTED = re.compile(r"([\"'`“‘*]+)(.*?)([\"'`”’*]+)", re.DOTALL)


def bare(text: str) -> str:
    """Without white space, quotes around the whole, and what closes a sentence; signs with a meaning stay: .5, 5!, A*."""
    text = text.strip().rstrip(" .;,")
    if (match := _QUOTED.fullmatch(text)) and not re.search(r"[\"“”*`]", match[2]):
        text = match[2]
    text = re.sub(r"(?<=[^\W\d])!+$", "", text.rstrip(" \t\r\n.;,"))
    return text.rstrip(" \t\r\n.;,").lstrip(" ;,")


_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+|[₀₁₂₃₄₅₆₇₈₉]+")


def _written_out(raised: re.Match[str]) -> str:
    """10³ is not 103."""
    return ("^" if raised[0][0] not in "₀₁₂₃₄₅₆₇₈₉" else "_") + unicodedata.normalize("NFKC", raised[0])


def skeleton(text: str) -> str:
    """Words of a plain name with hyphens, commas and the dots of abbreviations left out, else "". Whatever may carry meaning
    (signs, accents, digits beside each other, addresses) has no skeleton."""
    plain = normalise(text)
    if not re.fullmatch(r"[a-z0-9][a-z0-9 .,-]*", plain) or sum(c.isalpha() for c in plain) < 3:
        return ""
    if re.search(r"\d[ .,-]+\d|(?:^|\s)-|\.(?=[^\s.,])(?!\w\.)|\w{5,}\.\S", plain):
        return ""
    spelled = re.sub(r"is(?=ation|ed\b|ing\b)", "iz", re.sub(r"[.,]", "", plain).replace("-", " "))
    for british, american in (("grey", "gray"), ("colour", "color"), ("centre", "center"), ("metre", "meter")):
        spelled = spelled.replace(british, american)
    return re.sub(r"\b([a-z]) (?=[a-z]\b)", r"\1", " ".join(spelled.split()))  # J. K. is J.K.


NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|without|except|cannot)\b|n['’]t\b")
_HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|either|might|may|could|unsure|likely|but|unless|rather|instead|between|"
    r"besides|apart from|aside from|other than|more than|less than|fewer than|"
    r"greater than|at least|at most|up to|over|under|below|above|nearly|almost|from)\b|\?"
)


def hedged(text: str) -> bool:
    """Whether the text denies something, compares, or offers more than one answer."""
    text = re.sub(r"\bMay\b", "", text).casefold()  # the month
    return bool(NEGATION.search(text) or _HEDGE.search(text))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def stems(found: Iterable[str]) -> list[str]:
    """Words without their common endings; crude, to compare a sentence with its question."""
    return [re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 3 else word for word in found]


YES_NO = {"yes": True, "yeah": True, "yep": True, "no": False, "nope": False, "true": True, "false": False}


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
    return bool(part) and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def same_text(pair: Pair) -> Finding | None:
    """Equal after normalisation, or but for hyphens, commas and the dots of abbreviations."""
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    if not said:
        return "different"
    if said == wanted:
        return _case_matters(pair) or "same"
    plain = skeleton(pair.said)
    return "same" if plain and plain == skeleton(pair.wanted) else None


def _case_matters(pair: Pair) -> Finding | None:
    """mW and MW, CO and Co: texts that differ in case alone and are short, or a number with a unit."""
    said, wanted = (bare(text) for text in (pair.said, pair.wanted))
    if said == wanted:
        return None
    if re.search(r"\d", said):
        return "unsure" if re.search(r"\d\s*[^\W\d]{1,3}\b", said) else None
    formula = re.fullmatch(r"[A-Za-z]{2}", said) and said.casefold() not in YES_NO
    return "unsure" if formula and not said.islower() and not wanted.islower() else None
