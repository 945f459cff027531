"""ChartQA (arXiv 2203.10244, Sec. 5.1): relaxed accuracy, the share of answers that are within 5 % of a number or equal a text.

relaxed accuracy = sum of correct / n, with the two forms of `visionthink.rewards.relaxed`: `relaxed_accuracy` is lmms-eval's,
`relaxed_accuracy_strict` is right about 0, percent, counts and years.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visionthink.evals.benchmarks.counting import Figures, average, references
from visionthink.evals.metrics import Scored
from visionthink.rewards.relaxed import relaxed_accuracy as relaxed
from visionthink.transcript import Transcript


def relaxed_accuracy(scored: Sequence[Scored]) -> Figures:
    """Both forms; families are the human and the augmented questions."""
    return _mean(scored, "strict", "relaxed_accuracy_strict") | _mean(scored, "stock", "relaxed_accuracy")


def _mean(scored: Sequence[Scored], form: Literal["stock", "strict"], name: str) -> Figures:
    def correct(answer: str, transcript: Transcript) -> bool:
        return any(relaxed(answer, reference, form) for reference in references(transcript))

    return average(scored, correct, name)
