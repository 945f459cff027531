"""Numbers as people write them, read exactly: `1,234.5`, `3/4`, `1 1/2`, `1.2e3`, `3 x 10^5`, `5.2 million`, `twenty-one`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_WORDS = {word: i for i, word in enumerate(_SMALL.split())}
_TENS = {w: 10 * i for i, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "mn": 10**6, "bn": 10**9}
_LETTERS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
"""Only right behind the digits; with a currency sign `m` and `b` as well."""

_APPROXIMATELY = re.compile(r"^(?:about|approximately|approx\.?|around|roughly|circa|ca\.|~|≈)\s*", re.IGNORECASE)
_CURRENCY = {"$": "dollar", "US$": "dollar", "€": "euro", "£": "sterling", "¥": "yen", "₹": "rupee"}
_NUMBER = re.compile(
    r"""(?P<sign>[+-]?)\s*(?P<currency>US\$|[$€£¥₹])?\s*
    (?:(?P<mixed>\d+)\s+(?P<top>\d+)/(?P<bottom>\d+)(?![\d/])
      |(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d/])
      |(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
       (?:\s*(?:x|\*|·|×|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*[{(]?(?P<power>[+-]?\d+)[)}]?|[eE](?P<exponent>[+-]?\d+))?
       (?P<letter>[kKMBmb](?![\w/²³^]))?)
    """,
    re.VERBOSE,
)
_VULGAR = re.compile(r"(?<=\d)[¼-¾⅐-⅞]")
MOST_DIGITS = 400
"""Longer numbers and powers are not read: what one costs must be bounded."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """An exact value. `resolution` is the place of its last digit (10^-d times its scale); None for fractions and words, which
    are exact. `rest` is the text behind the number: a unit, a noun, nothing."""

    value: Fraction
    resolution: Fraction | None
    rest: str
    approximate: bool = False


def read_number(text: str) -> Number | None:
    """The number a text begins with, or None."""
    if re.search("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀-₉]", text) and not re.search(r"[^\W\d][²³]", text):
        return None  # 10³ is not 103
    text = _VULGAR.sub(r" \g<0>", text)  # 1½ is one and a half, not eleven halves
    text = unicodedata.normalize("NFKC", text).strip().replace("−", "-").replace("⁄", "/").replace("–", "-")
    text = _plain_latex(text.removesuffix(".") if not text.endswith("..") else text)
    shorter = _APPROXIMATELY.sub("", text)
    approximate, text = shorter != text, shorter
    if len(text) > MOST_DIGITS:
        return None
    if match := _NUMBER.match(text):
        return _from_digits(match, text[match.end() :], approximate)
    return _from_words(text, approximate)


def _plain_latex(text: str) -> str:
    r"""`$1,200$`, `12\%`, `2\frac{1}{3}`, `10\text{ cm}` as they would be typed."""
    for opening, closing in (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            text = text[len(opening) : -len(closing)].strip()
    if "\\" in text:
        text = re.sub(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}", r" \1/\2", text)
        text = re.sub(r"\\(?:text|mathrm|textbf)\s*\{([^{}]*)\}", r" \1", text)
        text = re.sub(r"\\[,;:! ]|\{,\}", lambda m: "," if m[0] == "{,}" else " ", text).replace("\\%", "%").replace("\\$", "$")
        text = re.sub(r"\^\{?\\circ\}?", "°", text)
    return re.sub(r"^(?:usd|us\$)\s*(?=\d)", "$", " ".join(text.split()), flags=re.IGNORECASE)


def _from_digits(match: re.Match[str], rest: str, approximate: bool) -> Number | None:
    if rest[:1].isdigit() or re.match(r"[.,/:]\d|-\d", rest):
        return None  # part of something longer: 1.2.3, 3,5, 10:30, 5-6
    parts = match.groupdict()
    resolution: Fraction | None = None
    if parts["digits"] is not None:
        digits = parts["digits"].replace(",", "")
        if re.match(r"0\d", digits):
            return None  # a code
        power = int(parts["power"] or parts["exponent"] or 0)
        if abs(power) > MOST_DIGITS:
            return None
        resolution = Fraction(10) ** (power - len(digits.partition(".")[2]))
        value = Fraction(digits) * Fraction(10) ** power
    else:
        over, under = (parts["top"], parts["bottom"]) if parts["mixed"] else (parts["over"], parts["under"])
        if int(under) == 0:
            return None
        value = int(parts["mixed"] or 0) + Fraction(int(over), int(under))
    scale, rest = _scale(parts["letter"], rest.strip(), bool(parts["currency"]))
    if scale is None:
        return None
    value *= scale * (-1 if parts["sign"] == "-" else 1)
    if parts["currency"]:
        if rest:
            return None
        rest = _CURRENCY[parts["currency"]]
    return Number(value=value, resolution=None if resolution is None else resolution * scale, rest=rest, approximate=approximate)


def _scale(letter: str | None, rest: str, money: bool) -> tuple[int | None, str]:
    if letter:
        table = {**_LETTERS, "m": 10**6, "b": 10**9} if money else _LETTERS
        if letter in table:
            return table[letter], rest
        return (1, f"{letter} {rest}".strip()) if letter == "m" else (None, rest)  # metres; "5b" says nothing
    word, _, behind = rest.partition(" ")
    if word.casefold() in _SCALES:
        return _SCALES[word.casefold()], behind.strip()
    return 1, rest


_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_PART = re.compile(
    r"(?:(?P<whole>\d+|[a-z-]+) and )?(?P<count>an?|\d+|[a-z]+)?[ -]?"
    rf"\b(?P<part>{'|'.join(_PARTS)})s?(?: of an?)?(?: (?P<rest>.*))?",
    re.IGNORECASE,
)


def _from_parts(text: str, approximate: bool) -> Number | None:
    """ "one half", "three quarters", "one and a half"."""
    match = _PART.fullmatch(text.casefold())
    if not match:
        return None
    whole = _whole(match["whole"]) if match["whole"] else 0
    count = 1 if match["count"] in (None, "a", "an") else _whole(match["count"])
    if whole is None or count is None or (match["count"] is None and match["part"] not in ("half", "quarter")):
        return None
    return Number(
        value=whole + Fraction(count, _PARTS[match["part"]]), resolution=None, rest=match["rest"] or "", approximate=approximate
    )


def _whole(word: str) -> int | None:
    return int(word) if word.isdecimal() else _WORDS.get(word, _TENS.get(word))


def _from_words(text: str, approximate: bool) -> Number | None:
    if parts := _from_parts(text, approximate):
        return parts
    if text.casefold().startswith(("minus ", "negative ")):
        positive = read_number(text.partition(" ")[2])
        return positive and Number(
            value=-positive.value, resolution=positive.resolution, rest=positive.rest, approximate=approximate
        )
    words = [w for w in re.split(r"[\s-]+", text.casefold()) if w != "and"] if text else []
    total, group, used, last = 0, 0, 0, ""
    for word in words:
        kind = "unit" if word in _WORDS else "ten" if word in _TENS else "scale" if word in _SCALES else ""
        if not kind or (kind == "scale" and not group):
            break
        after_ten = last == "ten" and kind == "unit" and 0 < _WORDS[word] < 10
        if kind != "scale" and last in ("unit", "ten") and not after_ten:
            return None  # "nineteen ninety" is a year, "one two" are two numbers
        if kind == "scale" and word == "hundred":
            group *= 100
        elif kind == "scale":
            total, group = total + group * _SCALES[word], 0
        else:
            group += _WORDS.get(word, _TENS.get(word, 0))
        used, last = used + 1, kind
    if not used:
        return None
    rest = re.sub(rf"^(?:[a-z]+[\s-]+(?:and\s+)?){{{used}}}", "", text.casefold() + " ").strip()
    return Number(value=Fraction(total + group), resolution=None, rest=rest, approximate=approximate)


def rounds_to(a: Number, b: Number) -> bool:
    """Whether one value is the other, rounded to its last digit."""
    coarser = max((n.resolution for n in (a, b) if n.resolution is not None), default=Fraction(0))
    return abs(a.value - b.value) <= coarser / 2
