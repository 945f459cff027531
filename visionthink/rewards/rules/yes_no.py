"""Yes and no, true and false."""

from __future__ import annotations

import re

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.text import ARTICLES, NEGATION, YES_NO, contains, normalise, stems, words

_FIRST_YES_NO = re.compile(rf"({'|'.join(YES_NO)})(?=$|\s*[,.;:!])")  # "no idea" is neither
_PLAIN_START = re.compile(r"(yes|no) (?:there|it|they|he|she|this|that|these|those|both|all|i)\b")
_TAKES_BACK = re.compile(
    r"\b(?:however|although|or|actually|wait|rather|unless|doubt|way|matter|problem|wrong|scratch|mean|sorry|correction)\b|"
    r"\.\.\.|and (?:yes|no)\b"
)
_THERE = re.compile(r"\s*(?:(?:is|are) there|(?:can|do) you see) (?:an?|any|some)\s+(?P<what>[^?]+)", re.IGNORECASE)
_THERE_IS = re.compile(
    r"(?:there (?:is|are)|i (?:can )?see|i)"
    r"(?P<no> no\b| not any\b|n['’]t (?:an?|any)\b| (?:do not|don['’]t|cannot|can['’]t) see(?: any)?\b)?"
    r"(?: (?:an?|any|some|one|two|three|several|many))? (?P<what>.*)"
)
_PLACE = re.compile(r"\b(?:in|on|at|near|by|behind|under|above|below|next|beside|inside|outside|between|visible|with|without)\b")
_WHOLE = frozenset("in of on the image picture photo scene here shown visible this at all".split())
_ASKED = re.compile(r"\s*(?:is|are|was|were|does|do|did|has|have|can)\s+(.+?)\?\s*$", re.IGNORECASE)
_AUXILIARIES = "is are was were does do did has have can not no it they he she this that these those there any"
_LITTLE = frozenset(_AUXILIARIES.split())


def _there(question: str, said: str) -> Finding | bool | None:
    """Whether something is there, where an answer says so of what was asked about; unsure where it speaks of something else."""
    asked, match = _THERE.match(question), _THERE_IS.match(said)
    if not asked or not match:
        return None
    what, place = _parted(asked["what"])
    seen = re.split("[,;]", match["what"])[0]
    thing, where = _parted(seen)
    if not what or stems(thing) != stems(what) or _NUMBERS_OR_MORE.search(seen):
        return "unsure"
    where, place = [w for w in where if w not in _WHOLE], [w for w in place if w not in _WHOLE]
    if match["no"]:  # none at that place is not none at all
        return False if where == place or not where else "unsure"
    return True if where == place or not place else "unsure"


_NUMBERS_OR_MORE = re.compile(r"\b(?:no|not|none|zero|only|but|except|without|besides?|other)\b")


def _parted(text: str) -> tuple[list[str], list[str]]:
    """(what, where): words before the first word of place, and from it on."""
    match = _PLACE.search(text)
    split = match.start() if match else len(text)
    where = [w for w in words(text[split:]) if w not in ARTICLES]
    return [w for w in words(text[:split]) if w not in ARTICLES], where


def _echo(question: str, said: str) -> bool | None:
    """Whether an answer repeats what was asked ("The form does not carry a signature"), or denies it; None for all others."""
    asked = _ASKED.match(question)
    spoken = words(re.sub(r"n['’]t\b", " not", said))
    if not asked or not spoken or spoken[0] in YES_NO or NEGATION.search(asked[1].casefold()):
        return None
    content = [w for w in words(normalise(asked[1])) if w not in _LITTLE]
    left = [w for w in spoken if w not in _LITTLE and w not in ARTICLES]
    pronoun = spoken[0] in ("it", "they", "he", "she") and len(content) > 1
    if left != content and not (pronoun and left and left == content[-len(left) :] and len(left) >= len(content) - 1):
        return None
    negations = sum(w in ("not", "no", "never") for w in spoken)
    return None if negations > 1 else negations == 0


def yes_or_no(pair: Pair) -> Finding | None:
    """Yes and no, true and false, also where a sentence follows that does not take it back."""
    wanted = normalise(pair.wanted)
    if wanted not in ("yes", "no", "true", "false"):
        return None
    said = normalise(pair.said)
    for value in (_there(pair.question, said), _echo(pair.question, said)):
        if value == "unsure":
            return "unsure"
        if isinstance(value, bool):
            return "same" if value == YES_NO[wanted] else "different"
    if not (match := _FIRST_YES_NO.match(said) or _PLAIN_START.match(said)):
        return None
    agrees, rest = YES_NO[match[1]], said[match.end(1) :]
    asked = re.sub(r"\b(?:please )?(?:answer )?(?:with )?yes or no\b", "", pair.question.casefold())
    if any(contains(rest, w) for w, v in YES_NO.items() if v != agrees) or _TAKES_BACK.search(rest):
        return "unsure"
    if re.match(r"\.\s*\d", rest) or NEGATION.search(asked) or (agrees and NEGATION.search(rest)):
        return "unsure"
    return "same" if agrees == YES_NO[wanted] else "different"
