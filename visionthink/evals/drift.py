"""Whether a gate is used on questions like those it was calibrated on, as far as its scores tell."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.errors import DataError
from visionthink.evals.certificate import harm_bound
from visionthink.evals.run_folder import read_run
from visionthink.policies.gate import Certificate, rounded

ALARM = 0.001
"""The p-value below which the scores count as others."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a gate has seen since its calibration."""

    scores: tuple[float, ...]
    """Scores of the answers from low views; infinite where there was no answer."""
    agrees: tuple[bool, ...] = ()
    """For each answer that was drawn for an audit: whether it is the same as from the full view."""

    @classmethod
    def read(cls, run: Path, certificate: Certificate) -> Traffic:
        """Out of an evaluation folder, or of the gateway's log, where what other gates have decided is passed over.

        Raises:
            DataError: it is neither, or has no such scores.
        """
        found = _of_folder(run, certificate.score) if run.is_dir() else _of_log(run, certificate)
        if not any(map(math.isfinite, found.scores)):
            raise DataError(f"{run}: has no {certificate.score} of answers from low views under this gate")
        return found


def _of_folder(folder: Path, score: str) -> Traffic:
    turns = [[turn for turn in s.transcript.turns if turn.action == "answer"] for s in read_run(folder).scored]
    return Traffic(scores=tuple(_known(answers[0].scores.get(score) if answers else None) for answers in turns))


def _of_log(file: Path, certificate: Certificate) -> Traffic:
    scores, agrees = list[float](), list[bool]()
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
        if isinstance(gate, dict) and (gate.get("score"), gate.get("threshold")) == (certificate.score, certificate.threshold):
            scores.append(_known(gate.get("value")))
            agrees += [gate["agrees"]] if isinstance(gate.get("agrees"), bool) else []
    return Traffic(scores=tuple(scores), agrees=tuple(agrees))


def _known(value: Any) -> float:
    """A score, infinite where it is none."""
    return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else math.inf


def drift(certificate: Certificate, traffic: Traffic) -> dict[str, Any]:
    """The two-sample Kolmogorov-Smirnov test, how many questions are shown more, and a new bound of the harm from an audit: an
    answer that is that of the full view harms nobody, and any other one counts."""
    from scipy.stats import ks_2samp

    scores, n, k = traffic.scores, len(traffic.agrees), traffic.agrees.count(False)
    then = [*certificate.scores, *[math.inf] * certificate.silent]
    # infinite ones stand behind all others, wherever that is
    last = 1 + max(value for value in (*then, *scores) if math.isfinite(value))
    # those of the calibration were rounded: equal scores must stay equal
    ks, p = map(float, ks_2samp([min(v, last) for v in then], [rounded(min(v, last)) for v in scores]))
    return {
        "score": certificate.score,
        "n": len(scores),
        "ks": ks,
        "p": p,
        "alarm": p < ALARM,
        "escalated": sum(value > certificate.threshold for value in scores) / len(scores),
        "escalated_then": sum(value > certificate.threshold for value in then) / len(then),
        "audit": {"n": n, "k": k, "bound": harm_bound(k, n, certificate.delta)} if n else None,
    }
