"""Whether it pays to look twice: the low views, and now and then the full ones as well, against the full ones alone."""

from __future__ import annotations

from collections import deque

_MEASURED = 200
"""Answers over which the share of requests is measured."""
_ENOUGH = 20
"""Answers before the measured share counts."""
_PROBE = 20
"""One answer in so many is adaptive where it does not pay, so that the share stays measured."""


class Paying:
    """Measures how often a closer look was asked for, and tells where adaptive answers cost more than the full views."""

    def __init__(self) -> None:
        self._asked: deque[bool] = deque(maxlen=_MEASURED)
        self._refused = 0

    @property
    def request_ratio(self) -> float | None:
        """Share of the last adaptive answers for which more was asked for; None before there were enough of them."""
        return sum(self._asked) / len(self._asked) if len(self._asked) >= _ENOUGH else None

    def record(self, asked: bool) -> None:
        """An adaptive answer was given."""
        self._asked.append(asked)

    def why_not(self, low: int, full: int, overhead: int) -> str:
        """Empty where an adaptive answer is expected to cost less; else why not, in one sentence.

        Args:
            low, full: visual tokens of the low and of the full views.
            overhead: tokens of the prompt that the offer to ask takes, in every round.
        """
        if low >= full:
            return "The images are so small that a lower view would save nothing."
        ratio = self.request_ratio or 0.0
        if low + ratio * full + (1 + ratio) * overhead < full:
            return ""
        if self.request_ratio is None:
            return "The images are so small that the offer to ask for more would cost more than it saves."
        self._refused += 1
        if self._refused % _PROBE == 0:
            return ""
        return f"{100 * ratio:.0f} % of the last answers asked for more, so that looking twice costs more than it saves."
