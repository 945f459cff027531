"""Text as people write it: normal forms, refusals and hedges, yes and no."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from visionthink.rewards.rules.finding import Finding, Pair

_ARTICLES = ("a", "an", "the")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")


def normalise(text: str) -> str:
    """Case, accents' encoding, kinds of dashes, white space, articles and closing punctuation do not change an answer."""
    plain = unicodedata.normalize("NFKC", _RAISED.sub(_written_out, text)).translate(_DASHES)
    words = plain.casefold().strip(" \t\r\n\"'`“”‘’*.!;,").split()
    return " ".join(w for w in words if w not in _ARTICLES) or " ".join(words)  # "A" may be a choice


_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+|[₀₁₂₃₄₅₆₇₈₉]+")


def _written_out(raised: re.Match[str]) -> str:
    """10³ is not 103."""
    return ("^" if raised[0][0] not in "₀₁₂₃₄₅₆₇₈₉" else "_") + unicodedata.normalize("NFKC", raised[0])


def skeleton(text: str) -> str:
    """Words of a plain name with hyphens, commas and the dots of abbreviations left out, else "". Whatever may carry meaning
    (signs, accents, digits beside each other, addresses) has no skeleton."""
    plain = normalise(text)
    if not re.fullmatch(r"[a-z0-9][a-z0-9 .,-]*", plain) or sum(c.isalpha() for c in plain) < 3:
        return ""
    if re.search(r"\d[ .,-]+\d|(?:^|\s)-|\.(?=[^\s.,])(?!\w\.)|\w{5,}\.\S", plain):
        return ""
    spelled = re.sub(r"is(?=ation|ed\b|ing\b)", "iz", re.sub(r"[.,]", "", plain).replace("-", " "))
    for british, american in (("grey", "gray"), ("colour", "color"), ("centre", "center"), ("metre", "meter")):
        spelled = spelled.replace(british, american)
    return re.sub(r"\b([a-z]) (?=[a-z]\b)", r"\1", " ".join(spelled.split()))  # J. K. is J.K.


_NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|without|except|cannot)\b|n['’]t\b")
_HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|either|might|may|could|unsure|likely|but|unless|rather|instead|between|"
    r"more than|less than|fewer than|greater than|at least|at most|up to|over|under|below|above|nearly|almost|from)\b|\?"
)


def hedged(text: str) -> bool:
    """Whether the text denies something, compares, or offers more than one answer."""
    text = re.sub(r"\bMay\b", "", text).casefold()  # the month
    return bool(_NEGATION.search(text) or _HEDGE.search(text))


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def stems(found: Iterable[str]) -> list[str]:
    """Words without their common endings; crude, to compare a sentence with its question."""
    return [re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 3 else word for word in found]


_REFUSAL = re.compile(
    r"\b(?:i (?:do not|don['’]t|cannot|can['’]t|could not|am unable|am not able|am not sure)|"
    r"i['’]?m (?:unable|not able|not sure|sorry)|"
    r"(?:cannot|can['’]t|could not|can not|impossible to|not possible to|unable to|hard to) (?:be )?"
    r"(?:determined?|answer(?:ed)?|read|seen?|tell|say|identif(?:y|ied)|know)n?|"
    r"not enough information|insufficient information|no idea|no data|too blurry|illegible|unreadable|"
    r"not (?:visible|legible|shown|given|specified|provided|known|answerable)|"
    r"(?:does not|do not|doesn['’]t) (?:list|show|say|state|give|contain|mention|specify|provide|indicate)\b)\b|"
    r"^(?:unknown|n\.?/?a|undetermined|unanswerable|unsuitable(?: image)?)$",
)
_NONE = ("none", "nothing", "nobody", "none of them", "none of these")


_SORRY = re.compile(r"^(?:i['’]m |i am )?(?:sorry|i apologi[sz]e)(?: for \w+ \w+| about \w+ \w+)?,?(?: but)?\s*")


def refuses(text: str) -> bool:
    """Whether the text declines to answer, and nothing else."""
    text = _SORRY.sub("", normalise(text))
    return bool(_REFUSAL.search(text)) and not re.search(r"\b(?:but|however|although|appears to be|looks like|answer is)\b", text)


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
    return bool(part) and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def same_text(pair: Pair) -> Finding | None:
    """Equal after normalisation, or but for hyphens, commas and the dots of abbreviations."""
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    if not said:
        return "different"
    if said == wanted:
        return _case_matters(pair) or "same"
    bare = skeleton(pair.said)
    return "same" if bare and bare == skeleton(pair.wanted) else None


def _case_matters(pair: Pair) -> Finding | None:
    """mW and MW, CO and Co: texts that differ in case alone and are short, or a number with a unit."""
    said, wanted = (text.strip(" \t\r\n\"'`“”‘’*.!;,") for text in (pair.said, pair.wanted))
    if said == wanted:
        return None
    if re.search(r"\d", said):
        return "unsure" if re.search(r"\d\s*[^\W\d]{1,3}\b", said) else None
    formula = re.fullmatch(r"[A-Za-z]{2}", said) and said.casefold() not in _YES_NO
    return "unsure" if formula and not said.islower() and not wanted.islower() else None


