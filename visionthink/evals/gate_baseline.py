"""A run beside a training-free gate, at the run's own cost.

The gate answers from the low view, and begins again with the full view where it was least sure. A model that was trained to look
closer has gained something only if it is above that gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from visionthink.errors import DataError
from visionthink.evals.bootstrap import bootstrap
from visionthink.evals.comparison import by_id, right, same_question
from visionthink.evals.gate_curve import GateLanes, auroc
from visionthink.evals.metrics import Scored, retained_tokens

SCORE = "nllmax"
"""What the gate goes by: the surprise of the answer's least likely token. Named before a run is looked at, not chosen by it."""

Beats = Literal["yes", "no", "undecided"]


def beside_gate(run: Sequence[Scored], low: Sequence[Scored], full: Sequence[Scored]) -> dict[str, Any] | None:
    """The gate on the answers of a model's low view, at as many visual tokens as the run spent; the run's difference from it with
    a 95 % interval of a paired bootstrap, and whether that leaves out zero. None where no answer says how sure it is.

    How sure the answers are decides which are escalated, and never the verdicts: nothing is fitted to the examples.
    """
    own = by_id(run)
    try:
        lanes = GateLanes.of(low, full, SCORE)
    except DataError:
        return None
    asked = by_id(low)
    common = [i for i, name in enumerate(lanes.ids) if lanes.judged[i] and name in own and same_question(own[name], asked[name])]
    if not common:
        return None
    lanes = lanes.take(common)
    cost = sum(retained_tokens(own[name].transcript) for name in lanes.ids) / float(lanes.full_cost.sum())
    expected = lanes.correct_at_cost(cost)
    difference = bootstrap([right(own[name]) - expected[name] for name in lanes.ids])
    assert difference is not None
    beats: Beats = "undecided" if not difference.sure else "yes" if difference.mean > 0 else "no"
    return {
        "n": len(lanes.ids),
        "score": SCORE,
        "cost": cost,
        "accuracy": float(np.mean(list(expected.values()))),
        "against": asdict(difference),
        "beats": beats,
        "auroc": auroc(lanes.scores, lanes.full_right & ~lanes.kept_right),
    }
