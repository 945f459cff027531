"""How the error of a vision-language model falls with its size and with its visual tokens (arXiv 2411.03312):

    Y(N, T) = (A / N^alpha) (B / T^beta) + D

Only the product of A and B can be determined from data, so it is what is fitted. The ratio alpha / beta compares the benefit of
more parameters with that of more visual tokens. The fit is by least squares from several starting points, with all numbers at
least 0; the authors search a shuffled grid instead (docs/how-to/learned-compression.md compares the results).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionthink.errors import DataError

_FIELDS = ("product", "alpha", "beta", "D")
_STARTS = (0.0, 0.1, 0.2, 0.3)
"""Starting points of D."""


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """A fitted law. `at_bound` names the fields whose value is a bound of the fit, and so not determined by the data."""

    product: float
    """A times B."""
    alpha: float
    beta: float
    D: float
    at_bound: tuple[str, ...]
    squared_error: float
    """Summed over the measurements."""

    @property
    def ratio(self) -> float:
        """alpha / beta; infinite if the number of tokens makes no difference."""
        return self.alpha / self.beta if self.beta else float("inf")

    def predict(self, N: Any, T: Any) -> Any:
        """The predicted error for sizes N and numbers of visual tokens T."""
        return self.product / np.asarray(N) ** self.alpha / np.asarray(T) ** self.beta + self.D


def fit_scaling(errors: Any, N: Sequence[float], T: Sequence[float]) -> ScalingLaw:
    """Fit the law.

    Args:
        errors: mean errors [sizes, tokens], from 0 to 1; NaN where nothing was measured.
        N: sizes of the models, in any unit.
        T: numbers of visual tokens. If the text tokens of the prompt are added to them, the law is about all tokens.

    Raises:
        DataError: the table has another shape, contains impossible values, or is too small to fit four numbers.
    """
    from scipy.optimize import least_squares

    table = np.asarray(errors, dtype=float)
    sizes, tokens = np.asarray(N, dtype=float), np.asarray(T, dtype=float)
    if table.shape != (len(sizes), len(tokens)):
        raise DataError(
            f"errors: are {list(table.shape)}; expected a row for each of {len(sizes)} N, a column for each of {len(tokens)} T"
        )
    if not (np.all(sizes > 0) and np.all(tokens > 0)):
        raise DataError("N and T: must be above 0")
    known = ~np.isnan(table)
    if known.sum() < len(_FIELDS) or min(len(np.unique(i)) for i in np.nonzero(known)) < 2:
        raise DataError("errors: four numbers are fitted, to at least four errors at two N and two T")
    y, (n, t) = table[known], (x[known] for x in np.meshgrid(sizes, tokens, indexing="ij"))
    if not np.all((y > 0) & (y <= 1)):
        raise DataError("errors: must be above 0 and at most 1, as 1 - accuracy")
    upper = [np.inf, np.inf, np.inf, y.min()]
    fits = [
        least_squares(
            lambda p: p[0] * n ** -p[1] * t ** -p[2] + p[3] - y, [0.5, 0.05, 0.05, min(d, y.min() / 2)], bounds=([0] * 4, upper)
        )
        for d in _STARTS
    ]
    best = min(fits, key=lambda fit: fit.cost)
    held = tuple(name for name, mask in zip(_FIELDS, best.active_mask, strict=True) if mask)
    found = {name: 0.0 if mask < 0 else float(x) for name, x, mask in zip(_FIELDS, best.x, best.active_mask, strict=True)}
    return ScalingLaw(**found, at_bound=held, squared_error=float(2 * best.cost))