def refusal(pair: Pair) -> Finding | None:
    """Declining is no answer; where the reference declines, so must the answer."""
    if refuses(pair.question):
        return None  # one of the options
    said, wanted = refuses(pair.said), refuses(pair.wanted)
    if _CANNOT_SEE.match(normalise(pair.said)) and normalise(pair.wanted) in _YES_NO:
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
        reference = normalise(pair.wanted)
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
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|some|all|but|except|however|only|not|and)\b|[,;]"
)
_SAYS_NONE = re.compile(
    r"(?:none|nothing|nobody|zero)(?: of (?:them|these|those|the (?P<group>\w+))(?: .*)?)?|"
    r"(?:there (?:is|are) )?no (?P<noun>\w+)(?: .*)?"
)


def none(pair: Pair) -> Finding | None:
    """A reference of none, or of a count of zero: "None of the countries did", "There are no cars"."""
    wanted, said = normalise(pair.wanted), normalise(pair.said)
    counts = wanted in ("0", "zero") and re.search(r"\bhow many\b", pair.question, re.IGNORECASE)
    if wanted not in _NONE and not counts:
        return None
    match = _SAYS_NONE.fullmatch(said)
    if match and not _NUMBERS.search(said):
        noun, asked = match["noun"] or match["group"], set(words(pair.question))
        if noun is None or {noun, f"{noun}s", noun.removesuffix("s"), noun.removesuffix("y") + "ies"} & asked:
            return "same"
        return "unsure"
    if counts:
        return None
    plain = len(said.split()) <= 4 and not hedged(said) and not re.search(r"\b(?:no|none|nothing|nobody|zero|0|empty)\b", said)
    return "different" if plain else "unsure"


_YES_NO = {"yes": True, "yeah": True, "yep": True, "no": False, "nope": False, "true": True, "false": False}
_CANNOT_SEE = re.compile(r"no[,.] i (?:do not|don['’]t|cannot|can['’]t) see (?:any|an?)\b")
_FIRST_YES_NO = re.compile(rf"({'|'.join(_YES_NO)})(?=$|\s*[,.;:!])")  # "no idea" is neither
_PLAIN_START = re.compile(r"(yes|no) (?:there|it|they|he|she|this|that|these|those|both|all|i)\b")
_TAKES_BACK = re.compile(
    r"\b(?:however|although|or|actually|wait|rather|unless|doubt|way|matter|problem|wrong|scratch|mean|sorry|correction)\b|"
    r"\.\.\.|and (?:yes|no)\b"
)
_THERE = re.compile(r"\s*(?:(?:is|are) there|(?:can|do) you see) (?:an?|any|some)\s+(?P<what>[^?]+)", re.IGNORECASE)
_THERE_IS = re.compile(r"there (?:is|are)(?P<no> no\b| not any\b|n['’]t (?:an?|any)\b)?(?P<what>.*)")
_ASKED = re.compile(r"\s*(?:is|are|was|were|does|do|did|has|have|can)\s+(.+?)\?\s*$", re.IGNORECASE)
_AUXILIARIES = "is are was were does do did has have can not no it they he she this that these those there any"
_LITTLE = frozenset(_AUXILIARIES.split())


def _there(question: str, said: str) -> Finding | bool | None:
    """Whether something is there, where an answer says so of what was asked about; unsure where it speaks of something else."""
    asked, match = _THERE.match(question), _THERE_IS.match(said)
    if not asked or not match:
        return None
    what = words(re.split(r"\b(?:in|on|at|near|visible|behind|under|next)\b", asked["what"])[0])
    rest = words(match["what"])
    if not what or [w for w in what if w not in rest] or {"no", "not", "none", "zero", "only", "but", "t"} & set(rest):
        return "unsure"
    return match["no"] is None


def _echo(question: str, said: str) -> bool | None:
    """Whether an answer repeats what was asked ("The form does not carry a signature"), or denies it; None for all others."""
    asked = _ASKED.match(question)
    spoken = words(re.sub(r"n['’]t\b", " not", said))
    if not asked or not spoken or spoken[0] in _YES_NO or _NEGATION.search(asked[1].casefold()):
        return None
    content = [w for w in words(normalise(asked[1])) if w not in _LITTLE]
    left = [w for w in spoken if w not in _LITTLE and w not in _ARTICLES]
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
            return "same" if value == _YES_NO[wanted] else "different"
    if not (match := _FIRST_YES_NO.match(said) or _PLAIN_START.match(said)):
        return None
    agrees, rest = _YES_NO[match[1]], said[match.end(1) :]
    asked = re.sub(r"\b(?:please )?(?:answer )?(?:with )?yes or no\b", "", pair.question.casefold())
    if any(contains(rest, w) for w, v in _YES_NO.items() if v != agrees) or _TAKES_BACK.search(rest):
        return "unsure"
    if re.match(r"\.\s*\d", rest) or _NEGATION.search(asked) or (agrees and _NEGATION.search(rest)):
        return "unsure"
    return "same" if agrees == _YES_NO[wanted] else "different"
