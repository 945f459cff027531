"""Numbers with or without a unit: percent against fraction, money, units converted exactly (`pint`), counted things."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from visionthink.rewards.rules import word_lists as lists
from visionthink.rewards.rules.number import Number, Numeral, is_foreign, read_numeral
from visionthink.rewards.rules.text import Finding, Pair, hedged, negated, normalise, says, words

_NOUN = re.compile(r"[^\W\d_]{2,}(?:[\s-][^\W\d_]{2,}){0,2}")
_NAME = r"(?:[^\W\d_]++|°[CF]?|['\"]++)(?:(?:\^|\*\*)?[({]?-?[1-4][)}]?)?"
_UNIT = re.compile(rf"{_NAME}(?:\s*(?:[/*·]|\bper\b|\s)\s*{_NAME}){{0,4}}")  # pint would evaluate anything
_BEFORE = re.compile(r"[+-]?\s*([A-Z]{1,3}\s?\$|[A-Z]{3}|[^\w\s.,+()\[\]{}\\-]|kr\.?|Rs\.?|zł)\s*(?=[\d.+-])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A numeral and what it counts: nothing, percent, the currencies a sign may mean, a unit of pint, or a noun."""

    numeral: Numeral
    kind: Literal["plain", "percent", "money", "unit", "noun"]
    unit: Any = None

    def times(self, factor: Fraction) -> Quantity:
        return replace(self, numeral=self.numeral.map(lambda n: n.times(factor)))


@functools.cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction, autoconvert_offset_to_baseunit=True)


def _read_money(text: str) -> frozenset[str] | None:
    """The codes of the currencies that a sign, a name or a code may mean."""
    from babel.numbers import list_currencies

    code = text.upper() if len(text) == 3 and text.upper() in list_currencies() else None
    return lists.MONEY.get(text.casefold().replace(" ", "")) or (frozenset([code]) if code else None)


def _read_unit(text: str) -> Any | None:
    """The unit a text names as a whole; None where a part of it is none of the known units."""
    text = re.sub(r"(?<=[A-Za-z])([23])(?!\w)", r"^\1", text)
    spelled, registry = lists.SPELLINGS.get(text) or lists.SPELLINGS.get(text.casefold()) or text.replace("·", "*"), _registry()
    for form in (spelled, spelled.casefold())[: (1 + (len(spelled) > 2)) * bool(_UNIT.fullmatch(spelled))]:
        try:
            unit = registry.parse_units(form)
            if all(registry.parse_unit_name(name)[0][1] in lists.UNITS for name in unit._units):
                return unit
        except Exception:  # of free text, pint's parser raises nearly anything
            continue
    return None


def read_quantity(text: str, question: str = "") -> Quantity | None:
    """What a whole text says as a number with whatever it counts; None where it is no quantity."""
    text = re.sub(r"^(\d+)\s+out\s+of\s+(\d+)$", r"\1/\2", text.strip().rstrip("."))
    before = _BEFORE.match(text)
    money = _read_money(before[1].strip()) if before else None
    if before and not money and before[1] not in "≈~":
        return None
    numeral = read_numeral(text[: before.start(1)] + text[before.end() :] if before and money else text, is_foreign(question))
    if numeral is None:
        return None
    rest = numeral.rest.strip(" .")
    if money or (behind := _read_money(rest)):
        if not money and not rest.isascii():  # "1.234 €" is not how English writes it
            numeral = replace(numeral, foreign=True)
        return Quantity(numeral=numeral, kind="money", unit=money or behind) if not money or not rest else None
    if not rest or rest.casefold() in lists.PERCENT:
        return Quantity(numeral=numeral, kind="percent" if rest else "plain")
    if (unit := _read_unit(rest)) is not None:
        return Quantity(numeral=numeral, kind="unit", unit=unit)
    for tail in (f" {rest}"[m.start() :] for m in re.finditer(r"\s", f" {rest}")):
        if text.endswith(tail) and _echoes(tail, question) and (found := read_quantity(text.removesuffix(tail))):
            return found if found.kind != "plain" or not re.search(lists.SHARES, question, re.IGNORECASE) else None
    noun = text.removesuffix(rest).endswith(" ") and _NOUN.fullmatch(rest) and not says(rest, lists.HEDGES | lists.NO_NOUNS)
    return Quantity(numeral=numeral, kind="noun", unit=normalise(rest)) if noun else None


