"""Does a certified gate keep its promise on real answers? In miniature: an embedded model answers a pool of generated questions
once in each lane; 200 calibrations on 300 of them are each held against the rest.

It would be broken if more draws harmed too many questions than a probability of delta for each explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionthink.data import synth
from visionthink.evals.gate_draws import draws
from visionthink.model import load
from visionthink.policies.gate import Mode
from visionthink.recipes.gate_runs import gate_runs
from visionthink.rewards.spec import read_judge

POOL = 6000
SEED = 1900
"""Seed of the pool, so that its questions are not those of `mini`."""


def gate_claim(
    out: Path,
    *,
    model: str = "tiny-base",
    mode: Mode = "restart",
    scores: Sequence[str] = ("nllmax",),
    pool: int = POOL,
    n: int = 300,
    count: int = 200,
    alpha: float = 0.05,
    delta: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """By score, `evals.gate_draws.DrawsOutcome` as a mapping. Answers are kept in `out`, and asked for once.

    Args:
        pool: questions, others for another `seed`; `n` of them are drawn `count` times.
    """
    opened = load(model, max_new_tokens=32)
    settings: dict[str, Any] = {
        "suite": f"synth, {pool} questions, seed {SEED + seed}",
        "model_name": model,
        "judge": read_judge("exact"),
    }
    examples = synth.suite(pool, seed=SEED + seed)
    runs = gate_runs(examples, opened, out / f"{Path(model).name}-{mode}-{seed}", mode=mode, votes="vote" in scores, **settings)
    return {
        score: draws(runs.lanes(score), score, n=n, count=count, alpha=alpha, delta=delta, seed=seed).to_dict()
        for score in scores
    }
