"""Numbers with or without a unit: percent against fraction, converted units (`pint`), a unit that only one side writes."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.number import Number, read_number, rounds_to
from visionthink.rewards.rules.text import contains, normalise

_CLOSE = Fraction(1, 100)
"""Values that are not whole and differ by less, relatively, may be one value computed with other precision."""

_PERCENT = ("%", "percent", "per cent", "pct", "% off", "% vol", "% p.a", "% abv", "percent off")
_MONEY = {
    "dollar": ("dollar", "dollars", "usd"),
    "euro": ("euro", "euros", "eur"),
    "sterling": ("sterling", "gbp"),
    "yen": ("yen", "jpy"),
    "rupee": ("rupee", "rupees", "inr"),
}
_SPELLED = {
    "°c": "degC", "° c": "degC", "degrees celsius": "degC", "degree celsius": "degC", "celsius": "degC", "degc": "degC",
    "°f": "degF", "° f": "degF", "degrees fahrenheit": "degF", "fahrenheit": "degF", "degf": "degF",
    "°": "degree", "deg": "degree", "^\\circ": "degree", "^{\\circ}": "degree",
    "sq m": "m**2", "sqm": "m**2", "sq ft": "foot**2", "sq km": "km**2", "sq cm": "cm**2", "sq in": "inch**2",
}  # fmt: skip
_BASES = (
    "m cm mm km nm µm um dm in ft yd mi inch inches foot feet yard yards mile miles metre metres meter meters centimetre "
    "centimetres centimeter centimeters millimetre millimetres millimeter millimeters kilometre kilometres kilometer kilometers "
    "g kg mg µg lb lbs oz t gram grams kilogram kilograms milligram milligrams pound pounds ounce ounces tonne tonnes "
    "s ms µs ns sec secs second seconds min mins minute minutes h hr hrs hour hours day days week weeks "
    "l L ml mL dl dL cl liter liters litre litres milliliter milliliters millilitre millilitres gallon gallons "
    "mph kph rpm Hz kHz MHz GHz hertz J kJ MJ GJ cal kcal "
    "joule joules Wh kWh W kW MW GW watt watts V kV mV volt volts A mA amp amps "
    "ampere amperes ohm ohms Ω kΩ N kN newton newtons Pa kPa MPa hPa atm psi K kelvin degree degrees rad radian radians "
    "bit bits byte bytes kB KB MB GB TB kb Mb Gb kilobytes megabytes gigabytes terabytes ha hectare hectares acre acres"
)  # fmt: skip
_UNITS = {unit: unit for unit in _BASES.split()} | {
    "lbs": "lb", "secs": "second", "mins": "minute", "hrs": "hour", "t": "tonne", "KB": "kB",
    "L": "l", "mL": "ml", "dL": "dl",
}  # fmt: skip


@functools.cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(autoconvert_offset_to_baseunit=True)


@functools.cache
def read_unit(text: str) -> str | None:
    """The unit a text names, as pint spells it; "%" and currencies as themselves, "" for none, None for anything else."""
    text = text.strip().rstrip(".").replace("²", "^2").replace("³", "^3")
    lower = " ".join(text.casefold().split())
    if not text or lower in _PERCENT:
        return text and "%"
    if money := next((name for name, words in _MONEY.items() if lower in words), None):
        return money
    if lower in _SPELLED:
        return _SPELLED[lower]
    if match := re.fullmatch(r"(square|cubic)\s+(\w+)", lower):
        return f"{_UNITS[match[2]]}**{2 if match[1] == 'square' else 3}" if match[2] in _UNITS else None
    parts = re.split(r"\s*(/|·|\*|\bper\b)\s*", text)
    spelled = []
    for i, part in enumerate(parts):
        if i % 2:
            spelled.append("/" if part in ("/", "per") else "*")
            continue
        base = re.fullmatch(r"([^\W\d]+|Ω)(?:\s*\^\s*\{?(-?[1-4])\}?|([23]))?", part.strip())
        name = base and (_UNITS.get(base[1]) or _UNITS.get(base[1].casefold()))
        if not base or not name or (base[1] not in _UNITS and len(base[1]) < 3):  # MG is not mg
            return None
        spelled.append(name + (f"**{base[2] or base[3]}" if base[2] or base[3] else ""))
    return "".join(spelled)


_NOUN = re.compile(r"(?:[^\W\d_]{2,}(?:[\s-][^\W\d_]{2,})*)?")
_NO_NOUNS = re.compile(
    r"\b(?:pi|half|halves|thirds?|quarters?|dozen|times|squared|cubed|point|and|to|plus|minus|over|hundred)\b|π"
)


def same_quantity(pair: Pair) -> Finding | None:
    """Applies where the reference is a number with nothing, a unit or one noun behind it."""
    if (ratio := _ratio(pair)) is not None:
        return ratio
    if _CODES.search(pair.question):
        return _codes(pair)
    wanted, said = (_compound(text) or read_number(text) for text in (pair.wanted, pair.said))
    if wanted is None:
        return None
    if said is not None and _is_a_name(pair):
        return None if said.value != wanted.value else "unsure"
    if said is not None:
        said, wanted = _cents(said, wanted), _cents(wanted, said)
    of_wanted = read_unit(wanted.rest)
    if of_wanted is None and len(wanted.rest.split()) > 2:
        return None
    if said is None:
        return None
    of_said = read_unit(said.rest)
    if of_said is None and len(said.rest.split()) > 3:
        return None
    if said.value != wanted.value and (finding := _scaled(said, wanted, pair.question)) and "" in (said.rest, wanted.rest):
        return finding
    if (of_wanted is None or of_said is None) and not all(_NOUN.fullmatch(n.rest) for n in (said, wanted)):
        return None
    if of_wanted is None or of_said is None:
        return _with_nouns(said, wanted, of_said, of_wanted, pair.question)
    if of_said == of_wanted:
        return _values(said, wanted)
    if "%" in (of_said, of_wanted):
        return _percent(said, wanted, of_said, of_wanted)
    if not of_said or not of_wanted:
        return _unit_left_out(said, wanted, of_said or of_wanted, pair.question)
    return _converted(said, wanted, of_said, of_wanted, pair.question)


_CODES = re.compile(
    r"\b(?:version|section|chapter|(?:zip|postal|area) code|(?:phone|fax) (?:number|no\b)|"
    r"what is the (?:tele)?(?:phone|fax)\b(?!['’])|"
    r"licen[cs]e plate|extension|(?:flight|serial|plate|room) number)\b",
    re.IGNORECASE,
)


def _codes(pair: Pair) -> Finding | None:
    """Digits that are no number: 1.10 is not 1.1, and 01234 not 1234."""
    said, wanted = (re.sub(r"[\s()-]", "", text) for text in (pair.said, pair.wanted))
    if not said.isdecimal() or not wanted.isdecimal():
        return None
    if said == wanted:
        return "same"
    return "unsure" if said in wanted or wanted in said else "different"  # with or without the area


_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*(?::|to|/)\s*(\d+(?:\.\d+)?)", re.IGNORECASE)


def _ratio(pair: Pair) -> Finding | None:
    """3:8 is 3 to 8 and 6:16, where the question asks for a ratio."""
    said, wanted = (_RATIO.fullmatch(text.strip()) for text in (pair.said, pair.wanted))
    if not said or not wanted or ":" not in wanted[0] or not re.search(r"\b(?:ratio|odds|scale)\b", pair.question, re.IGNORECASE):
        return None
    (a, b), (c, d) = ([Fraction(g) for g in match.groups()] for match in (said, wanted))
    return "same" if a * d == b * c else "different"


_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([^\W\d]+\.?|['\"′″])(?:\s*(?:,|and)?\s*)")


def _compound(text: str) -> Number | None:
    """ "1 hour 30 minutes" in its first unit."""
    parts = _PART.findall(text.strip())
    if len(parts) < 2 or _PART.sub("", text.strip()):
        return None
    units = [read_unit(unit) for _, unit in parts]
    registry = _registry()
    if not all(units) or any(u in _MONEY or u == "%" for u in units) or len({registry.Unit(u).dimensionality for u in units}) > 1:
        return None
    ratios = [Fraction(str(round(registry.Quantity(1, u).to(units[0]).magnitude, 12))).limit_denominator(10**6) for u in units]
    value = sum((Fraction(number) * ratio for (number, _), ratio in zip(parts, ratios, strict=True)), Fraction(0))
    return Number(value=value, resolution=None, rest=parts[0][1])


def _cents(amount: Number, other: Number) -> Number:
    """Cents as a part of the other side's dollar or euro."""
    if amount.rest.casefold() not in ("cent", "cents", "¢") or (currency := read_unit(other.rest)) not in ("dollar", "euro"):
        return amount
    return Number(
        value=amount.value / 100,
        resolution=amount.resolution and amount.resolution / 100,
        rest=currency,
        approximate=amount.approximate,
    )


