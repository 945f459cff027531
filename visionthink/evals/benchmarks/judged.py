"""MM-Vet (arXiv 2308.02490), MathVista (arXiv 2310.02255), MathVerse (arXiv 2403.14624): the share a judge finds correct.

accuracy = correct / (correct + wrong); what the judge could not decide is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.benchmarks.counting import Figures
from visionthink.evals.metrics import Scored, accuracy


def judged_accuracy(scored: Sequence[Scored]) -> Figures:
    """Over all and by family."""
    decided = [s for s in scored if s.verdict.verdict != "unscored"]
    figures: Figures = {"accuracy": accuracy(decided), "n": len(decided), "unscored": len(scored) - len(decided)}
    families = sorted({s.transcript.family for s in decided if s.transcript.family is not None})
    return figures | {f"accuracy/{f}": accuracy(s for s in decided if s.transcript.family == f) for f in families}
