"""Answers that decline, and answers of none."""

from __future__ import annotations

import re

from visionthink.rewards.rules.finding import Finding, Pair
from visionthink.rewards.rules.text import YES_NO, contains, hedged, normalise, words

_REFUSAL = re.compile(
    r"\b(?:i (?:do not|don['’]t|cannot|can['’]t|could not|am unable|am not able|am not sure)|"
    r"i['’]?m (?:unable|not able|not sure|sorry)|"
    r"(?:cannot|can['’]t|could not|can not|impossible to|not possible to|unable to|hard to) (?:be )?"
    r"(?:determined?|answer(?:ed)?|read|seen?|tell|say|identif(?:y|ied)|know)n?|"
    r"not enough information|insufficient information|no idea|no data|too blurry|illegible|unreadable|"
    r"not (?:visible|legible|shown|given|specified|provided|known|answerable)|"
    r"(?:does not|do not|doesn['’]t) (?:list|show|say|state|give|contain|mention|specify|provide|indicate)\b)\b|"
    r"^(?:unknown|n/a|n\.a\.?|not applicable|undetermined|unanswerable|unsuitable(?: image)?)$",
)
_NONE = ("none", "nothing", "nobody", "none of them", "none of these")


_SORRY = re.compile(r"^(?:i['’]m |i am )?(?:sorry|i apologi[sz]e)(?: for \w+ \w+| about \w+ \w+)?,?(?: but)?\s*")


def refuses(text: str) -> bool:
    """Whether the text declines to answer, and nothing else."""
    text = _SORRY.sub("", normalise(text))
    return bool(_REFUSAL.search(text)) and not re.search(r"\b(?:but|however|although|appears to be|looks like|answer is)\b", text)


def refusal(pair: Pair) -> Finding | None:
    """Declining is no answer; where the reference declines, so must the answer."""
    if refuses(pair.question):
        return None  # one of the options
    said, wanted = refuses(pair.said), refuses(pair.wanted)
    reference = normalise(pair.wanted)
    if said and reference in YES_NO and not _CANNOT_TELL.search(normalise(pair.said)):
        return None  # "It is not given" answers "Is it given?"
    if said and reference in ("0", "zero", *_NONE) and not _CANNOT_TELL.search(normalise(pair.said)):
        return None
    unanswerable = normalise(pair.wanted) in _UNANSWERABLE
    if said and unanswerable:
        claims = set(re.findall(r"\d+", pair.said)) - set(re.findall(r"\d+", pair.question))
        return "unsure" if claims or _GUESSES.search(normalise(pair.said)) or len(pair.said.split()) > 25 else "same"
    if unanswerable and not hedged(pair.said) and not _DECLINES.search(normalise(pair.said)):
        return "different"
    if said and wanted:
        if contains(normalise(pair.said), normalise(pair.wanted)) and not _bare_refusal(pair.said, pair.question):
            return "unsure"
        plain = len(words(pair.wanted)) <= 4 and _bare_refusal(pair.wanted, pair.question)
        return "same" if plain and _bare_refusal(pair.said, pair.question) else "unsure"
    if said:
        denies = (hedged(reference) and len(reference.split()) > 1) or reference in _NONE
        declines = _bare_refusal(pair.said, pair.question) or _FIRST_PERSON.match(normalise(pair.said))
        return "unsure" if denies or contains(normalise(pair.said), reference) or not declines else "different"
    if wanted:
        if contains(normalise(pair.said), normalise(pair.wanted)):
            return "unsure"
        return "unsure" if hedged(pair.said) or len(words(pair.wanted)) > 4 or len(pair.said.split()) > 6 else "different"
    return None


_UNANSWERABLE = ("unanswerable", "not answerable", "unsuitable", "unsuitable image", "cannot be determined")
_GUESSES = re.compile(
    r"\b(?:but|however|although|though|likely|probably|possibly|appears?|seems?|looks?|maybe|perhaps|guess|around|approximately|"
    r"could be|might|may|assum\w+|estimate\w*)\b|[\"“]"
)
_DECLINES = re.compile(
    r"\b(?:unclear|unknown|blurr\w+|dark|missing|empty|blank|unable|impossible|only|sorry|please|lacks?|without|insufficient|"
    r"unanswerable|unreadable|undetermined|unspecified|image|photo|picture)\b"
)

_CANNOT_TELL = re.compile(
    r"(?:cannot|can['’]t|could not|unable to|not able to|impossible to|not possible to|hard to|no way to|not sure|do not know|"
    r"don['’]t know) ?(?:be )?"
    r"(?:determine|answer|tell|say|know|identif|view|process|see the (?:image|picture|photo)|make out|$|if|whether)|"
    r"not enough information|insufficient information|no idea|as an ai"
)
"""About the answer, not about what is in the picture."""

_OF_A_REFUSAL = frozenset(
    (
        "i s do not don t cannot can could am unable able sure sorry m but be is it this that the a an to from of in on for or "
        "and as any by determine determined answer answered read seen see tell say identify identified know known impossible "
        "possible hard enough too information insufficient no idea data blurry visible legible shown given specified provided "
        "unknown n image picture photo document chart figure question there what who where which how so text list show state "
        "give contain mention specify provide indicate does answerable unanswerable undetermined field says"
    ).split()
)
_FIRST_PERSON = re.compile(
    r"(?:i|as an ai|it is (?:not possible|impossible)|unanswerable|there is (?:not enough|insufficient))\b"
)


def _bare_refusal(text: str, question: str) -> bool:
    """Whether a text that declines says nothing else, but for words of the question."""
    asked = set(words(question))
    return set(words(text)) <= _OF_A_REFUSAL | asked | {f"{w}s" for w in asked}


_NUMBERS = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|some|all|but|except|however|only|not|and|besides?|apart|aside|other)\b|[,;]"
)
_SAYS_NONE = re.compile(
    r"(?:none|nothing|nobody|zero)(?: of (?:them|these|those|the (?P<group>\w+))(?: .*)?)?|"
    r"(?:there (?:is|are) |i (?:can )?see )?no (?P<noun>\w+)(?: .*)?|"
    r"i (?:do not|don['’]t|cannot|can['’]t) see any (?P<unseen>\w+)(?: .*)?"
)


def none(pair: Pair) -> Finding | None:
    """A reference of none, or of a count of zero: "None of the countries did", "There are no cars"."""
    wanted, said = normalise(pair.wanted), normalise(pair.said)
    counts = wanted in ("0", "zero") and re.search(r"\bhow many\b", pair.question, re.IGNORECASE)
    if wanted not in _NONE and not counts:
        return None
    match = _SAYS_NONE.fullmatch(said)
    if match and not _NUMBERS.search(said):
        noun, asked = match["noun"] or match["group"] or match["unseen"], set(words(pair.question))
        if noun is None or {noun, f"{noun}s", noun.removesuffix("s"), noun.removesuffix("y") + "ies"} & asked:
            return "same"
        return "unsure"
    if counts:
        return None
    plain = len(said.split()) <= 4 and not hedged(said) and not re.search(r"\b(?:no|none|nothing|nobody|zero|0|empty)\b", said)
    return "different" if plain else "unsure"