_SCALE_WORDS = {10**3: "thousand", 10**6: "million", 10**9: "billion"}


def _scaled(said: Number, wanted: Number, question: str) -> Finding | None:
    """ "4.5" and "4.5 million" are the same where the question asks for millions, and not told apart elsewhere."""
    for scale, word in _SCALE_WORDS.items():
        if wanted.value and said.value / wanted.value in (scale, Fraction(1, scale)):
            asks = rf"\b(?:in|how many) (?:\w+ )?{word}s?\b|\((?:in )?{word}s?\b"
            return "same" if re.search(asks, question, re.IGNORECASE) else "unsure"
    share = wanted.value and said.value / wanted.value in (100, Fraction(1, 100))
    return (
        "unsure"
        if share and re.search(r"%|percent|proportion|share|probability|chance|fraction", question, re.IGNORECASE)
        else None
    )


_RELEASES = re.compile(
    r"\b(?:release|version|figure|section|model|edition|python|chapter|table|batch|lot|code|id)\b", re.IGNORECASE
)
_SPLIT = re.compile(r"\b(?:date|day|when|signature|pressure|score)\b", re.IGNORECASE)


def _is_a_name(pair: Pair) -> bool:
    """Whether equal values in other digits may be two things: release 3.10 and 3.1, 3/4 time and 6/8, batch 1E5."""
    said, wanted = (re.sub(r"\s", "", text) for text in (pair.said, pair.wanted))
    if said == wanted:
        return False
    release = re.search(r"\d\.\d*0\b|\dE\d", f"{said} {wanted}") and _RELEASES.search(pair.question)
    return bool(release or (_SPLIT.search(pair.question) and re.search(r"\d/\d", said) and re.search(r"\d/\d", wanted)))


