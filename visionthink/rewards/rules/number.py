"""Numbers as people write them, read exactly and in every way they can be read: `1.234` is 1.234 in English and 1234 in German.

Digits are read by Babel's locales and English words by text2num; number words and numerals of other languages are not read.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from visionthink.rewards.rules.text import CJK, says
from visionthink.rewards.rules.word_lists import APPROXIMATELY, ENGLISH, NO_NOUNS, SCALES

_MOST_DIGITS = 400  # longer numbers and powers are not read: what one costs must be bounded

_LOCALES = {"en": ",", "en_IN": ",", "de": ".", "fr": "\u202f", "de_CH": "’"}  # and what separates thousands there

_NUMERAL = re.compile(
    r"""10\s*\^\s*[{(]?\s*(?P<only>[+-]?\d+)\s*[)}]?
      |(?:(?P<mixed>\d+)\s*)?\\frac\s*\{\s*(?P<above>\d+)\s*\}\s*\{\s*(?P<below>\d+)\s*\}
      |(?!(?:1[89]|20)\d\d/\d\d(?!\d))(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d/.])
      |(?P<digits>\d+(?:[.,']\d+|[ ]\d{3}(?!\d))*|\.\d+)
       (?:\s*(?:[x*·×]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*[{(]?\s*(?P<power>[+-]?\d+)\s*[)}]?|[eE](?P<exponent>[+-]?\d+)(?![\d.]))?
    """,
    re.VERBOSE,
)
_PART_OF_MORE = re.compile(r"[.,:/^]\s*\d|-\d|\^|\s*[*·×/]\s*\d|[만억조천백십两]")
_SIGN = re.compile(r"(?:([+-])|(?:minus|negative|moins|menos)\s)\s*", re.IGNORECASE)
_APPROXIMATELY = re.compile("^(?:" + "|".join(map(re.escape, APPROXIMATELY)) + r")(?=[\s\d.$€£¥+-])\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Number:
    """An exact value. `resolution` is the place of its last digit (10^-d times its scale); None where all digits are given."""

    value: Fraction
    resolution: Fraction | None = None
    written: str = ""  # its digits, where it is given in digits alone

    def times(self, factor: Fraction) -> Number:
        written = self.written if factor == 1 else ""
        return Number(value=self.value * factor, resolution=self.resolution and abs(self.resolution * factor), written=written)


@dataclass(frozen=True, kw_only=True)
class Numeral:
    """What a text begins with: all numbers it may be, that of English first, and the text behind them (a unit, a noun)."""

    readings: tuple[Number, ...]
    rest: str
    approximate: bool = False
    scaled: bool = False  # by a word or a letter
    english: bool = False  # written with commas, as English separates thousands
    foreign: bool = False  # English is no likelier than other languages

    @property
    def likely(self) -> Number | None:
        """What it means, unless something says otherwise."""
        return self.readings[0] if len(self.readings) == 1 or (self.english and not self.foreign) else None

    def map(self, change: Callable[[Number], Number]) -> Numeral:
        return replace(self, readings=tuple(map(change, self.readings)))


def is_foreign(question: str) -> bool:
    """Whether a question may be in a language that writes 1.234,5."""
    accents = any(c.isalpha() and ord(c) > 0x7F for c in question)
    return bool(question) and not re.search(f"[{CJK}]", question) and (accents or not says(question, ENGLISH))


def read_numeral(text: str, foreign: bool = False) -> Numeral | None:
    """The numeral that a text (of `text.plain`) begins with, or None. `foreign`: English is no likelier than other languages."""
    shorter = _APPROXIMATELY.sub("", text.strip(), count=1)
    approximate, text = shorter != text.strip(), shorter
    sign = _SIGN.match(text)
    factor, text = Fraction(-1 if sign and sign[1] != "+" else 1), text[sign.end() :] if sign else text
    if len(text) > _MOST_DIGITS:
        return None
    found = _from_digits(text) or _from_words(text)
    if found is None or not found.readings:
        return None
    found = replace(found, approximate=approximate, english="," in text, foreign=foreign)
    return found.map(lambda n: n.times(factor))


def _from_digits(text: str) -> Numeral | None:
    match = _NUMERAL.match(text)
    rest = text[match.end() :] if match else ""
    if not match or _PART_OF_MORE.match(rest) or unicodedata.numeric(rest[:1] or " ", None):
        return None  # part of something longer: 1.2.3, 10:30, 5-6, 2^5, 3万
    parts = match.groupdict()
    power = int(parts["only"] or parts["power"] or parts["exponent"] or 0)
    whole, over, under = (int(parts[a] or parts[b] or 0) for a, b in (("mixed", "whole"), ("above", "over"), ("below", "under")))
    if abs(power) > _MOST_DIGITS or not (parts["digits"] or parts["only"] or (under and over % under)):
        return None  # 6/2 is to be worked out
    decimals = _decimals(parts["digits"]) if parts["digits"] else []
    readings = [
        Number(value=Fraction(d), resolution=Fraction(10) ** int(d.as_tuple().exponent), written=str(d)) for d in decimals
    ]
    if not parts["digits"]:
        readings = [Number(value=whole + Fraction(over, under) if under else Fraction(1), written=f"{whole} {over}/{under}")]
    return _scaled(tuple(n.times(Fraction(10) ** power) for n in readings), rest) if readings else None


def _decimals(digits: str) -> list[Decimal]:
    """All values of digits with separators, that of English first; none of a code (007)."""
    from babel.numbers import NumberFormatError, parse_decimal

    if digits.isdigit() or re.match(r"0\d", digits):
        return [Decimal(digits)] if digits == "0" or digits[0] != "0" else []
    found: list[Decimal] = []
    for locale, group in _LOCALES.items():
        own = re.sub(r"[\s']", group, digits) if group in "\u202f’" else digits
        try:
            found.append(parse_decimal(own, locale=locale, strict=True))
        except (NumberFormatError, InvalidOperation):
            continue
    return list(dict.fromkeys(found))


def _scaled(readings: tuple[Number, ...], rest: str) -> Numeral:
    """With the word or letter of a scale that may follow: 5.2 million, 3k."""
    word, _, behind = rest.strip().partition(" ")
    attached = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}.get(word) if rest[:1].isalpha() else None
    if attached and word != "k" and (word == "K" or readings[0].resolution == 1):
        return Numeral(readings=(), rest="")  # 2B is a pencil, 300K a temperature
    scale = attached or (SCALES.get(word.casefold()) if len(word) > 1 else None)
    numeral = Numeral(readings=readings, rest=behind.strip() if scale else rest.strip(), scaled=bool(scale))
    return numeral.map(lambda n: n.times(Fraction(scale))) if scale else numeral


def _from_words(text: str) -> Numeral | None:
    """The longest beginning of a text that is a number in English words."""
    from text_to_num import text2num

    parts = text.replace("-", " ").split()
    for size in range(min(len(parts), 10), 0, -1):
        try:
            value = text2num(" ".join(parts[:size]).casefold(), "en") if parts[0].casefold() != "o" else int("")
        except (ValueError, KeyError, IndexError):
            continue
        rest = " ".join(parts[size:])  # "nineteen ninety" is a year, "one two" are two numbers
        return None if _from_words(rest) else Numeral(readings=(Number(value=Fraction(value), written=str(value)),), rest=rest)
    return None


def is_number_word(word: str) -> bool:
    """Whether a word is a number in one of the languages that text2num knows, or stands for one."""
    from text_to_num import text2num

    for language in ("en", "de", "fr", "es", "it", "pt", "nl"):
        with contextlib.suppress(ValueError, KeyError, IndexError):
            return text2num(word, language) is not None
    return word in NO_NOUNS | {"couple", "single", "pair", "many", "several", "few"}
