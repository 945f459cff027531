"""What judging cost, over several workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

_SHARES = {"passed_on": "seen", "agreement": "audited"}
"""Figures of a cascade that are shares, and what they are shares of."""


def total(usages: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums, and shares of sums, of what `Judge.usage` of each worker says."""
    summed: Counter[str] = Counter()
    for usage in usages:
        for name, value in usage.items():
            whole = _whole(name)
            summed[name] += value * usage[whole] if whole else value  # type: ignore[assignment]
    return {name: (value / (summed[whole] or 1)) if (whole := _whole(name)) else value for name, value in summed.items()}


def _whole(name: str) -> str:
    """The name of what a figure is a share of; empty where it is none."""
    stage, slash, figure = name.rpartition("/")
    return f"{stage}{slash}{_SHARES[figure]}" if figure in _SHARES else ""
