"""The rules judge: rules in order, the first that applies decides."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.rewards.judge import Answer, Verdict
from visionthink.rewards.rules.choice import multiple_choice
from visionthink.rewards.rules.date import same_date
from visionthink.rewards.rules.finding import Finding, Pair, Rule
from visionthink.rewards.rules.listing import same_list
from visionthink.rewards.rules.maths import same_maths
from visionthink.rewards.rules.quantity import same_quantity
from visionthink.rewards.rules.refusal import none, refusal
from visionthink.rewards.rules.restated import restated
from visionthink.rewards.rules.sentence import final_answer, inner_answers, of_something_else, unevaluated
from visionthink.rewards.rules.text import contains, hedged, normalise, same_text
from visionthink.rewards.rules.typed import one_of_its_kind
from visionthink.rewards.rules.vocabulary import closed_vocabulary, opposite, other_address, other_digits, other_name
from visionthink.rewards.rules.yes_no import yes_or_no

_RULES: dict[str, Rule] = {
    "same text": same_text,
    "refusal": refusal,
    "none": none,
    "multiple choice": multiple_choice,
    "yes or no": yes_or_no,
    "date": same_date,
    "quantity": same_quantity,
    "restated": restated,
    "list": lambda pair: same_list(pair, lambda part: _decide(part)[0]),
    "maths": same_maths,
    "closed vocabulary": closed_vocabulary,
    "digits": other_digits,
    "address": other_address,
    "opposite": opposite,
    "name": other_name,
    "the only one of its kind": one_of_its_kind,
}
_LONGEST_CLOSED = 5
"""Words of an answer that may be one of a closed vocabulary."""


_LONGEST = 1000
"""Characters of an answer or reference that rules look into; of longer ones only the whole text is compared."""


def _decide(pair: Pair) -> tuple[Finding | None, str]:
    """What is said of what the answer comes down to, else of the whole."""
    if max(len(pair.said), len(pair.wanted)) > _LONGEST:
        return same_text(pair), "too long for rules"
    if of_something_else(pair):
        return "unsure", "about something else"
    finding, name = _worked_through(pair)
    if finding == "same" and unevaluated(pair):
        return "unsure", "not worked out"
    return finding, name


def _worked_through(pair: Pair) -> tuple[Finding | None, str]:
    for part in inner_answers(pair.said, pair.question):
        if "=" in pair.wanted and "=" not in part:
            continue  # x = 4 is not y = 4
        finding, name = _apply(Pair(part, pair.wanted, pair.question), without="restated")  # of a part, the subject is not known
        if finding in ("same", "different"):
            return finding, name
    return _apply(pair)


def _apply(pair: Pair, without: str = "") -> tuple[Finding | None, str]:
    """What the first rule that applies says, and its name."""
    for name, rule in _RULES.items():
        if name != without and (finding := rule(pair)) is not None:
            return finding, name
    return None, "another text"


class RulesJudge:
    """Correct if a rule finds the answer the same as the reference or an alias, wrong if the rules find it different from all of
    them, else unscored: rules do not know synonyms, so another text is not wrong.

    With `closed`, answers are known to come from a closed vocabulary, as in generated suites and exact-match benchmarks:
    another short text is then another answer, unless it contains the reference.
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
        """Verdicts in order."""
        return [self._compare(a) for a in answers]

    def _compare(self, answer: Answer) -> Verdict:
        references = [final_answer(r) for r in answer.references if r.strip()]
        if not references:
            return Verdict("unscored", self.identity, "no reference answer")
        said = final_answer(answer.prediction)
        pairs = [Pair(said, wanted, answer.question) for wanted in references]
        found = [_decide(pair) for pair in pairs]
        for finding, name in found:
            if finding == "same":
                return Verdict("correct", self.identity, name)
        if all(
            finding == "different" or (self._other(pair) and finding is None)
            for pair, (finding, _) in zip(pairs, found, strict=True)
        ):
            return Verdict("wrong", self.identity, found[0][1])
        name = next(n for finding, n in found if finding != "different")
        return Verdict("unscored", self.identity, f"unsure: {name}")

    def _other(self, pair: Pair) -> bool:
        """Whether another text is another answer."""
        if max(len(pair.said), len(pair.wanted)) > _LONGEST:
            return False
        said, wanted = normalise(pair.said), normalise(pair.wanted)
        short = max(len(said.split()), len(wanted.split())) <= _LONGEST_CLOSED
        return self.closed and short and not contains(said, wanted) and not hedged(said)
