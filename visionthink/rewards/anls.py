"""ANLS: average normalised Levenshtein similarity, of one answer (Biten et al., arXiv 1905.13648).

ANLS = max over references of s, where s = 1 - d / max(|a|, |b|) if that is at least 0.5, else 0; d is the edit distance of the
two texts in lower case without outer white space.
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def anls(prediction: str, references: Sequence[str]) -> float:
    """The score, from 0 to 1; 0 without references."""
    return max((_similarity(prediction, r) for r in references), default=0.0)


def _similarity(prediction: str, reference: str) -> float:
    a, b = (" ".join(t.casefold().split()) for t in (prediction, reference))
    if not a and not b:
        return 1.0
    similarity = 1 - _distance(a, b) / max(len(a), len(b))
    return similarity if similarity >= THRESHOLD else 0.0


def _distance(a: str, b: str) -> int:
    """Levenshtein: insertions, deletions and substitutions cost 1."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