def _values(said: Number, wanted: Number) -> Finding:
    if said.value == wanted.value:
        return "same"
    whole = said.value.denominator == wanted.value.denominator == 1
    alike = said.resolution is not None and said.resolution == wanted.resolution  # as many digits behind the point
    near = not whole and not alike and abs(said.value - wanted.value) <= _CLOSE * max(abs(said.value), abs(wanted.value))
    return "unsure" if said.approximate or wanted.approximate or near or rounds_to(said, wanted) else "different"


def _percent(said: Number, wanted: Number, of_said: str, of_wanted: str) -> Finding:
    """47 % is 47, and 0.47; where both could be meant, or the other side has another unit, nothing is sure."""
    percent, plain, other = (said, wanted, of_wanted) if of_said == "%" else (wanted, said, of_said)
    if other:
        return "unsure"
    if plain.value == percent.value == 0:
        return "same"
    if percent.value == plain.value:
        return "same" if abs(plain.value) > 1 else "unsure"
    if percent.value == 100 * plain.value:
        return "same" if abs(plain.value) < 1 else "unsure"
    as_number, as_share = _values(percent, plain), _values(Number(value=percent.value / 100, resolution=None, rest=""), plain)
    return "different" if as_number == as_share == "different" else "unsure"


def _unit_left_out(said: Number, wanted: Number, unit: str, question: str) -> Finding:
    """Equal numbers are the same where money is meant or the question names the unit; others may be of another unit."""
    if said.value != wanted.value:
        return _values(said, wanted) if unit in _MONEY or _names(question, said, wanted) else "unsure"
    return "same" if unit in _MONEY or _names(question, said, wanted) else "unsure"


