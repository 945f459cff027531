"""Relaxed accuracy of chart questions (Methani et al., arXiv 1909.00997): a number may be off by 5 %, text must be equal.

correct = |prediction - reference| / |reference| <= 0.05

`stock` is what lmms-eval computes: a number with `%` is divided by 100, a reference of 0 is compared as text, and 46 passes
for 47. `strict`: whole numbers (counts, years) must be equal, `47 %` is 47 as well as 0.47, and 0 is a number.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from visionthink.rewards.rules.quantity import read_quantity
from visionthink.rewards.rules.text import normalise

TOLERANCE = 0.05


def relaxed_accuracy(prediction: str, reference: str, form: Literal["stock", "strict"]) -> bool:
    """Whether the prediction counts as correct."""
    return _stock(prediction, reference) if form == "stock" else _strict(prediction, reference)


def _stock(prediction: str, reference: str) -> bool:
    said, wanted = _stock_number(prediction), _stock_number(reference)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= TOLERANCE
    return prediction.strip().lower() == reference.strip().lower()


def _stock_number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _strict(prediction: str, reference: str) -> bool:
    said, wanted = read_quantity(prediction), read_quantity(reference)
    if said is None or wanted is None or said.numeral.likely is None or wanted.numeral.likely is None:
        return normalise(prediction) == normalise(reference)
    a, b = said.numeral.likely.value, wanted.numeral.likely.value
    if said.kind != wanted.kind and {said.kind, wanted.kind} == {"plain", "percent"}:
        return any(_near(value, b) for value in ({a, a / 100} if said.kind == "percent" else {a, a * 100}))
    return (said.kind, said.unit) == (wanted.kind, wanted.unit) and _near(a, b)


def _near(said: Fraction, wanted: Fraction) -> bool:
    if said == wanted:
        return True
    if said.denominator == wanted.denominator == 1:
        return False
    return abs(said - wanted) <= Fraction(1, 20) * abs(wanted)
