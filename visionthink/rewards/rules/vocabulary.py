"""Closed vocabularies, whose words exclude each other, and names that differ in their digits."""

from __future__ import annotations

import re

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.refusal import refuses
from visionthink.rewards.rules.sentence import inner_answers
from visionthink.rewards.rules.text import contains, hedged, normalise, words

_GROUPS: tuple[tuple[frozenset[str], ...], ...] = tuple(
    tuple(frozenset(word.split("|")) for word in group.split(","))
    for group in (
        "red,green,blue,black,white",
        "yellow,blue,black,red",
        "orange,green,blue,black,white",
        "left|on left|left side|to left|leftmost|on left side,right|on right|right side|to right|rightmost|on right side",
        "top|at top|upper,bottom|at bottom|lower",
        "above,below",
        "up|upward|upwards,down|downward|downwards",
        "inside,outside",
        "indoors|indoor,outdoors|outdoor",
        "in front|front,behind|back|at back",
        "top left|upper left|upper-left|top-left,top right|upper right|upper-right|top-right,"
        "bottom left|lower left|lower-left|bottom-left,bottom right|lower right|lower-right|bottom-right",
        "horizontal|horizontally,vertical|vertically,diagonal|diagonally",
        "clockwise,counterclockwise|anticlockwise|counter-clockwise|anti-clockwise",
        "north,south,east,west",
        "northeast|north-east,northwest|north-west,southeast|south-east,southwest|south-west",
        "monday|mon,tuesday|tue|tues,wednesday|wed,thursday|thu|thur|thurs,friday|fri,saturday|sat,sunday|sun",
        "january|jan,february|feb,march|mar,april|apr,may,june|jun,july|jul,august|aug,september|sep|sept,october|oct,november|nov,"
        "december|dec",
        "spring,summer,autumn|fall,winter",
        "circle,triangle,square,hexagon,pentagon,octagon,star,cross",
        "increase|increasing|increases|increased,decrease|decreasing|decreases|decreased",
        "higher,lower",
        "more,less|fewer",
        "larger|bigger|greater,smaller",
        "male,female",
        "open|opened,closed|shut",
        "empty,full",
        "on,off",
        "cat,dog,horse,cow,sheep,elephant,giraffe,zebra,bear",
        "first|1st,second|2nd,third|3rd,fourth|4th,fifth|5th,sixth|6th,seventh|7th,eighth|8th,ninth|9th,tenth|10th",
        "positive,negative",
        "odd,even",
        "before,after",
        "morning,evening,midnight",
        "north america,south america,europe,asia,africa,australia,antarctica",
        "round,square,triangular",
    )
)


def _index(group: tuple[frozenset[str], ...], text: str) -> int | None:
    return next((i for i, words in enumerate(group) if text in words), None)


def one_of_its_group(text: str, word: str) -> str | None:
    """The only word in a text that excludes `word`, where no other word of its group is there."""
    for group in _GROUPS:
        own = _index(group, word)
        if own is None or len(word) < 3:
            continue
        members = {i: w for i, forms in enumerate(group) for w in forms if contains(text, w) or contains(text, f"{w}s")}
        if len(members) == 1 and own not in members:
            found = members.popitem()[1]
            return found if contains(text, found) else f"{found}s"
    return None


def opposite(pair: Pair) -> Finding | None:
    """ "It is closed" says no to "Is the laptop open?"."""
    wanted = normalise(pair.wanted)
    asked = re.fullmatch(r"\s*(?:is|are|was|were) .*?([\w-]+)\s*\?\s*", pair.question.casefold())
    if wanted not in ("yes", "no") or not asked or re.search(r"\b(?:or|not|than|both|all)\b|n't", pair.question.casefold()):
        return None
    for part in inner_answers(pair.said, pair.question):
        finding = closed_vocabulary(Pair(part, asked[1]))
        if finding is not None:
            return "same" if (finding == "same") == (wanted == "yes") else "different"
    return None


_READ = re.compile(r"\b(?:who|whom|whose|name|brand|make|company|author|title|artist|manufacturer)\b", re.IGNORECASE)


