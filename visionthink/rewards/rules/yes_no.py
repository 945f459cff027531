"""Answers out of a few: yes and no, and refusals."""

import re

from visionthink.rewards.rules.choice import options
from visionthink.rewards.rules.text import CJK, Finding, Pair, contains, negated, normalise, says, words
from visionthink.rewards.rules.word_lists import FILLERS, NO, REFUSALS, TAKES_BACK, UNANSWERABLE, YES

_FIRST = re.compile(rf"({'|'.join(sorted(YES | NO, key=len, reverse=True))})(?=$|\s*[,.;:!。])")  # "no idea" is neither
_BEFORE = re.compile(
    r"^(?:(?:i am )?sorry|unfortunately|it|this|that|answer|value|text|image|date|name)\b(?: is)?(?: but)?,?\s+(?:but )?"
)


def yes_or_no(pair: Pair) -> Finding | None:
    """Yes and no, true and false, also where a sentence follows that only repeats the question, or says why not."""
    wanted, said = normalise(pair.wanted), normalise(pair.said)
    match = _FIRST.match(said)
    if wanted not in YES | NO or not match:
        return None
    agrees, rest = match[1] in YES, said[match.end() :]
    new = set(words(rest)) - set(words(pair.question)) - FILLERS
    opposite = any(contains(rest, word) for word in (NO if agrees else YES) if len(word) > 1)
    turns = opposite or (agrees and (new or negated(rest))) or says(rest, TAKES_BACK)
    if rest and (turns or negated(re.sub(r"\byes or no\b", "", pair.question.casefold()))):
        return "unsure"
    return "same" if agrees == (wanted in YES) else "different"


def _refuses(text: str) -> bool:
    """Whether a text begins by declining, and does not answer afterwards."""
    plain = re.sub(r"\bcan't\b", "cannot", normalise(text)).replace("n't", " not").replace("i'm ", "i am ")
    plain = _BEFORE.sub("", plain)
    begins = any(plain == r or plain.startswith(f"{r} ") or (plain.startswith(r) and re.match(f"[{CJK}]", r)) for r in REFUSALS)
    return begins and len(plain.split()) <= 25 and not says(plain, TAKES_BACK)


def refusal(pair: Pair) -> Finding | None:
    """Declining is no answer; where the reference declines, so must the answer."""
    said, wanted = (_refuses(text) for text in pair.texts)
    declined = normalise(pair.wanted) in UNANSWERABLE
    if not (said or declined) or options(pair.question) or _refuses(pair.question):
        return None
    if said and declined:
        return "unsure" if set(re.findall(r"\d+", pair.said)) - set(re.findall(r"\d+", pair.question)) else "same"
    if declined:
        short = re.fullmatch(r"[\w\s.,:/$€£%°-]+", pair.said) and len(pair.said.split()) <= 4
        return "different" if short and not negated(pair.said) and not re.match(r"n\.?a", pair.said, re.IGNORECASE) else "unsure"
    denies = negated(pair.wanted) or normalise(pair.wanted) in YES | NO | {"0", "zero", "none", "nobody", "n/a", "na"}
    return "unsure" if wanted or denies or contains(normalise(pair.said), normalise(pair.wanted)) else "different"
