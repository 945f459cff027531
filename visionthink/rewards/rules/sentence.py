"""What a sentence comes down to: the answer without its wrapping, its conclusion, its predicate, its result."""

from __future__ import annotations

import re

from visionthink.protocol import extract_answer
from visionthink.rewards.rules.choice import options
from visionthink.rewards.rules.finding import Pair
from visionthink.rewards.rules.text import NEGATION, YES_NO, hedged, normalise, stems, words

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


_SAYS = re.compile(
    r"\b(?:is|are|was|were|has|have|shows?|says?|reads?|equals?|see|count|peaked in|belongs to|lies at)\s+", re.IGNORECASE
)
_THEREFORE = re.compile(r"[,;]?\s*\b(?:so|therefore|thus|hence)\b,?\s*", re.IGNORECASE)
_DOUBT = re.compile(
    r"\b(?:not|no|never|wrong|incorrect|false|least|most|doubt|think|unless|if|might|may|could|would|rule|"
    r"exclud\w*|eliminat\w*)\b|n['’]t\b"
)
_OF_A_SUBJECT = (
    "the a an it this that these those there they he she i its their can we you answer total value in on of at image "
    "picture photo chart graph figure diagram"
)
_SUBJECTS = frozenset(_OF_A_SUBJECT.split())


def inner_answers(text: str, question: str) -> list[str]:
    """What a sentence comes down to: its conclusion ("..., so the answer is B"), or its predicate ("The car is red") where its
    subject is what the question asks about. Nothing where it is hedged or doubted."""
    found = []
    if match := _CONCLUSION.search(text):
        rest = (match["rest"] or match["short"]).strip()
        before = re.split(r"[.;,]\s", text[: match.start()])[-1].casefold()
        if len(rest.split()) <= 8 and not hedged(rest) and not _DOUBT.search(before):
            found.append(rest)
    elif not hedged(text):
        clause = _THEREFORE.split(text.strip().rstrip("."))[-1]
        said = _SAYS.split(clause)
        asked = _SUBJECTS | set(words(question))
        if len(said) == 2 and said[0] and set(words(said[0])) <= asked and not re.search(r"[;:]\s|\.\s", said[1]):
            found.append(
                re.sub(r"^(?:written in|made of|labell?ed|dated|addressed to|at(?= \()|located at)\s+", "", said[1].strip())
            )
    if result := _result(text, question):
        found.append(result)
    return [rest for rest in found if rest and rest != text]


_ARITHMETIC = re.compile(r"[-+*/×÷·−–^().,%$€£°\d\s]*$")
_A_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _names_one(left: str, question: str) -> bool:
    """Whether the left side of an equation is what is asked for: words or a symbol of the question, or a letter where the
    question has none."""
    left = re.sub(r"[\\$]|∠|\b(?:angle|sin|cos|tan|log|ln)\b", " ", left)
    symbols = re.findall(r"\b(?![aAI]\b)[A-Za-z]\b", question)
    if re.fullmatch(r"\s*[a-zA-Z]\s*", left) and not symbols:
        return True
    return bool(words(left)) and not re.search(r"[-+*/^,.;:]|\d", left) and set(words(left)) <= set(words(question))


def _result(text: str, question: str) -> str:
    """46 of "The highest is 58 and the lowest is 12, so it is 58 - 12 = 46": what a text ends with computing from numbers, where
    all numbers before it are used."""
    *before, left, result = text.strip().rstrip(".").split("=") if text.count("=") else ("", "", "")
    if not before and _names_one(left, question):
        return result.strip() if len(result.split()) <= 3 and not hedged(result) else ""
    expression = _ARITHMETIC.search(left)
    assert expression is not None  # it may be empty
    used = set(_A_NUMBER.findall(expression[0]))
    named = set(_A_NUMBER.findall(" ".join(before) + left[: expression.start()]))
    computes = len(used) > 1 and re.search(r"[-+*/×÷·−–]", expression[0]) and named <= used
    return result.strip() if computes and len(result.split()) <= 3 and _A_NUMBER.search(result) and not hedged(result) else ""


