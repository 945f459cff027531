"""What a rule is given and what it says. A rule is sure or says so; it never guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Finding = Literal["same", "different", "unsure"]
"""`unsure` ends the search: the rule applies and cannot tell."""


@dataclass(frozen=True)
class Pair:
    """A predicted answer and one reference, and the question both belong to ("" where it is not known)."""

    said: str
    wanted: str
    question: str = ""


Rule: TypeAlias = Callable[[Pair], "Finding | None"]
"""None: the rule does not apply to this pair."""