def _echoes(tail: str, question: str) -> bool:
    """Whether what follows a quantity only repeats the question: its words, in its order."""
    asked, spoken = (iter(words(question)), [w for w in words(tail) if w not in lists.FILLERS])
    plain = not (says(question, lists.TWO_SIDED) or negated(question) or hedged(tail) or re.search(r"[^\w\s'-]|-(?!\w)", tail))
    counted = re.search(r"how many (?:of the )?(\w+)", question.casefold())  # pairs of shoes are no shoes
    if re.search(lists.SHARES, question, re.IGNORECASE) or (
        counted and spoken and spoken[0].rstrip("s") != counted[1].rstrip("s")
    ):
        return False
    return plain and all(any(w.rstrip("s") == q.rstrip("s") for q in asked) for w in spoken)


def same_quantity(pair: Pair) -> Finding | None:
    """Applies where both sides are quantities."""
    said, wanted = (read_quantity(text, pair.question) for text in pair.texts)
    if said is None or wanted is None:
        return None
    finding, texts, question = _by_kind(said, wanted, pair.question), f"{pair.said} {pair.wanted}", pair.question
    form = says(question, lists.FORMS)
    amount = not form and (not question or "plain" not in (said.kind, wanted.kind) or says(question, lists.AMOUNTS))
    digits, foreign = [q.numeral.readings[0].written for q in (said, wanted)], is_foreign(question)
    several, comma = says(question, lists.SEVERAL), re.search(r"(?<![\d,])\d+,\d{1,2}(?![\d,])", texts)
    two = comma and not foreign and (several or said.kind == "plain")
    if two and several:
        return "unsure"
    if finding == "same" and (
        two or not (amount or (foreign and not form) or (digits[0] == digits[1] != "" and said.kind == wanted.kind))
    ):
        return "unsure"  # 3,5 may be two numbers; 3.10 is 3.1 only where an amount is asked for
    opposite = finding == "different" and _values(said.times(Fraction(-1)), wanted) != "different"
    flat = finding == "different" and "^" in texts and len({re.sub(r"[{}^]", "", text) for text in pair.texts}) == 1
    # 20/03 and 03/20 may be a day
    fractions = finding == "different" and not amount and sorted(pair.said) == sorted(pair.wanted) and "/" in pair.said
    if flat or fractions or (opposite and (foreign or says(question, lists.CHANGES))) or (foreign and "illion" in texts):
        return "unsure"  # 103 for 10^3, -5 for a fall of 5; and a billion is not the same everywhere
    return finding


def _by_kind(said: Quantity, wanted: Quantity, question: str) -> Finding:
    kinds, many = {said.kind, wanted.kind}, "how many" in question.casefold()
    if kinds == {"plain", "money"}:
        named = [money for word in words(question) if (money := _read_money(word))]
        unit = said.unit or wanted.unit
        if many or "CENT" in unit or any(money != unit and "USD" not in money & unit for money in named):
            return "unsure"
    if kinds in ({"plain"}, {"plain", "money"}):
        return _unscaled(said, wanted, question)
    if kinds == {"plain", "percent"}:
        return _percent(said, wanted) if not question or re.search(lists.SHARES, question, re.IGNORECASE) else "unsure"
    if kinds == {"money"} and said.unit != wanted.unit:
        likely = "USD" in said.unit and "USD" in wanted.unit
        return (
            _values(said, wanted)
            if likely
            else "unsure"
            if said.unit & wanted.unit or "CENT" in said.unit | wanted.unit
            else "different"
        )
    if kinds == {"unit"} and said.unit != wanted.unit:
        return _converted(said, wanted, question)
    if kinds == {"plain", "unit"} and not _names(question, said.unit or wanted.unit):
        return "unsure"
    alike = len(kinds) == 1 and said.unit == wanted.unit if "noun" in kinds else len(kinds) == 1 or "plain" in kinds
    return _values(said, wanted) if alike else "unsure"


