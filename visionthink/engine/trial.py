"""Whether the engine computes what `generate` does, tried on a few short prompts before it is relied upon."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from visionthink.engine.engine import Engine
from visionthink.engine.sampling import Sampling
from visionthink.engine.stock import StockGeneration
from visionthink.errors import one_line

SENTENCE = "What is the colour of the shape on the left, and how many shapes are there?"

_ROUNDING = 0.05
"""How far log-probabilities in half precision may lie apart, since sums are made in another order."""
_ANSWER = 3
"""Tokens of an answer: the first is read off the prompt, the others are decoded behind it."""


def difference(engine: Engine, stock: StockGeneration, sentence: Sequence[int]) -> str:
    """What goes wrong where the engine reads the beginnings of a sentence, given as ids, and goes on; empty if nothing does."""
    vocabulary = engine.model.config.get_text_config().vocab_size
    # one token can be said, however unlikely: what is compared is its log-probability
    others = tuple(set(range(vocabulary)) - {sentence[0]})
    rule = Sampling(ends=frozenset(), most=_ANSWER, banned=others)
    prompts = [list(sentence[:n]) for n in range(2, len(sentence))]
    try:
        with torch.inference_mode():
            ours, plain = (each.complete(prompts, [[] for _ in prompts], rule) for each in (engine, stock))
    except Exception as error:  # of a compiler, too
        return one_line(error)
    pairs = [pair for a, b in zip(ours, plain, strict=True) for pair in zip(a.logprobs, b.logprobs, strict=True)]
    differ = [abs(a - b) for a, b in pairs if not math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING)]
    return f"log-probabilities differ by up to {max(differ):.2g} from those of plain attention" if differ else ""
