"""A gate: the answer from the low view is kept where the model is sure enough of it, and nothing is trained.

Its threshold is set by hand, or `visionthink calibrate` has certified it: then it stands in a file, with all that the certificate
depends on. A model, prompt or judge other than the file's is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from visionthink import records
from visionthink.certainty import SCORES
from visionthink.errors import DataError, OptionError
from visionthink.menu import Menu
from visionthink.policies.identity import Identity
from visionthink.protocol import Protocol
from visionthink.resolution import SizeRule

Mode = Literal["restart", "continue"]
"""What is done with a question whose answer is not kept. `restart`: it is put again with the full view alone, as always-full puts
it. `continue`: the full view follows in the same context, as after a request."""
Method = Literal["fixed-sequence", "crc"]
"""How the threshold was chosen: by a sequence of tests (arXiv 2110.01052), or by conformal risk control (arXiv 2208.02814), which
bounds the harm only on average over calibrations."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The rule: an answer is kept where its score is at most the threshold."""

    score: str
    """A name out of `certainty.SCORES`."""
    threshold: float
    mode: Mode = "restart"

    @classmethod
    def of_confidence(cls, confidence: float) -> Gate:
        """Keeps an answer whose least likely token has at least this probability, from 0 to 1."""
        return cls(score="nllmax", threshold=-math.log(confidence) if confidence else math.inf)

    def keeps(self, scores: Mapping[str, float]) -> bool:
        """Whether an answer with these scores is kept; one without this score is not."""
        return scores.get(self.score, math.inf) <= self.threshold

    def words(self, value: float) -> str:
        """A score beside the threshold; `nllmax` as the confidence that a threshold was set by."""
        if self.score == "nllmax":
            return f"confidence {math.exp(-value):.3g}, threshold {math.exp(-self.threshold):.3g}"
        return f"{self.score} {value:.3g}, threshold {self.threshold:.3g}"


CONFIDENCE = 0.8
BY_CONFIDENCE = Gate.of_confidence(CONFIDENCE)
"""The gate where nobody has set a threshold."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A file of `visionthink calibrate`."""

    score: str
    threshold: float
    mode: Mode
    method: Method
    alpha: float
    """The harm that is allowed: share of questions that always-full answers right and the gate does not."""
    delta: float
    """The probability, over calibrations, that the harm is larger all the same."""
    n: int
    """Questions that the threshold was tested on, no two about one image."""
    k: int
    """How many of them were harmed."""
    bound: float
    """The one-sided bound of Clopper and Pearson (1934) for k of n, at level delta. It says how near the test was; promised is
    alpha, as the threshold was chosen on the same questions."""
    noise_floor: float
    """Share of questions that always-full answers right in one run and not in the next."""
    suite: str
    model: str
    """See `policies.identity.Identity`, as the next two."""
    prompt: str
    sizes: str
    judge: str
    scores: tuple[float, ...] = field(repr=False)
    """Scores of the calibration questions, sorted and `rounded`, with which later ones are compared."""
    silent: int
    """Questions without a score: they are always shown more."""
    items: tuple[str, ...] = field(repr=False)
    """Digests of the questions with their images."""
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By family: `n`, `k`, and the largest threshold that is certified within it, or null."""
    test: Mapping[str, Any] = field(default_factory=dict)
    """What the gate came to on questions that took no part in choosing it."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def gate(self) -> Gate:
        return Gate(score=self.score, threshold=self.threshold, mode=self.mode)

    @classmethod
    def read(cls, file: Path) -> Certificate:
        """
        Raises:
            OptionError: there is no such file, or it cannot be read.
            DataError: it is not a certificate.
        """
        try:
            certificate: Certificate = records.read(cls, records.parse(file.read_bytes()))
        except FileNotFoundError:
            raise OptionError(f"gate:{file}: no such file; visionthink calibrate writes one") from None
        except OSError as error:
            raise OptionError(f"gate:{file}: cannot be read ({error.strerror}); name a file of visionthink calibrate") from None
        except ValueError as error:
            raise DataError(f"{file}: not a gate of visionthink calibrate: {error}") from None
        if certificate.score not in SCORES or not math.isfinite(certificate.threshold):
            raise DataError(f"{file}: no gate has the score {certificate.score!r} and the threshold {certificate.threshold}")
        if impossible := certificate._impossible():
            raise DataError(f"{file}: not what visionthink calibrate has written, as {impossible}; calibrate again")
        return certificate

    def _impossible(self) -> str:
        """What no calibration comes to; empty where there is nothing of that kind."""
        if not (0 < self.alpha < 1 and 0 < self.delta < 1):
            return f"alpha {self.alpha:g} and delta {self.delta:g} must be between 0 and 1"
        if not 0 <= self.k <= self.n or not self.n:
            return f"{self.k} of {self.n} questions cannot be harmed"
        if self.method == "fixed-sequence" and not self.bound <= self.alpha + 1e-9:
            return f"the bound of the harm, {self.bound:g}, is above alpha, {self.alpha:g}"
        if self.silent < 0 or not all(map(math.isfinite, self.scores)):
            return "its scores must be finite, and silent at least 0"
        if len(self.scores) + self.silent != self.n:
            return f"it has {len(self.scores)} scores, and {self.silent} questions without one, of {self.n}"
        return ""

    def check(self, file: Path, **used: str) -> None:
        """
        Args:
            used: `model`, `prompt`, `sizes` or `judge` as they are here.

        Raises:
            OptionError: one is not what was calibrated with; the message names all that differ.
        """
        other = [name for name, value in used.items() if value != getattr(self, name)]
        if other:
            named = "; ".join(f"{name}: {used[name]} here, {getattr(self, name)} there" for name in other)
            raise OptionError(f"{file}: was calibrated with another {' and '.join(other)}; calibrate again ({named})")