def other_name(pair: Pair) -> Finding | None:
    """Names of persons and brands of which no word begins like a word of the other: neither is short for the other."""
    said, wanted = words(pair.said), words(pair.wanted)
    if not _READ.search(pair.question) or re.search(r"\b(?:type|kind|colou?r|country|state)\b", pair.question, re.IGNORECASE):
        return None
    if not (1 <= len(said) <= 4 and 1 <= len(wanted) <= 4) or hedged(pair.said) or refuses(pair.said) or refuses(pair.wanted):
        return None
    names = all(re.fullmatch(r"(?:[A-Z][\w.&'’-]*\s*)+", text.strip()) for text in (pair.said, pair.wanted))
    if not names and not (len(said) == len(wanted) == 1 and _ONE_WORD.search(pair.question)):
        return None
    letters = "".join(said + wanted)
    if not letters.isalpha() or not letters.isascii() or min(len("".join(said)), len("".join(wanted))) < 4:
        return None
    apart = not {w[0] for w in said} & {w[0] for w in wanted}
    return "different" if apart and set("".join(said)) != set("".join(wanted)) else None


_ONE_WORD = re.compile(r"\bbrand\b|\bname\b", re.IGNORECASE)


_TO_BE_READ = re.compile(r"\b(?:says?|written|words?|text|reads?|names?|labels?|titles?|called|logo|brand)\b", re.IGNORECASE)


_SHORT_DAY = re.compile(r"\b(?:sun|sat|mon|wed|mar|may|jun|dec)\b")
_WHEN = re.compile(r"\b(?:day|days|weekday|week|when|date|month|months)\b", re.IGNORECASE)


def closed_vocabulary(pair: Pair) -> Finding | None:
    """Different where both texts are words of one closed group, same where the group holds them for one."""
    if _TO_BE_READ.search(pair.question):
        return None  # what is written is not what is meant
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    if said != wanted and _SHORT_DAY.search(f"{said} {wanted}") and not _WHEN.search(pair.question):
        return None  # sun, mar, may
    for group in _GROUPS:
        a, b = _index(group, said), _index(group, wanted)
        if a is not None and b is not None:
            return "same" if a == b else "different"
    return None


_DIGITS = re.compile(r"\d+")


def other_digits(pair: Pair) -> Finding | None:
    """ "Room 12" is not "Room 14", "AB-123" not "AB-124": texts that differ in their whole numbers alone."""
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    if re.fullmatch(r"\d{4}-\d{4}", said) and re.fullmatch(r"\d{4}-\d{4}", wanted):
        return "different"  # spans of years; equal ones are the same text
    in_said, in_wanted = _DIGITS.findall(said), _DIGITS.findall(wanted)
    if not in_wanted or len(in_said) != len(in_wanted) or hedged(pair.said) or re.search(r"[()+*/=^\\]", said + wanted):
        return None
    bare_said, bare_wanted = (re.sub(r"[\W_]+", "", _DIGITS.sub("0", t)) for t in (said, wanted))
    if bare_said != bare_wanted or not bare_wanted.strip("0"):
        return _other_code(said.split(), wanted.split())
    return None if [d.lstrip("0") for d in in_said] == [d.lstrip("0") for d in in_wanted] else "different"


def _other_code(said: list[str], wanted: list[str]) -> Finding | None:
    """ "Exit 14B" is not "Exit 14A": the same words but for those with a digit and a letter in them."""
    if len(said) != len(wanted):
        return None
    unlike = [(a, b) for a, b in zip(said, wanted, strict=True) if a != b]
    codes = all(re.fullmatch(r"(?=.*\d)(?=.*[a-z])[a-z0-9]+", word) for pair in unlike for word in pair)
    return "different" if unlike and codes else None


_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?://|www\.)\S+")


def other_address(pair: Pair) -> Finding | None:
    """Mail and web addresses are equal or not."""
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    return "different" if said != wanted and _ADDRESS.fullmatch(said) and _ADDRESS.fullmatch(wanted) else None