def _values(said: Quantity, wanted: Quantity) -> Finding:
    """The same where both texts mean one value; different where no readings are near each other."""
    a, b = said.numeral, wanted.numeral
    if a.likely and b.likely and a.likely.value == b.likely.value:
        return "same"
    rough = a.approximate or b.approximate
    return "unsure" if any(_near(x, y, rough) for x in a.readings for y in b.readings) else "different"


def _near(a: Number, b: Number, rough: bool) -> bool:
    """Whether one may be the other: rounded, or computed with other precision. Counts and equally long decimals are not."""
    gap, larger = abs(a.value - b.value), max(abs(a.value), abs(b.value))
    whole = a.value.denominator == b.value.denominator == 1 and larger < 10**6
    equally_long = a.resolution is not None and a.resolution == b.resolution
    close = gap <= larger / 10 if rough else not whole and not equally_long and gap <= larger / 100
    return close or gap <= max(a.resolution or 0, b.resolution or 0) / 2


def _unscaled(said: Quantity, wanted: Quantity, question: str) -> Finding:
    """ "4.5" and "4.5 million" are the same where the question asks for millions, and not told apart elsewhere."""
    values, asked = _values(said, wanted), question.casefold()
    for scale, name in {100: "", 10**3: "thousand", 10**6: "million", 10**9: "billion"}.items():
        scaled = {_values(said.times(Fraction(scale)), wanted), _values(said, wanted.times(Fraction(scale)))}
        if values != "same" and "same" in scaled and (name or re.search(lists.SHARES, asked)):
            wanted_so = name and said.numeral.scaled != wanted.numeral.scaled
            return (
                "same"
                if wanted_so and re.search(rf"(?:in|how many) (?:\w+ )?{name}s?\b|\((?:in )?\W?{name}s?\b", asked)
                else "unsure"
            )
    return values


def _percent(said: Quantity, wanted: Quantity) -> Finding:
    """47 % is 47, and 0.47; where both could be meant, nothing is sure."""
    percent, plain = (said, wanted) if said.kind == "percent" else (wanted, said)
    as_number, as_share = _values(percent, plain), _values(percent.times(Fraction(1, 100)), plain)
    if as_number == as_share == "different":
        return "different"
    value = abs(plain.numeral.readings[0].value)
    return "same" if (as_number == "same" and (value > 1 or value == 0)) or (as_share == "same" and value < 1) else "unsure"


def _names(question: str, unit: Any) -> bool:
    """Whether the question asks for the unit that only one side writes: `in cm`, `how many hours`, `(kg)`, an angle."""
    if unit == _registry().Unit("degree") and re.search(r"\bangles?\b|∠|\brotat", question, re.IGNORECASE):
        return True
    word = r"(°\s?[CF]|[^\W\d]+(?:/[^\W\d]+)?(?:\^?[23²³])?|[°%])"
    asked = re.findall(rf"\bhow many\s+{word}", question, re.IGNORECASE) or re.findall(
        rf"(?:\bin|\()\s*{word}", question, re.IGNORECASE
    )
    return bool(asked) and _read_unit(asked[-1]) == unit


def _converted(said: Quantity, wanted: Quantity, question: str) -> Finding:
    a, b, unit, quantity = said.unit, wanted.unit, _registry().Unit, _registry().Quantity
    if a.dimensionality != b.dimensionality or ({a, b} & {unit("degC"), unit("degF")} and says(question, lists.CHANGES)):
        return "unsure"  # m may be metres or minutes
    if a.dimensionality == unit("joule").dimensionality and len(a._units) != len(b._units):
        return "unsure"  # a torque in N m is no energy in J
    if said.numeral.rest.casefold() == wanted.numeral.rest.casefold() or {a, b} == {unit("cal"), unit("kcal")}:
        return "unsure"  # 5 mW and 5 MW; on food, Cal is kcal
    converted = replace(said, numeral=said.numeral.map(lambda n: Number(value=quantity(n.value, a).to(b).magnitude)))
    pairs = [(x.value, y.value) for x in converted.numeral.readings for y in wanted.numeral.readings]
    close, finding = any(abs(x - y) <= abs(y) / 20 for x, y in pairs), _values(converted, wanted)
    bits = re.search(r"(?:bits?|bytes?|[Bb])$", said.numeral.rest)  # kB may be 1024 bytes
    return "unsure" if bits or (finding == "different" and close) else finding
