"""Answers out of a few: yes and no, and refusals."""

import re

from visionthink.rewards.rules.choice import options
from visionthink.rewards.rules.text import CJK, Finding, Pair, contains, negated, normalise, says, words
from visionthink.rewards.rules.word_lists import (
    DECLINES,
    FILLERS,
    LACKS,
    NO,
    READ,
    REFUSALS,
    TAKES_BACK,
    TRUTH,
    UNANSWERABLE,
    YES,
)

_FIRST = re.compile(rf"({'|'.join(sorted(YES | NO, key=len, reverse=True))})(?=$|\s*[,.;:!。])")  # "no idea" is neither
_POLAR = re.compile(
    r"(?:^|[.,;:!?]\s*|\band\s+)(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b|yes or no|[吗嗎か까]"
)
_DECLINING = DECLINES | FILLERS | {"ca", "i"} | {word for phrase in REFUSALS for word in words(phrase)}
_BEFORE = re.compile(
    r"^(?:(?:i am )?sorry|unfortunately|it|this|that|answer|value|text|image|date|name)\b(?: is)?(?: but)?,?\s+(?:but )?"
)


def yes_or_no(pair: Pair) -> Finding | None:
    """Yes and no, true and false, also where a sentence follows that only repeats the question, or says why not."""
    wanted, said = normalise(pair.wanted), normalise(pair.said)
    match = _FIRST.match(said)
    if wanted not in YES | NO or not match:
        return None
    question, families = pair.question.casefold(), {word in TRUTH for word in (wanted, match[1])}
    if question and not (_POLAR.search(question) or says(question, TRUTH)):
        return None  # what is written is not what is meant
    if len(families) > 1 and says(question, TRUTH | {"wrong", "untrue", "not"}):
        return "unsure"  # "Is it false?"
    agrees, rest = match[1] in YES, said[match.end() :]
    new = set(words(rest)) - set(words(pair.question)) - FILLERS
    opposite = any(contains(rest, word) for word in (NO if agrees else YES) if len(word) > 1)
    turns = opposite or (agrees and (new or negated(rest))) or says(rest, TAKES_BACK)
    if rest and (turns or negated(re.sub(r"\byes or no\b", "", question))):
        return "unsure"
    return "same" if agrees == (wanted in YES) else "different"


def _refuses(text: str) -> bool:
    """Whether a text begins by declining, and does not answer afterwards."""
    plain = re.sub(r"\bcan't\b", "cannot", normalise(text)).replace("n't", " not").replace("i'm ", "i am ")
    plain = _BEFORE.sub("", plain)
    begins = any(plain == r or plain.startswith(f"{r} ") or (plain.startswith(r) and re.match(f"[{CJK}]", r)) for r in REFUSALS)
    return begins and len(plain.split()) <= 25 and not says(plain, TAKES_BACK)


def _only_refuses(text: str, question: str) -> bool:
    """Whether what else it says adds nothing."""
    said = set(words(re.sub("n['’]t|['’]m", " ", text)))
    return not re.search(r"[:;]", text) and said <= _DECLINING | set(words(question))


def refusal(pair: Pair) -> Finding | None:
    """Declining is no answer; where the reference declines, so must the answer."""
    said, wanted = (_refuses(text) for text in pair.texts)
    declined = normalise(pair.wanted) in UNANSWERABLE
    if says(pair.question, READ) or not (said or declined) or options(pair.question) or _refuses(pair.question):
        return None
    if said and not _only_refuses(pair.said, pair.question):
        return "unsure"
    if said and declined:
        return "same"
    if declined:
        value = re.fullmatch(r"[$€£]?[A-Za-z\d][A-Za-z\d\s.,:/$€£%°-]*", pair.said) and len(pair.said.split()) <= 4
        return "different" if value and not negated(pair.said) and not says(pair.said, LACKS | DECLINES) else "unsure"
    denies = negated(pair.wanted) or normalise(pair.wanted) in YES | NO | {"0", "zero", "none", "nobody", "n/a", "na"}
    return "unsure" if wanted or denies or contains(normalise(pair.said), normalise(pair.wanted)) else "different"
