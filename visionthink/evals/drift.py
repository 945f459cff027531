"""Whether a gate is used on questions like those it was calibrated on, as far as its scores tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.errors import DataError
from visionthink.evals.run_folder import read_run
from visionthink.policies.gate import Certificate

ALARM = 0.001
"""The p-value below which the scores count as others."""


def recorded_scores(run: Path, score: str) -> list[float]:
    """Scores of the answers from low views, infinite where there was none: out of an evaluation folder, or of the gateway's log.

    Raises:
        DataError: it is neither, or has no such scores.
    """
    found = _of_folder(run, score) if run.is_dir() else _of_log(run, score)
    if not any(map(math.isfinite, found)):
        raise DataError(f"{run}: has no {score} of answers from low views")
    return found


def _of_folder(folder: Path, score: str) -> list[float]:
    turns = [[turn for turn in s.transcript.turns if turn.action == "answer"] for s in read_run(folder).scored]
    return [answers[0].scores.get(score, math.inf) if answers else math.inf for answers in turns]


def _of_log(file: Path, score: str) -> list[float]:
    found = []
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        raise DataError(f"{file}: no such folder or log") from None
    for line in lines:
        try:
            record = records.parse(line)
        except ValueError:  # servers and their libraries say other things, too
            continue
        gate = record.get("gate")
        if isinstance(gate, dict) and gate.get("score") == score:
            value = gate.get("value")
            found.append(float(value) if isinstance(value, int | float) else math.inf)
    return found


def drift(certificate: Certificate, scores: Sequence[float]) -> dict[str, Any]:
    """The two-sample Kolmogorov-Smirnov test, and how many questions are shown more.

    Args:
        scores: infinite where there was no answer to be sure of.
    """
    from scipy.stats import ks_2samp

    then = [*certificate.scores, *[math.inf] * certificate.silent]
    # infinite ones stand behind all others, wherever that is
    last = 1 + max(value for value in (*then, *scores) if math.isfinite(value))
    ks, p = map(float, ks_2samp([min(v, last) for v in then], [min(v, last) for v in scores]))
    return {
        "score": certificate.score,
        "n": len(scores),
        "ks": ks,
        "p": p,
        "alarm": p < ALARM,
        "escalated": sum(value > certificate.threshold for value in scores) / len(scores),
        "escalated_then": sum(value > certificate.threshold for value in then) / len(then),
    }
