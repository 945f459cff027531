"""What a sentence comes down to: the answer without its wrapping, its conclusion, its predicate, its result."""

from __future__ import annotations

import re

from visionthink.protocol import extract_answer
from visionthink.rewards.rules.text import hedged, words

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
    "the a an it this that these those there they he she i its their can we you answer total value in on of at image picture "
    "photo chart graph figure diagram"
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
