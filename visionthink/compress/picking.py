"""The steps that methods are made of: how many, the highest, within each image, a share solved from an average."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visionthink.compress.selection import Selection, VisionContext


def count(keep: float, tokens: int) -> int:
    """Tokens that a share is: never none of some, never more than there are."""
    return min(tokens, max(1, round(keep * tokens)))


def everything(tokens: int, device: torch.device) -> Selection:
    return Selection(torch.arange(tokens, device=device))


def top(scores: Tensor, k: int) -> Tensor:
    """Ascending indices of the k highest scores; among equals the lower index."""
    return torch.sort(scores.float(), descending=True, stable=True).indices[:k].sort().values


def replaced(tokens: Tensor, keep: Tensor, where: Tensor, values: Tensor) -> Selection:
    """Keeps `keep` of `tokens` [N, D] and overwrites those at the indices `where` (all of them kept) by `values`."""
    result = tokens[keep]
    result[torch.searchsorted(keep, where)] = values.to(tokens.dtype)
    return Selection(keep, result)


def per_image(context: VisionContext, choose: Callable[[slice], Selection]) -> Selection | None:
    """One selection for the sample from a selection within each of its images."""
    parts: list[Selection] = []
    start = 0
    for size in context.images:
        here = slice(start, start + size)
        parts.append(_shifted(choose(here), start, context.features[here]) if size else Selection(_nothing(context)))
        start += size
    if not start:
        return None
    keep = torch.cat([part.keep for part in parts])
    if all(part.values is None for part in parts):
        return Selection(keep)
    values = [context.features[part.keep] if part.values is None else part.values for part in parts]
    return Selection(keep, torch.cat(values))


def _shifted(part: Selection, start: int, features: Tensor) -> Selection:
    return Selection(part.keep.to(features.device) + start, part.values)


def _nothing(context: VisionContext) -> Tensor:
    return torch.empty(0, dtype=torch.long, device=context.features.device)


def solved(average: Callable[[float], float], target: float, high: float) -> float:
    """The x in [0, high] where a growing function reaches the target, to the last bit a float holds."""
    if average(high) <= target:
        return high
    low = 0.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if average(middle) < target else (low, middle)
    return high


def steps(layers: int, entries: Sequence[int], shares: Sequence[float]) -> list[float]:
    """The share that enters each layer: shares[0] up to the first entry, shares[i + 1] from entry i on."""
    bounds = [0, *entries, layers]
    return [share for i, share in enumerate(shares) for _ in range(bounds[i], bounds[i + 1])]


def average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
