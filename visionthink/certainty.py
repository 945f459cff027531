"""How unsure a model is of what it has said: scores in nats or shares, higher where it is less sure, and nothing is trained.

A gate shows the full view where such a score of the answer from the low view is above a threshold (`policies.gate`). Only tokens
from the first of the answer to the end of the turn count: with thinking before it, the first token of a reply says nothing.
Probabilities are the model's own, at temperature 1 and before any ban.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from visionthink.protocol import answer_start
from visionthink.types import Completion, Spread


@dataclass(frozen=True, kw_only=True)
class _Said:
    """A reply, and where its answer begins, in tokens."""

    logprobs: Sequence[float]
    spreads: Sequence[Spread]
    begin: int

    @property
    def surprisals(self) -> list[float]:
        """Negative log-probabilities of the tokens of the answer."""
        return [-logprob for logprob in self.logprobs[self.begin :]]

    @property
    def entropies(self) -> list[float]:
        """Entropies in nats at the tokens of the answer."""
        return [spread.entropy for spread in self.spreads[self.begin :]]

    @property
    def would_ask(self) -> list[float]:
        """Shares of the probability that was banned, at each token up to the first of the answer: asking may follow thinking."""
        places = zip(self.spreads[: self.begin + 1], self.logprobs, strict=False)
        return [_share(spread.banned, math.exp(logprob)) for spread, logprob in places]


_OF_LOGPROBS: Mapping[str, Callable[[_Said], float]] = {
    "nll": lambda said: sum(said.surprisals),
    "nllmean": lambda said: mean(said.surprisals),
    "nllmax": lambda said: max(said.surprisals),
}
_OF_SPREADS: Mapping[str, Callable[[_Said], float]] = {
    "h1": lambda said: said.entropies[0],
    "hmean": lambda said: mean(said.entropies),
    "hmax": lambda said: max(said.entropies),
    "m1": lambda said: 1 - (math.exp(said.logprobs[said.begin]) - said.spreads[said.begin].rival),
    "ask": lambda said: max(said.would_ask),
}
NEED_SPREADS = frozenset(_OF_SPREADS)
"""Scores that need more than the log-probabilities of what was said."""
LIKELIEST = 5
"""Tokens whose probabilities are asked for where a server gives only the largest."""
VOTES = 4
"""Answers that are sampled beside the greedy one for the score `vote`."""
SCORES: Mapping[str, str] = {
    "nll": "negative log-probability of the answer",
    "nllmean": "the same, for a token",
    "nllmax": "the same, of its least likely token",
    "h1": "entropy of the distribution of its first token",
    "hmean": "the mean entropy over its tokens",
    "hmax": "the largest entropy over its tokens",
    "m1": "1 minus the difference of the two largest probabilities of its first token",
    "ask": "largest share of a token's probability, up to the answer, that would have asked to see more where asking is banned",
    "vote": f"share of {VOTES} sampled answers that are not the most frequent one",
}


def _share(part: float, other: float) -> float:
    return part / (part + other) if part + other else 0.0


def scores_of(completion: Completion) -> dict[str, float]:
    """Every score that the statistics of a reply's tokens give, by name; `vote` takes several replies.

    None without log-probabilities and texts of tokens; those of distributions only where the policy has given `spreads`, and
    `ask` only where an answer was forced.
    """
    if completion.logprobs is None or not completion.token_texts:
        return {}
    starts = answer_start(completion.text)
    ends = itertools.accumulate(map(len, completion.token_texts))
    begin = next((i for i, end in enumerate(ends) if end > starts), None)
    if begin is None:
        return {}
    said = _Said(logprobs=completion.logprobs, spreads=completion.spreads, begin=begin)
    functions = {**_OF_LOGPROBS, **(_OF_SPREADS if said.spreads else {})}
    return {name: function(said) for name, function in functions.items() if name != "ask" or completion.by == "forced"}


def vote(answers: Sequence[str | None]) -> float:
    """Share of answers that are not the most frequent one; those that are missing agree with none."""
    given = [answer.strip().casefold() for answer in answers if answer is not None]
    return 1 - max(map(given.count, given), default=0) / len(answers)


def spread_of(logprob: float, others: Sequence[float]) -> Spread:
    """The spread that follows from the log-probabilities of a token and of the likeliest other ones."""
    probabilities = [math.exp(value) for value in (logprob, *others)]
    return Spread(entropy_bounds(probabilities, len(probabilities))[0], max(probabilities[1:], default=0.0))


def entropy_bounds(probabilities: Sequence[float], vocabulary: int) -> tuple[float, float]:
    """The least and the largest entropy, in nats, of a distribution of which only the largest probabilities are known: what is
    left of it lies on one token, or evenly on all others. Servers tell the largest ones only; the lower bound is used."""
    known = -sum(p * math.log(p) for p in probabilities if p > 0)
    rest = 1 - sum(probabilities)
    if rest <= 0:
        return known, known
    lower = known - rest * math.log(rest)
    return lower, lower + rest * math.log(max(1, vocabulary - len(probabilities)))