def _names(question: str, said: Number, wanted: Number) -> bool:
    """Whether the question names the unit that one side writes, in this or in another spelling."""
    unit = read_unit(said.rest or wanted.rest)
    if unit == "degree" and re.search(r"\bangles?\b|∠|\brotat", question, re.IGNORECASE):
        return True
    asked = _ASKS_FOR_UNIT.findall(question)
    return any(read_unit(word) == unit or _alike(read_unit(word), unit) for word in asked if word not in ("a", "A", "the"))


_ASKS_FOR_UNIT = re.compile(r"(?:\bin|\bhow many|\()\s*(°\s?[CF]|[^\W\d]+(?:/[^\W\d]+)?[²³]?|[°%])", re.IGNORECASE)


def _alike(a: str | None, b: str | None) -> bool:
    if not a or not b or "%" in (a, b) or a in _MONEY or b in _MONEY:
        return False
    return bool(_registry().parse_units(a) == _registry().parse_units(b))


_DIFFERENCE = re.compile(r"\b(?:differ\w*|rise|rose|fall|fell|drop\w*|change\w*|increase\w*|decrease\w*|by how)\b", re.IGNORECASE)


def _converted(said: Number, wanted: Number, of_said: str, of_wanted: str, question: str) -> Finding:
    if {of_said, of_wanted} == {"cal", "kcal"}:
        return "unsure"  # on food, Cal is kcal
    if of_said in _MONEY or of_wanted in _MONEY:
        if "sterling" in (of_said, of_wanted) and {of_said, of_wanted} & {"lb", "pound", "pounds"}:
            return _values(said, wanted) if said.value != wanted.value else "unsure"
        return "different" if of_said in _MONEY and of_wanted in _MONEY else "unsure"
    units = _registry()
    if max(abs(said.value), abs(wanted.value)) > 10**300:
        return "unsure"
    if "deg" in of_said + of_wanted and of_said != "degree" and _DIFFERENCE.search(question):
        return "unsure"  # a rise of 10 °C is one of 18 °F
    a, b = (units.Quantity(float(n.value), unit) for n, unit in ((said, of_said), (wanted, of_wanted)))
    if not a.check(b.dimensionality):
        return "unsure"  # m may be metres or minutes
    value, target = a.to_base_units().magnitude, b.to_base_units().magnitude
    if abs(value - target) <= 1e-9 * max(abs(value), abs(target)):
        return "same"
    return "unsure" if abs(value - target) <= 0.05 * max(abs(value), abs(target)) else "different"


def _with_nouns(said: Number, wanted: Number, of_said: str | None, of_wanted: str | None, question: str) -> Finding | None:
    """ "3" and "3 apples" are the same where the question speaks of apples; another number of whatever is another answer."""
    if (of_said or of_wanted) or _NO_NOUNS.search(f"{said.rest} {wanted.rest}".casefold()):
        return None  # a unit on one side, something else on the other
    nouns = {normalise(n.rest) for n in (said, wanted) if n.rest}
    if len(nouns) > 1 or contains(normalise(question), "and"):
        return "unsure"
    asked = normalise(question)
    mentioned = all(
        any(contains(asked, form) for form in (word, word.removesuffix("s"), f"{word}s")) for word in nouns.pop().split()
    )
    if not mentioned and not (said.rest and wanted.rest):
        return "unsure"
    return _values(said, wanted)
