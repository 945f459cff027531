"""How sure a model is of what it has answered: the score of a gate that decides without training whether to look again.

The score is the probability of the least likely token of the answer. On the embedded models it tells answers that a closer look
would correct from others about as well as a trained policy does.
"""

from __future__ import annotations

import itertools
import math

from visionthink.protocol import answer_start
from visionthink.types import Completion


def confidence(completion: Completion) -> float | None:
    """Probability, from 0 to 1, of the least likely token from the first of the answer to the end of the turn, under the model's
    own distribution at temperature 1. Thinking says nothing about it and does not count. None where the policy gives no
    log-probabilities of tokens."""
    if completion.logprobs is None or not completion.token_texts:
        return None
    begin = answer_start(completion.text)
    lengths = map(len, completion.token_texts)
    ends = itertools.accumulate(lengths)
    of_answer = [logprob for logprob, end in zip(completion.logprobs, ends, strict=True) if end > begin]
    return math.exp(min(of_answer)) if of_answer else None
