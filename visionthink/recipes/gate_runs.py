"""What the lanes of a gate say on a suite: always-low and always-full, or both branches by force and always-full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.evals.gate_curve import GateLanes
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import FULL, PolicySpec
from visionthink.evals.run_folder import read_run
from visionthink.model import Model
from visionthink.policies.gate import Mode, with_spreads
from visionthink.recipes.frontier import evaluate_one
from visionthink.types import Examples


@dataclass(frozen=True, kw_only=True)
class GateRuns:
    """Judged answers of each lane; `more` where a gate continues."""

    low: Sequence[Scored]
    full: Sequence[Scored]
    more: Sequence[Scored] | None = None

    def lanes(self, score: str) -> GateLanes:
        """
        Raises:
            DataError: see `GateLanes.of`.
        """
        return GateLanes.of(self.low, self.full, score, self.more)


def gate_runs(
    examples: Examples, model: Model, out: Path, *, mode: Mode = "restart", votes: bool = False, **settings: Any
) -> GateRuns:
    """Evaluate the lanes into folders below `out`; what is finished is not asked again.

    Args:
        votes: whether answers are sampled for the score `vote`.
        settings: see `evals.runner.evaluate`.
    """

    scored = Model(with_spreads(model.policy), model.protocol, model.menu, model.budget, model.max_image_pixels)

    def run(policy: PolicySpec) -> Sequence[Scored]:
        folder = out / str(policy).replace(":", "-")
        evaluate_one(policy, model if policy == FULL else scored, examples, folder, **settings)
        return read_run(folder).scored

    full = run(FULL)
    if mode == "continue":
        return GateRuns(low=run(PolicySpec.parse("forced:direct")), full=full, more=run(PolicySpec.parse("forced:request")))
    return GateRuns(low=run(PolicySpec.parse("low:vote" if votes else "low")), full=full)