_ASKED_OF = re.compile(
    r"\b(?:is|are|was|were|does|do|did|has|have|can)\s+(?:the|a|an|this|that|these|those|his|her|its|their)\s+(?P<thing>.+?)\s+"
    r"(?:next|behind|beside|near|closest|under|above|below|left|right|in front|to the|with|wearing|holding|that|which|who)\b"
    r"(?P<other>.+)",
    re.IGNORECASE,
)
_TWO_SIDED = re.compile(r"\b(?:than|to|over|versus|vs|rather)\b", re.IGNORECASE)


_LABEL = re.compile(r"\s*\$?(?:\\angle|∠)?\s*([A-Za-z]{1,4})\s*=[^=]*$")
_SYMBOL = re.compile(r"\b(?![aAI]\b)(?:[A-Z]{2,4}|[A-Za-z])\b")


def of_something_else(pair: Pair) -> bool:
    """Whether a sentence may speak of something else than its question: it leaves out the question's "not", turns round what
    the question compares, or is about what stands next to the thing asked about ("The truck is red" of the car beside it)."""
    said, question = pair.said.casefold(), pair.question.casefold()
    if (label := _LABEL.match(pair.said)) and label[1] not in (symbols := _SYMBOL.findall(pair.question)) and symbols:
        return label[1].casefold() not in words(question) and "=" not in pair.wanted
    if len(words(said)) < 4 or normalise(pair.wanted) in YES_NO or options(pair.question):
        return False
    asked, spoken = stems(words(question)), stems(words(said))
    shared = [w for w in spoken if w in asked and len(w) > 2 and w not in _SUBJECTS]
    if len(shared) > 1 and NEGATION.search(question) and not NEGATION.search(said):
        return True
    if len(shared) > 1 and _TWO_SIDED.search(question) and _TWO_SIDED.search(said):
        rest = iter(asked)
        return not all(w in rest for w in shared)
    match = _ASKED_OF.search(question)
    about = set(stems(words(_SAYS.split(said)[0]))) - set(stems(_SUBJECTS))
    return bool(match and about and about <= set(stems(words(match["other"]))) - set(stems(words(match["thing"]))))


_OPERATION = re.compile(
    r"\d\s*(?:\^|\*\*|[-+*/×÷·]|\\times|\\cdot|\\div)\s*[\d\\(]|√|\\sqrt|\}\s*[-+]\s*\\|[a-z]\s*[-+*/^]\s*\d|\d\s*!"
)


def unevaluated(pair: Pair) -> bool:
    """Whether an answer only repeats an expression of the question that was to be worked out, or is an operation where the
    reference is its plain result."""

    def bare(text: str) -> str:
        return re.sub(r"\\[,;:! ]|\\left|\\right|[\s$]", "", text).casefold().rstrip(".?=")

    said, wanted = bare(pair.said), bare(pair.wanted)
    if said == wanted or not re.search(r"\d", said) or options(pair.question) or re.search(r"(?<!\\)\b[a-z]{5,}", pair.said):
        return False
    if said in bare(pair.question) and (_OPERATION.search(pair.said) or _CONVERT.search(pair.question)):
        return True
    result = re.fullmatch(r"-?\d+(?:\.\d+)?%?|-?\d+/\d+|\\d?frac\{\d+\}\{\d+\}", wanted)
    return bool(result) and "=" not in pair.said and bool(_OPERATION.search(pair.said)) and not _is_value(pair.said)


_CONVERT = re.compile(r"\b(?:convert|express|simplify|reduce|factori[sz]e|expand|rewrite|in lowest terms)\b", re.IGNORECASE)


def _is_value(text: str) -> bool:
    """Fractions, powers of ten and mixed numbers are values; 6/2 is an operation."""
    text = text.strip().rstrip(".").strip("$ ")
    if match := re.fullmatch(r"-?(?:\d+\s+)?(\d+)\s*/\s*(\d+)(?:\s*[^\d\s].*)?", text):
        return int(match[2]) != 0 and int(match[1]) % int(match[2]) != 0
    return re.match(r"-?[\d.]+\s*(?:x|×|\*|·|\\times|\\cdot)\s*10\s*(?:\^|\*\*)", text) is not None
