"""Text as people write it: normal forms, the answer inside a sentence, refusals and hedges."""

from __future__ import annotations

import re
import unicodedata

from visionthink.protocol import extract_answer
from visionthink.rewards.rules.finding import Finding, Pair

_ARTICLES = ("a", "an", "the")
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−"), "-")


def normalise(text: str) -> str:
    """Case, accents' encoding, kinds of dashes, white space, articles and closing punctuation do not change an answer."""
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES)
    words = plain.casefold().strip(" \t\r\n\"'`“”‘’*.!;,").split()
    return " ".join(w for w in words if w not in _ARTICLES) or " ".join(words)  # "A" may be a choice


def skeleton(text: str) -> str:
    """Letters and digits alone, without accents, of a text that has at least three letters; else "". Hyphens, dots and spaces do
    not tell names apart; signs tell numbers apart, so a text with a sign before a digit has no skeleton."""
    plain = unicodedata.normalize("NFKD", normalise(text))
    bare = "".join(c for c in plain if c.isalnum())
    if sum(c.isalpha() for c in bare) < 3 or re.search(r"(?:^|\s)[+-]\s*\d|\d[.,/:-]\d|[=<>^]", plain):
        return ""
    return re.sub(r"is(?=ation|ed\b|ing\b)", "iz", bare)


_LEAD_IN = re.compile(
    r"^(?:so|thus|therefore|hence)?,?\s*(?:the|my)?\s*(?:final|correct|right)?\s*answer\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE
)
_CONCLUSION = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|must be|:)\s*:?\s*(?P<rest>[^.;:]+)\.?$|"
    r"\b(?:so|thus|therefore|hence),?\s+(?P<short>(?:\w|['’])+)\.?$",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"^(\*\*|__|`|\"|')(.+)\1$", re.DOTALL)


def final_answer(text: str) -> str:
    r"""Without what answers are wrapped in: tags, the last `\boxed{}`, bold or quotes, "The answer is"."""
    text = re.sub(r"\*\*(.+?)\*\*", r"\1", extract_answer(text))
    if wrapped := re.fullmatch(r"\\text\s*\{([^{}]*)\}", text):
        text = wrapped[1].strip()
    while (shorter := _LEAD_IN.sub("", _MARKUP.sub(r"\2", text)).strip()) != text:
        text = shorter
    return text


_NEGATION = re.compile(r"\b(?:not|no|never|none|neither|nor|without|except|cannot)\b|n['’]t\b")
_HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|either|might|may|could|unsure|likely|but|unless|rather|instead|between|"
    r"more than|less than|fewer than|greater than|at least|at most|up to|over|under|below|above|nearly|almost|from)\b|\?"
)
_SAYS = re.compile(r"\b(?:is|are|was|were|has|have|shows?|says?|reads?|equals?|see|count|peaked in|belongs to)\s+", re.IGNORECASE)
_THEREFORE = re.compile(r"[,;]?\s*\b(?:so|therefore|thus|hence)\b,?\s*", re.IGNORECASE)


def hedged(text: str) -> bool:
    """Whether the text denies something, compares, or offers more than one answer."""
    text = text.casefold()
    return bool(_NEGATION.search(text) or _HEDGE.search(text))


def inner_answers(text: str) -> list[str]:
    """What a sentence comes down to: its conclusion ("..., so the answer is B"), or its predicate ("The car is red"). Nothing
    where that part is hedged; a predicate also not where the whole sentence is."""
    found = []
    if match := _CONCLUSION.search(text):
        rest = (match["rest"] or match["short"]).strip()
        if len(rest.split()) <= 8 and not hedged(rest):
            found.append(rest)
    elif not hedged(text):
        clause = _THEREFORE.split(text.strip().rstrip("."))[-1]
        said = _SAYS.split(clause)
        if len(said) == 2 and said[0] and not re.search(r"[;:]\s|\.\s", said[1]):
            found.append(re.sub(r"^(?:written in|made of|labell?ed|dated|addressed to)\s+", "", said[1].strip()))
    return [rest for rest in found if rest and rest != text]


_REFUSAL = re.compile(
    r"\b(?:i (?:do not|don['’]t|cannot|can['’]t|could not|am unable|am not able|am not sure)|"
    r"i['’]?m (?:unable|not able|not sure|sorry)|"
    r"(?:cannot|can['’]t|could not|can not|impossible to|not possible to|unable to|hard to) (?:be )?"
    r"(?:determined?|answer(?:ed)?|read|seen?|tell|say|identif(?:y|ied)|know)n?|"
    r"not enough information|insufficient information|no idea|no data|too blurry|"
    r"not (?:visible|legible|shown|given|specified|provided|known|answerable)|"
    r"(?:does not|do not|doesn['’]t) (?:list|show|say|state|give|contain|mention|specify|provide|indicate)\b)\b|"
    r"^(?:unknown|n\.?/?a|undetermined|unanswerable)$",
)
_NONE = ("none", "nothing", "nobody", "none of them", "none of these")


