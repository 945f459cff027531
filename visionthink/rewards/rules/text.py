"""What a rule is given and says, and text as people write it: what an answer comes down to, normal forms, hedges, equal texts."""

import re
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from visionthink.protocol import extract_answer
from visionthink.rewards.rules.word_lists import CASED, HEDGES, NEGATION, NO, READ, YES

Finding = Literal["same", "different", "unsure"]
"""`unsure` ends the search: the rule applies and cannot tell."""


@dataclass(frozen=True)
class Pair:
    """A predicted answer and one reference, and the question both belong to ("" where it is not known)."""

    said: str
    wanted: str
    question: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        return self.said, self.wanted


Rule: TypeAlias = Callable[[Pair], "Finding | None"]
"""None: the rule does not apply to this pair."""


def meet(said: Collection[Any], wanted: Collection[Any], near: Callable[[Any, Any], bool]) -> Finding:
    """Compare two texts by all that each may mean: the same where both have one reading, and it is equal; different where no two
    readings are near; else unsure. `03/04/2020` is two days."""
    if len(said) == len(wanted) == 1 and list(said) == list(wanted):
        return "same"
    return "unsure" if any(near(a, b) for a in said for b in wanted) else "different"


CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_SIGNS = str.maketrans(
    dict.fromkeys("‐‑‒–—−", "-") | dict.fromkeys("´‘’", "'") | dict.fromkeys("“”", '"') | {"⁄": "/", "٫": ".", "٬": ","}
)
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+)|[₀₁₂₃₄₅₆₇₈₉]+")
_TYPOGRAPHY = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1"),
        (r"(?<!\\)\$(?!\s)([^$]+?)(?<![\s\\])\$(?!\d)|\\[()\[\]]", r"\1"),  # pandoc's rule: "$5 and $6" is no formula
        (r"\\(?:SI|qty|num)\s*\{([^{}]*)\}(?:\s*\{([^{}]*)\})?", r"\1 \2"),
        (r"\\(?:text|mathrm|textbf|mathbf|textrm|operatorname|mbox|textit)\s*\{([^{}]*)\}", r" \1"),
        (r"\{,\}", ","),
        (r"\^\s*\{?\s*\\circ\s*\}?", "°"),
        (r"\\([%$#&])", r"\1"),
        (r"\\[,;:! ]", " "),
        (r"(?<!\w)(\*\*|`)(?=\S)(.+?)(?<=\S)\1(?!\w)|^\*([^*]+)\*$", r"\2\3"),
    )
]
_COMMANDS = {"left": "", "right": "", "quad": " ", "dfrac": r"\frac", "tfrac": r"\frac"} | dict(
    zip("times cdot approx mu Omega degree".split(), "×·≈µΩ°", strict=True)
)
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|therefore|hence)\b,?\s+)?(?:(?:(?:the|my)\s+)?(?:(?:correct|final|right)\s+)?(?:answer|choice|option)\b\s*(?:is\b|[:=])\s*:?"
    r"\s*|(?:it is|it's|there are|i (?:see|count))\s+)|^(?:所以|因此)?(?:正确|正確)?(?:答案|答え|答|选择|選擇|正解|정답)"
    r"(?:应该)?(?:是|为|為|は|은|는)?\s*:?\s*|^(?:选|選)\s*(?=[A-Za-z(])",
    re.IGNORECASE,
)
LONGEST = 1000  # characters of an answer or reference that are looked into; of longer ones only the whole text is compared
_QUOTED = re.compile(r"[\"'`*「『《]+([^\"`*]*?)[\"'`*」』》]+", re.DOTALL)
_CLOSING = " \t\r\n.;,。、:"


def plain(text: str) -> str:
    """What an answer comes down to, as it would be typed: tags, markup, LaTeX's typography and lead-ins taken off, one character
    for each sign."""
    text = characters(extract_answer(text))
    if len(text) > LONGEST:
        return text
    for pattern, new in _TYPOGRAPHY:
        text = pattern.sub(new, text)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _COMMANDS.get(m[1], m[0]), text)
    text = text.strip() if "\n" in text.strip() else " ".join(text.split())
    while (shorter := _LEAD_IN.sub("", text, count=1).strip()) not in (text, ""):
        text = shorter
    return text


