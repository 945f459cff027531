"""Tables of a report as values: their cells, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from visionthink.evals.bootstrap import ENOUGH

NONE = "–"
"""Stands where a figure does not exist."""


class Cell(NamedTuple):
    """Text, what stands small beside it, and whether it is good news."""

    text: str
    small: str = ""
    good: bool | None = None

    @property
    def kind(self) -> str:
        """Its class on the page."""
        return {True: "correct", False: "wrong", None: "none" if self.text == NONE else ""}[self.good]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the page; a table without rows is left out."""

    title: str
    about: str
    """What to look for, in a sentence or two."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    terms: Mapping[str, str] = field(default_factory=dict)
    """What columns and words mean that `about` does not explain; shown when the reader asks for it."""
    notes: Sequence[str] = ()


def percent(share: float | None, small: str = "") -> Cell:
    return Cell(NONE) if share is None else Cell(f"{100 * share:.1f}", small)


def number(value: float | None, scale: float = 1.0, digits: int = 1) -> Cell:
    return Cell(NONE if value is None else f"{scale * value:.{digits}f}")


def interval(found: Mapping[str, Any] | None) -> Cell:
    """A difference in points with its interval, or with a word where there are too few examples for one."""
    if not found:
        return Cell(NONE)
    few = found["n"] < ENOUGH
    return Cell(f"{100 * found['mean']:+.1f}", "too few" if few else f"[{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]")


def count(n: int) -> Cell:
    return Cell(str(n))