def refuses(text: str) -> bool:
    """Whether the text declines to answer, and nothing else."""
    text = normalise(text)
    return bool(_REFUSAL.search(text)) and not re.search(r"\b(?:but|however|although|appears to be|looks like|answer is)\b", text)


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
    return bool(part) and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def same_text(pair: Pair) -> Finding | None:
    """Equal after normalisation, or but for hyphens, dots and accents."""
    said, wanted = normalise(pair.said), normalise(pair.wanted)
    if said == wanted and said:
        return "same"
    if not said:
        return "different"
    bare = skeleton(pair.said)
    return "same" if bare and bare == skeleton(pair.wanted) else None


def refusal(pair: Pair) -> Finding | None:
    """Declining is no answer; where the reference declines, so must the answer."""
    if refuses(pair.question):
        return None  # one of the options
    said, wanted = refuses(pair.said), refuses(pair.wanted)
    if said or wanted:
        if said and wanted:
            return "same"
        if said:
            reference = normalise(pair.wanted)
            denies = (hedged(reference) and len(reference.split()) > 1) or reference in _NONE
            return "unsure" if denies or contains(normalise(pair.said), reference) else "different"
        return "unsure" if hedged(pair.said) or len(pair.said.split()) > 6 else "different"
    return None


_SAYS_NONE = re.compile(
    r"(?:none|nobody|nothing|zero|no (?!idea|doubt|longer|other|more|less|fewer|matter)\w+|there (?:is|are) no)\b"
)


def none(pair: Pair) -> Finding | None:
    """A reference of none, or of a count of zero: "None of the countries did", "There are no cars"."""
    wanted, said = normalise(pair.wanted), normalise(pair.said)
    counts = wanted in ("0", "zero") and re.search(r"\bhow many\b", pair.question, re.IGNORECASE)
    if wanted not in _NONE and not counts:
        return None
    if re.search(r"\b(?:but|except|however|only|not)\b", said):
        return "unsure"
    if _SAYS_NONE.match(said):
        return "same"
    if counts or re.search(r"\b(?:no|none|nothing|zero|0|empty)\b|n['’]t\b", said):
        return None if counts else "unsure"
    return "different" if len(said.split()) <= 6 and not hedged(said) else "unsure"


_YES_NO = {"yes": True, "yeah": True, "yep": True, "no": False, "nope": False, "true": True, "false": False}
_FIRST_YES_NO = re.compile(rf"({'|'.join(_YES_NO)})(?=$|\s*[,.;:!])")  # "no idea" is neither
_PLAIN_START = re.compile(r"(yes|no) (?:there|it|they|he|she|this|that|these|those|both|all|i)\b")
_TAKES_BACK = re.compile(
    r"\b(?:however|although|or|actually|wait|rather|unless|doubt|way|matter|problem)\b|\.\.\.|and (?:yes|no)\b"
)


_THERE = re.compile(r"\s*(?:is|are) there (?:a|an|any|some)\b", re.IGNORECASE)
_THERE_IS = re.compile(r"there (?:is|are)(?P<no> no(?:t any)?\b|n['’]t\b)?")


_ASKED = re.compile(r"\s*(?:is|are|was|were|does|do|did|has|have|can)\s+(.+?)\?\s*$", re.IGNORECASE)
_WORDS = "is are was were does do did has have can not no n't it they he she this that these those there any of in on at to its"
_LITTLE = frozenset(_WORDS.split())


def _echo(question: str, said: str) -> bool | None:
    """Whether an answer repeats what was asked ("The form does not carry a signature"), or denies it; None for all others."""
    asked = _ASKED.match(question)
    words = re.findall(r"[^\W_]+", re.sub(r"n['’]t\b", " not", said))
    if not asked or not words or words[0] in _YES_NO:
        return None
    content = [w for w in re.findall(r"[^\W_]+", normalise(asked[1])) if w not in _LITTLE]
    left = [w for w in words if w not in _LITTLE and w not in _ARTICLES]
    pronoun = words[0] in ("it", "they", "he", "she") and len(content) > 1
    if left != content and not (pronoun and left and left == content[-len(left) :] and len(left) >= len(content) - 1):
        return None
    negations = sum(w in ("not", "no", "never") for w in words)
    return None if negations > 1 else negations == 0


def yes_or_no(pair: Pair) -> Finding | None:
    """Yes and no, true and false, also where a sentence follows that does not take it back."""
    wanted = normalise(pair.wanted)
    if wanted not in ("yes", "no", "true", "false"):
        return None
    said = normalise(pair.said)
    if _THERE.match(pair.question) and (there := _THERE_IS.match(said)) and not _TAKES_BACK.search(said):
        return "same" if bool(there["no"]) != _YES_NO[wanted] else "different"
    if (echo := _echo(pair.question, said)) is not None:
        return "same" if echo == _YES_NO[wanted] else "different"
    if not (match := _FIRST_YES_NO.match(said) or _PLAIN_START.match(said)):
        return None
    value, rest = _YES_NO[match[1]], said[match.end(1) :]
    if any(contains(rest, w) for w, v in _YES_NO.items() if v != value) or _TAKES_BACK.search(rest):
        return "unsure"
    return "same" if value == _YES_NO[wanted] else "different"
