"""Dates and times of day, where only one reading is possible."""

from __future__ import annotations

import re
from datetime import date, time

from visionthink.rewards.rules.finding import Finding, Pair

_NAMES = "january february march april may june july august september october november december"
_MONTHS = _NAMES.split()
_MONTH = r"(?P<month>" + "|".join(f"{m}|{m[:3]}|{m[:4]}" for m in _MONTHS) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_FORMS = [
    re.compile(p, re.IGNORECASE)
    for p in (
        r"(?P<year>\d{4})[-/.](?P<number>\d{1,2})[-/.](?P<day>\d{1,2})",
        rf"(?:the\s+)?{_DAY}\s*(?:of\s+)?[\s-]?{_MONTH}(?:,?\s*-?\s*(?P<year>\d{{4}}))?",
        rf"{_MONTH}\s+{_DAY}(?:,?\s+(?P<year>\d{{4}}))?",
        rf"{_MONTH},?\s+(?P<year>\d{{4}})",
        r"(?P<number>0?[1-9]|1[0-2])/(?P<year>\d{4})",
    )
]
_SLASHED = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})")
_NAMED = {"noon": time(12), "midday": time(12), "midnight": time(0)}
_SPOKEN = re.compile(r"(half|quarter) (past|to) (\w+)")
_HOURS = {w: i for i, w in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)}
_CLOCK = re.compile(r"(?P<hour>\d{1,2})(?:[:.](?P<minute>\d{2}))?(?::(?P<second>\d{2}))?\s*(?P<half>[ap]\.?m\.?)?", re.IGNORECASE)
_WEEKDAY = re.compile(r"^(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+", re.IGNORECASE)

Partial = tuple[int | None, int | None, int | None]


def read_date(text: str) -> Partial | None:
    """(year, month, day), with None for what is not said; None where the text is no date or could be two."""
    text = _WEEKDAY.sub("", text.strip().rstrip("."))
    if match := _SLASHED.fullmatch(text):
        first, second, year = (int(g) for g in match.groups())
        if first != second and first <= 12 and second <= 12:
            return None
        day, month = (first, second) if second <= 12 else (second, first)
        return _checked(year, month, day)
    for form in _FORMS:
        if match := form.fullmatch(text):
            parts = match.groupdict()
            if parts.get("number"):
                month = int(parts["number"])
            else:
                month = next(i for i, m in enumerate(_MONTHS, 1) if m.startswith(parts["month"].casefold()[:3]))
            said, on = parts.get("year"), parts.get("day")
            return _checked(int(said) if said else None, month, int(on) if on else None)
    return None


def _checked(year: int | None, month: int, day: int | None) -> Partial | None:
    try:
        date(year or 2000, month, day or 1)
    except ValueError:
        return None
    return year, month, day


def read_time(text: str) -> time | None:
    """A time of day: with minutes, or with am or pm."""
    text = text.strip().rstrip(".").casefold().removeprefix("a ")
    if text in _NAMED:
        return _NAMED[text]
    if spoken := _SPOKEN.fullmatch(text):
        hour = _HOURS.get(spoken[3], int(spoken[3]) if spoken[3].isdecimal() else 0)
        minutes = {"half past": 30, "quarter past": 15, "quarter to": -15}.get(f"{spoken[1]} {spoken[2]}")
        if minutes is None or not 1 <= hour <= 12:
            return None
        return time(*divmod((60 * hour + minutes) % 720, 60))
    match = _CLOCK.fullmatch(text)
    if not match or not (match["minute"] or match["half"]):
        return None
    hour, half = int(match["hour"]), (match["half"] or "").casefold()[:1]
    if half and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    try:
        return time(hour, int(match["minute"] or 0), int(match["second"] or 0))
    except ValueError:
        return None


_SPAN = re.compile(
    r"(?:from\s+|between\s+)?(?P<start>\S.*?)\s*(?:-|–|—|\b(?:to|and|until|till|through)\b)\s*(?P<end>\S.*)", re.IGNORECASE
)


def _same_span(pair: Pair) -> Finding | None:
    """1990-2010, 9 am to 5 pm: spans of years or of times are compared end by end."""
    ends = []
    for text in (pair.said, pair.wanted):
        match = _SPAN.fullmatch(text.strip().rstrip("."))
        if not match:
            return None
        start, end = match["start"], match["end"]
        if re.fullmatch(r"[12]\d{3}", start) and re.fullmatch(r"[12]\d{3}", end):
            ends.append((start, end))
        elif all(re.search(r":|[ap]\.?m", t, re.IGNORECASE) and read_time(t) for t in (start, end)):
            ends.append((str(read_time(start)), str(read_time(end))))
        else:
            return None
    return "same" if ends[0] == ends[1] else "different"


def same_date(pair: Pair) -> Finding | None:
    """Different where a part that both say differs; unsure where one says less."""
    if (span := _same_span(pair)) is not None:
        return span
    weekdays = [(_WEEKDAY.match(text.strip()) or [""])[0].casefold().strip(" ,") for text in (pair.said, pair.wanted)]
    said, wanted = read_date(pair.said), read_date(pair.wanted)
    if said and wanted and all(weekdays) and weekdays[0] != weekdays[1]:
        return "unsure"
    if said is None or wanted is None:
        return _same_time(pair)
    both = [(a, b) for a, b in zip(said, wanted, strict=True) if a is not None and b is not None]
    if any(a != b for a, b in both):
        return "different"
    return "same" if said == wanted else "unsure"


def _same_time(pair: Pair) -> Finding | None:
    said, wanted = read_time(pair.said), read_time(pair.wanted)
    clocks = [re.search(r":|[ap]\.?m|noon|midday|midnight|past|to", text, re.IGNORECASE) for text in (pair.said, pair.wanted)]
    if (
        said is None
        or wanted is None
        or not all(clocks)
        or re.search(r"\b(?:ratio|scores?|odds)\b", pair.question, re.IGNORECASE)
    ):
        return None
    if (pair.said.count(":") == 2) != (pair.wanted.count(":") == 2):
        return "unsure"  # seconds on one side
    if said == wanted:
        return "same"
    halves = [
        bool(re.search(r"[ap]\.?m|noon|midnight|midday", t, re.IGNORECASE)) or r.hour > 12
        for t, r in ((pair.said, said), (pair.wanted, wanted))
    ]
    twelve_apart = (said.hour - wanted.hour) % 12 == 0 and said.replace(hour=0) == wanted.replace(hour=0)
    return "unsure" if twelve_apart and not all(halves) else "different"
