"""DocVQA (arXiv 2007.00398): ANLS, the mean of one answer's normalised Levenshtein similarity (`visionthink.rewards.anls`).

ANLS = sum of s_i / n, s_i in {0} or [0.5, 1]
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.benchmarks.counting import Figures, average, references
from visionthink.evals.metrics import Scored
from visionthink.rewards.anls import anls


def mean_anls(scored: Sequence[Scored]) -> Figures:
    """The mean score, from 0 to 1; of several references the best counts."""
    return average(scored, lambda answer, transcript: anls(answer, references(transcript)), "anls")