def rounded(score: float) -> float:
    """A score as certificates hold it."""
    return float(f"{score:.5g}")


P = TypeVar("P")


def with_spreads(policy: P) -> P:
    """A policy that gives the spread of each token, where it can."""
    return policy.with_spreads() if hasattr(policy, "with_spreads") else policy


NamedGate = Gate | Path
"""A gate as it is named: with a threshold set by hand, or by the file of its certificate."""


def parse_gate(text: str, option: str) -> NamedGate:
    """From `gate:SCORE@T` or `gate:FILE`. No file is opened.

    Raises:
        OptionError: it is neither.
    """
    named = text.removeprefix("gate:")
    if fixed := re.fullmatch(r"([a-z0-9]+)@(-?[0-9]*\.?[0-9]+(?:e-?[0-9]+)?)", named):
        if fixed[1] not in SCORES:
            raise OptionError(f"{option} {text}: no score is called {fixed[1]}; choose one of {', '.join(SCORES)}")
        if fixed[1] == "ask":
            raise OptionError(f"{option} {text}: the score ask goes with visionthink calibrate --mode continue")
        if not math.isfinite(threshold := float(fixed[2])):
            raise OptionError(f"{option} {text}: the threshold must be finite; the policy low keeps every answer")
        return Gate(score=fixed[1], threshold=threshold)
    if not named or named.partition("@")[0] in SCORES:  # a score without a number behind it
        raise OptionError(f"{option} {text}: expected gate:FILE, or gate:SCORE@T with a score of {', '.join(SCORES)}")
    return Path(named)


def open_gate(named: NamedGate, policy: Any, protocol: Protocol, menu: Menu, budget: SizeRule) -> Gate:
    """The gate of a name, for a policy with what a `model.Model` holds beside it.

    Raises:
        OptionError, DataError: see `Certificate.read` and `Certificate.check`.
    """
    if isinstance(named, Gate):
        return named
    certificate = Certificate.read(named)
    identity = Identity.of(policy, protocol, menu, budget, can_request=certificate.mode == "continue")
    certificate.check(named, **vars(identity))
    return certificate.gate
