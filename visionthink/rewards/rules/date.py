"""Dates and times of day, read by dateutil in every order of day, month and year that a text allows."""

import functools
import itertools
import re
from datetime import date, datetime
from typing import Any

from visionthink.rewards.rules.text import Finding, Pair, meet, normalise, says
from visionthink.rewards.rules.word_lists import CALENDAR, DURATIONS, NO_DATES

Moment = tuple[int | None, ...]
"""(year, month, day, hour, minute, second, weekday), with None for what is not said."""

_BLANKS = (datetime(1904, 1, 1, 1, 1, 1), datetime(1908, 3, 3, 3, 3, 3))
"""What dateutil fills up with, twice: a field that differs was not said. Leap years, and months of 31 days."""

_CJK_DATE = re.compile(r"(?:(\d{4})[年년])?\s*(\d{1,2})[月월](?:\s*(\d{1,2})[日일])?")
_NUMERIC = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}(?=[\s,T]|$)|\d{1,2}[-/.]\d{4}(?=[\s,T]|$)")
_TIME = re.compile(r"\b\d{1,2}(?::\d{2}){1,2}\b|\b\d{1,2}(?:[.:]\d{2})?\s*[ap]m\b")


@functools.cache
def _dateutil() -> tuple[Any, Any]:
    from dateutil.parser import parser, parserinfo

    return parser(), parserinfo()


def read_moments(text: str) -> list[Moment]:
    """All moments a whole text may mean; none where it is no date and no time. `3:04` may be in the morning or not, `03/04/20` in
    March or in April; a month or a weekday alone is a moment too. Names are English."""
    text = re.sub(
        r"(?:(?<=\d)\.(\d\d)\s*|(?<=[\d\s]))([ap])\.?\s?m\b\.?",
        lambda m: ((m[1] and f":{m[1]} ") or "") + m[2] + "m",
        normalise(text),
    )
    text = _CJK_DATE.sub(lambda m: "-".join(g for g in m.groups() if g) + " ", text)
    found, info = re.findall(r"[^\W\d_]+", text), _dateutil()[1]
    months, weekdays = ({n for w in found if (n := read(w)) is not None} for read in (info.month, info.weekday))
    weekday = min(weekdays, default=None)
    text = re.sub(r"[^\W\d_]+\.?,?", lambda m: m[0] if info.weekday(m[0].rstrip(".,")) is None else "", text).strip(" ,()")
    if len(found) == 1 and not re.search(r"\d", text):
        return [(None, *(months or {None}), None, None, None, None, weekday)] if months or weekdays else []
    parted = re.search(
        r"\d\s*-\s*\d" if months else r":\d\d\s*(?:z|[a-z]*t|[a-z]+c|[+-]\d\d:?\d\d)$", text
    )  # a span, a time zone
    readable = (
        not parted and re.fullmatch(r"(?=.*\d).{1,60}(?<![-/:])", text) and (months or _NUMERIC.match(text) or _TIME.search(text))
    )
    if not readable or len(weekdays) > 1:
        return []
    orders = itertools.product((False, True), repeat=2) if not months and not re.match(r"\d{4}", text) else [(False, False)]
    moments = {moment for day, year in orders if (moment := _parsed(text, dayfirst=day, yearfirst=year))}
    return sorted({variant for moment in moments for variant in _variants(moment, text, weekday)}, key=str)


def _parsed(text: str, **order: bool) -> Moment | None:
    """(year, month, day, hour, minute, second) as dateutil reads the whole text."""
    try:
        first, second = (_dateutil()[0].parse(text, default=blank, ignoretz=True, **order) for blank in _BLANKS)
    except (ValueError, OverflowError, TypeError, AttributeError):
        return None
    said = [a if a == b else None for a, b in zip(first.timetuple()[:6], second.timetuple()[:6], strict=True)]
    if said[3] is not None and said[4] is None:  # "3 pm"
        said[4] = 0
    return tuple(said)


def _variants(moment: Moment, text: str, weekday: int | None) -> set[Moment]:
    """With both halves of the day where none is said, and the century before where the year has two digits."""
    year, month, day, hour, minute, second = moment
    if weekday is not None and year and month and day and date(year, month, day).weekday() != weekday:
        return set()
    either = hour is not None and 1 <= hour <= 12 and not re.search(r"[ap]m\b|\b0\d:|\dt\d", text)
    hours = {hour, ((hour or 0) + 12) % 24} if either else {hour}
    years = {year, year - 100} if year and not re.search(r"\d{4}", text) else {year}
    return {(y, month, day, h, minute, second, weekday) for y in years for h in hours}


def may_be_one(a: Moment, b: Moment) -> bool:
    """Whether no part that both say differs, as in May and 2026-05-01."""
    return all(x in (y, None) or y is None for x, y in zip(a, b, strict=True))


def same_date(pair: Pair) -> Finding | None:
    """Different where a part that both say differs; unsure where one says less."""
    names = not re.search(r"\d", pair.said + pair.wanted) and not says(pair.question, CALENDAR)  # sun, mar, may
    clock = says(pair.question, DURATIONS) and re.search(r"[ap]\.?m\b", f"{pair.said} {pair.wanted}", re.IGNORECASE)
    if names or clock or says(pair.question, NO_DATES):
        return None
    said, wanted = (read_moments(text) for text in pair.texts)
    if not said or not wanted:
        return None
    finding = meet(said, wanted, may_be_one)  # 1:30 may be minutes and seconds
    return "unsure" if finding == "different" and pair.said.count(":") != pair.wanted.count(":") > 0 else finding
