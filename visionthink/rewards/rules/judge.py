"""The rules judge: closed forms only, each read whole into what it may mean and compared as that, the first that applies decides.
Sentences and paraphrases are for a language model."""

import re
import threading
from collections.abc import Sequence

from visionthink.rewards.judge import NO_REFERENCE, Answer, Verdict
from visionthink.rewards.rules.choice import multiple_choice, options
from visionthink.rewards.rules.date import may_be_one, read_moments, same_date
from visionthink.rewards.rules.listing import same_list
from visionthink.rewards.rules.maths import same_maths
from visionthink.rewards.rules.number import is_number_word
from visionthink.rewards.rules.quantity import read_quantity, same_quantity
from visionthink.rewards.rules.text import LONGEST, Finding, Pair, Rule, contains, hedged, normalise, plain, same_text, says
from visionthink.rewards.rules.word_lists import NO, YES, YES_TOO
from visionthink.rewards.rules.yes_no import refusal, yes_or_no

_TAG = re.compile(r"</?(?:answer|think|tool_call)>")
_COMPARING = threading.Lock()
"""The libraries of the rules are not made for several threads."""
RULES: dict[str, Rule] = {
    "multiple choice": multiple_choice,
    "same text": same_text,
    "refusal": refusal,
    "yes or no": yes_or_no,
    "date": same_date,
    "quantity": same_quantity,
    "list": lambda pair: same_list(pair, lambda part: decide(part)[0]),
    "maths": same_maths,
}  # in the order in which they are asked


def decide(pair: Pair) -> tuple[Finding | None, str]:
    """What the first rule that applies says of two texts (of `text.plain`), and its name."""
    if max(map(len, pair.texts)) > LONGEST:
        return None, "too long for rules"
    pair = _unnamed(pair)
    for name, rule in RULES.items():
        try:
            finding = rule(pair)
        except (ArithmeticError, ValueError, RecursionError):  # a number beyond what can be computed
            return "unsure", name
        if finding is not None:
            return finding, name
    return None, "another text"


def _unnamed(pair: Pair) -> Pair:
    """Without `x =` before an answer, where the other side has none and no other symbol is asked for."""
    symbols = "".join(re.findall(r"\b(?![aAI]\b)[A-Za-z]\b", pair.question)) or "A-Za-z"
    said, wanted = (re.sub(rf"^[{symbols}]\s*=\s*(?=[^=]+$)", "", text) for text in pair.texts)
    return Pair(said, wanted, pair.question) if ("=" in pair.said) != ("=" in pair.wanted) else pair


class RulesJudge:
    """Correct if a rule finds the answer the same as the reference or an alias, wrong if the rules find it different from all of
    them, else unscored: rules do not know synonyms, so another text is not wrong.

    With `closed`, answers are known to come from a closed vocabulary, as in generated suites and exact-match benchmarks:
    of two texts that are plain words, or of a value and words, another one is then another answer, unless it contains the
    reference. An answer with an unclosed tag, such as `<answer>3`, is wrong if its content is wrong, and unscored if it is right:
    if it were unscored either way, training would learn to leave tags open.
    """

    def __init__(self, *, closed: bool = False):
        self.closed = closed

    @property
    def identity(self) -> str:
        return "exact" if self.closed else "rules"

    def usage(self) -> dict[str, float]:
        """Nothing: rules cost nothing."""
        return {}

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order; equal answers, of which a rollout group has many, are compared once."""
        with _COMPARING:
            verdicts = {answer: self._compare(answer) for answer in dict.fromkeys(answers)}
        return [verdicts[answer] for answer in answers]

    def _compare(self, answer: Answer) -> Verdict:
        references = [plain(r) for r in answer.references if r.strip()]
        if not references:
            return Verdict("unscored", self.identity, NO_REFERENCE)
        said, unsure = plain(answer.prediction), ""
        if tagged := self.closed and bool(_TAG.search(said)):
            said = _TAG.sub(" ", said).strip()
        if answer.prediction.strip() in [r.strip() for r in answer.references]:
            return Verdict("correct", self.identity, "same text")
        if not normalise(said) and any(map(normalise, references)):
            return Verdict("wrong", self.identity, "empty answer")
        for pair in (Pair(said, wanted, answer.question[-2000:]) for wanted in references):
            finding, name = decide(pair)
            if finding == "same":
                return Verdict("unscored", self.identity, "unsure: tags") if tagged else Verdict("correct", self.identity, name)
            if finding == "unsure" or (finding is None and not self._other(pair)):
                unsure = unsure or f"unsure: {name}"
        return Verdict("unscored", self.identity, unsure) if unsure else Verdict("wrong", self.identity, name)

    def _other(self, pair: Pair) -> bool:
        """Whether another text is another answer of a closed vocabulary: both are plain words, or one is a value."""
        if not self.closed:
            return False
        said, wanted = (normalise(text) for text in pair.texts)
        meant = normalise(options(pair.question).get(wanted.upper(), wanted))
        if (numbered := re.fullmatch(r"([a-z]{3,}) (\d+)", said)) and numbered[2] != meant:
            said = numbered[1]  # "number 5" for 3
        texts = (said, meant)
        moments = [read_moments(t) for t in texts]
        if any(may_be_one(a, b) for a in moments[0] for b in moments[1]):  # "sun" and "Sunday", "may" and "2026-05-01"
            return False
        simple = [bool(re.fullmatch(r"[a-z][a-z' -]*", t)) and len(t.split()) <= 5 for t in texts]
        letters = [re.sub(r"[^a-z]|s\b", "", t) for t in texts]
        if not any(simple) or letters[0] == letters[1] or contains(said, meant):
            return False
        if not all(simple):  # of a value and words: "no" for 8
            value, spoken = read_quantity(texts[simple[0]], pair.question), set(texts[simple[1]].split())
            zero = value is not None and value.numeral.readings[0].value == 0 and spoken & (NO | YES_TOO)
            named = any(map(is_number_word, spoken)) or moments[simple[1]]  # "may" for 5
            return value is not None and not zero and not named and not hedged(" ".join(spoken - NO))
        return (len(said.split()) == 1 or not hedged(said)) and not (meant in YES | NO and says(said, YES_TOO))
