"""Whether looking twice is expected to pay: low views, and now and then full ones as well, against the full ones alone."""

from __future__ import annotations

from collections import deque

_MEASURED = 200
"""Answers over which the share of second looks is measured."""
_ENOUGH = 20
"""Answers before the measured share counts."""
_PROBE = 20
"""One answer in so many is adaptive where that does not pay, so that the share stays measured."""


class SavingsEstimate:
    """How often a second look was taken under one rule, and where adaptive answers therefore cost more than the full views."""

    def __init__(self) -> None:
        self._looked_again: deque[bool] = deque(maxlen=_MEASURED)
        self._skipped = 0

    @property
    def request_ratio(self) -> float | None:
        """Share of the last adaptive answers that took a second look; None before there were enough of them."""
        return sum(self._looked_again) / len(self._looked_again) if len(self._looked_again) >= _ENOUGH else None

    def record(self, looked_again: bool) -> None:
        """An adaptive answer was given."""
        self._looked_again.append(looked_again)

    def reason_to_skip(self, low: int, full: int, overhead: int) -> str:
        """Empty where an adaptive answer is expected to cost less; else why not, in one sentence.

        Args:
            low, full: visual tokens of the opening, and if it were all at full.
            overhead: tokens of the prompt that the offer to ask for more takes, in every round.
        """
        if low >= full:
            return "The images are so small that lower views would save nothing."
        ratio = self.request_ratio
        expected = ratio or 0.0
        if low + expected * full + (1 + expected) * overhead < full:
            return ""
        if low + overhead >= full:
            return "The images are so small that the offer to ask for more would cost more than it saves."
        self._skipped += 1
        if self._skipped % _PROBE == 0:
            return ""
        often = f"{100 * expected:.0f} % of the last answers took a second look"
        return f"{often}, which costs more than it saves, the text of the offer included."