def characters(text: str) -> str:
    """Compatible characters as one (full width, ligatures, fractions), all digits in ASCII, and 10³ written as 10^3."""
    text = _RAISED.sub(lambda m: ("^" if m[1] else "_") + m[0], re.sub(r"(?<=\d)\s*(?=[¼-¾⅐-⅞])", " ", text))
    text = re.sub("[①-⑨]", lambda m: f" ({ord(m[0]) - 0x245F}) ", text)
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def bare(text: str) -> str:
    """Without quotes around the whole and what closes a sentence; signs with a meaning stay: .5, 5!, A*."""
    text = text.strip().rstrip(_CLOSING)
    text = match[1] if len(text) <= LONGEST and (match := _QUOTED.fullmatch(text)) else text
    return re.sub(r"(?<=[^\W\d])!+$", "", text.rstrip(_CLOSING)).rstrip(_CLOSING).lstrip(" ;")


def normalise(text: str) -> str:
    """Case, dashes, quotes, white space, hyphens, the dots of abbreviations, articles and what closes a text change no answer."""
    text = re.sub(rf"(?<=[{CJK}])\s+(?=[{CJK}\d])|(?<=\d)\s+(?=[{CJK}])", "", bare(characters(text)).casefold())
    text = re.sub(r"(?<=[a-z]{2})-(?=[a-z]{2})", " ", re.sub(r"\b(?:[a-z]\.)+[a-z]\b", lambda m: m[0].replace(".", ""), text))
    # an article stands before a word: in "A 4", "A B" and "Vitamin A" it is none
    return " ".join(re.sub(r"\b(?:the\s+(?=\w{3})|an?\s+(?=[^\W\d]{3}))", "", text).split())


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def says(text: str, listed: frozenset[str]) -> bool:
    """Whether one of the words stands in the text."""
    return not listed.isdisjoint(words(re.sub(r"n['’]t\b", " not", text.casefold())))


def negated(text: str) -> bool:
    return says(text, NEGATION) or bool(re.search("不|没|沒|非|ない|안 |않", text))


def hedged(text: str) -> bool:
    """Whether the text denies something, compares, or offers more than one answer."""
    return negated(text) or says(re.sub(r"\bMay\b", "", text), HEDGES) or "?" in text or "或" in text


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words; in text without spaces between words, anywhere but inside a number."""
    edge = r"\d" if re.search(rf"[{CJK}]", text) else r"\w"
    return bool(part) and re.search(rf"(?<!{edge}){re.escape(part)}(?!{edge})", text) is not None


def same_text(pair: Pair) -> Finding | None:
    """Equal after normalisation, where nothing that counts is lost by it: mW and MW, Aa and aa, The Stranger and A Stranger."""
    if not normalise(pair.said) or normalise(pair.said) != normalise(pair.wanted):
        return None
    said, wanted = map(bare, pair.texts)
    articles = [re.findall(r"\b(?:a|an|the)\b", text.casefold()) for text in (said, wanted)]
    inside = any(
        re.search(r"[^\W\d_][A-Z]*[a-z]+[A-Z]|[A-Z]{2,}[a-z]|\d\s*[^\W\d]{1,3}\b|[^\W\d]\d", text) for text in (said, wanted)
    )
    cased = said != wanted and said.casefold() == wanted.casefold() and said.casefold() not in YES | NO
    lost = (cased and (inside or says(pair.question, CASED) or sum(c.isalpha() for c in said) < 3)) or (
        all(articles) and articles[0] != articles[1]
    )
    read = says(pair.question, READ) and " ".join(said.casefold().split()) != " ".join(wanted.casefold().split())
    return "unsure" if lost or read else "same"
