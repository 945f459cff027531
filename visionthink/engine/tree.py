"""Token sequences with every shared prefix once: a radix tree, laid out depth first in one row of tokens.

Two sequences share a token where they are equal from their first token up to it. In depth-first order the tokens that follow a
token on any sequence stand directly behind it, so that one number describes the tree: token `j` is seen by token `i` exactly if
`j <= i < end[j]`. No tensors: the same layout is read by attention on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_IMAGE_TOKENS = 20
"""Bits for the place of a visual token in its image."""
MOST_IMAGES = 1 << 42
"""Numbers of images lie below it."""


def image_keys(number: int, tokens: int) -> np.ndarray:
    """Keys of an image's visual tokens: negative, so that they differ from those of text, and other ones for every image."""
    return -1 - (number << _IMAGE_TOKENS) - np.arange(tokens, dtype=np.int64)


def row_keys(ids: Sequence[int] | np.ndarray, pad: int, images: Sequence[tuple[int, int]]) -> np.ndarray:
    """What a token is told apart by, [tokens]: its id, or its image and its place there.

    Args:
        ids: token ids, in which an image is as many `pad` as it has visual tokens.
        images: number and visual tokens of each image, in the order of reading.

    Raises:
        ValueError: there are more or fewer pads than visual tokens.
    """
    keys = np.asarray(ids, dtype=np.int64).copy()
    visual = [image_keys(number, tokens) for number, tokens in images]
    at = np.flatnonzero(keys == pad)
    if len(at) != sum(map(len, visual)):
        raise ValueError(f"the ids have room for {len(at)} visual tokens, and the images have {sum(map(len, visual))}")
    if visual:
        keys[at] = np.concatenate(visual)
    return keys


def visual(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where among `keys` visual tokens stand, the number of the image of each, and its place there."""
    at = np.flatnonzero(keys < 0)
    packed = -1 - keys[at]
    return at, packed >> _IMAGE_TOKENS, packed & ((1 << _IMAGE_TOKENS) - 1)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Queries `[first, last)` that see all the keys `[begin, end)`; or, where `causal`, each those up to itself."""

    first: int
    last: int
    begin: int
    end: int
    causal: bool


@dataclass(frozen=True, kw_only=True)
class PrefixTree:
    """Sequences with each shared prefix once.

    `keys` [tokens] are the distinct tokens, depth first; `end` [tokens] is where the tokens that follow a token end; `where` has,
    for each sequence, the places of its tokens.

    Example: the sequences `1 2 3` and `1 2 4 5` are the tokens `1 2 3 4 5` with the ends `5 5 3 5 5`.
    """

    keys: np.ndarray
    end: np.ndarray
    where: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> PrefixTree:
        """The tree of `rows`, each the keys of a sequence."""
        total = sum(map(len, rows))
        keys, end = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        where: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(rows)
        before, path, size = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 0
        # in any total order of keys, sequences that share a prefix stand together
        for i in sorted(range(len(rows)), key=lambda i: rows[i].tobytes()):
            shared = _common(before, rows[i])
            end[path[shared:]] = size
            fresh = np.arange(size, size + len(rows[i]) - shared)
            keys[fresh] = rows[i][shared:]
            before, path, size = rows[i], np.concatenate([path[:shared], fresh]), size + len(fresh)
            where[i] = path
        end[path] = size
        return cls(keys=keys[:size], end=end[:size], where=tuple(where))

    def restricted(self, kept: np.ndarray, rows: Sequence[int]) -> PrefixTree:
        """Only the tokens `kept` [tokens] of bool, and of the sequences only `rows`, all of whose tokens are kept."""
        rank = np.concatenate([[0], np.cumsum(kept)])
        return replace(
            self, keys=self.keys[kept], end=rank[self.end[kept]], where=tuple(rank[:-1][self.where[row]] for row in rows)
        )

    def parts(self, asking: np.ndarray | None = None) -> list[Part]:
        """Attention of the tokens `asking` [tokens] of bool, all without it, in parts without a mask: every segment of tokens to
        itself, and all that asks below a segment to that segment. Queries are counted among those that ask, keys among all."""
        asking = np.ones(len(self.keys), dtype=bool) if asking is None else asking
        rank = np.concatenate([[0], np.cumsum(asking)])
        breaks = 1 + np.flatnonzero((np.diff(self.end) != 0) | (np.diff(asking.astype(np.int8)) != 0))
        parts = []
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(self.keys)], strict=True):
            if begin == end:
                continue
            span = {"begin": begin, "end": end}
            if asking[begin]:
                parts.append(Part(first=int(rank[begin]), last=int(rank[end]), causal=True, **span))
            if rank[end] < rank[self.end[begin]]:
                parts.append(Part(first=int(rank[end]), last=int(rank[self.end[begin]]), causal=False, **span))
        return parts


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many of the first tokens are equal."""
    most = min(len(one), len(other))
    differ = np.flatnonzero(one[:most] != other[:most])
    return int(differ[0]) if len(differ) else most
