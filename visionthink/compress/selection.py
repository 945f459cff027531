"""What a compression method sees and what it answers: tensors of one sample in, the visual tokens to keep out.

A method is pure arithmetic: it holds no model and no state. It may act once before the decoder (`vision`) and at the entry of
decoder layers (`select`); the engine gathers what it sees and removes what it did not keep. Rules that hold for every method:

    count     k = max(1, round(keep N)), halves to the even neighbour; `keep=1` keeps everything, bit for bit
    order     kept tokens stay in their order and, unless `positions="renumber"`, at their positions
    ties      the lower index first
    precision half-precision inputs are scored in float32; replaced tokens come back in the input's dtype
    merging   keep one token and overwrite it; what is not overwritten is copied unchanged
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from visionthink.errors import OptionError

Rows = Literal["last", "text", "visual"]
"""Queries whose attention a method needs: the last position; all text behind the last image; all visual tokens."""

T = TypeVar("T")

Positions = Literal["keep", "renumber"]


@dataclass(frozen=True)
class Selection:
    keep: Tensor
    """[k] int64, ascending: indices into the current visual tokens of one sample. Empty: none is left."""
    values: Tensor | None = None
    """[k, D] replacements; None: the tokens stay what they are. With all tokens kept, this edits them in place."""
    others: Literal["leave", "pass"] = "leave"
    """What those that are not kept do: leave the decoder, or (`select` only) pass this layer by and stand there again behind it,
    unchanged, as in mixture-of-depths."""


@dataclass(frozen=True, kw_only=True)
class VisionContext:
    """One sample, before the decoder."""

    features: Tensor
    """[N, D] visual tokens in decoder space, image after image."""
    images: tuple[int, ...]
    """Visual tokens of each image."""
    layers: int
    """Layers of the decoder."""
    received: Tensor | None = None
    """[N] attention received in the last block of the vision tower: mean over heads, sum over the queries of the own image,
    mean over the patches of a token."""
    keys: Tensor | None = None
    """[N, head_size] keys of that block: mean over heads, mean over the patches of a token."""


@dataclass(frozen=True, kw_only=True)
class LayerContext:
    """One sample at the entry of decoder layer `layer`; L positions are left, none of them padding."""

    layer: int
    """0-based."""
    layers: int
    """Layers of the decoder."""
    hidden: Tensor
    """[L, D] hidden states."""
    visual: Tensor
    """[L] bool: the visual tokens to choose from."""
    embeddings: Tensor
    """[L, D] what entered the decoder at these positions."""
    attention: Tensor
    """[H, R, L] softmax rows of layer - 1, causal; for the rows of all visual tokens their mean, [1, 1, L]."""
    rows: Tensor
    """[R] which queries those rows are: indices into L."""
    keys: Tensor | None
    """[L, head_size] keys of layer - 1, mean over key-value heads."""
    total: int
    """Visual tokens of the sample before any was dropped."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosine and sine [L, head_size] of the rotary embedding of layer - 1."""


class Method(Protocol):
    @property
    def name(self) -> str:
        """The name of the method with its settings, as `names.parse` reads it."""

    @property
    def sees_tower(self) -> bool:
        """Whether `vision` needs `received` and `keys`."""

    @property
    def positions(self) -> Positions:
        """Whether kept tokens keep their positions or close the gaps."""

    def at(self, layers: int) -> Mapping[int, Rows]:
        """Decoder layers at whose entry `select` is asked, and the attention rows it needs there."""

    def vision(self, context: VisionContext) -> Selection | None:
        """Before the decoder; None keeps all."""

    def select(self, context: LayerContext) -> Selection | None:
        """At the entry of a decoder layer; None keeps all."""

    def kept(self, layers: int) -> list[float]:
        """Share of the visual tokens that enters each decoder layer."""


@dataclass(frozen=True, kw_only=True)
class TrainingFree:
    """What methods share: one dial, and doing nothing where they do not act."""

    family: ClassVar[str] = ""
    sees_tower: ClassVar[bool] = False
    keep: float
    positions: Positions = "keep"

    def __post_init__(self) -> None:
        check_share(self.family, "keep", self.keep)
        if self.positions not in ("keep", "renumber"):
            raise OptionError(f"{self.family} positions {self.positions!r}: choose keep or renumber")

    @property
    def name(self) -> str:
        return f"{self.family}:{self.keep:g}{self._ending}"

    @property
    def _ending(self) -> str:
        return "" if self.positions == "keep" else f":{self.positions}"

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {}

    def vision(self, context: VisionContext) -> Selection | None:
        return None

    def select(self, context: LayerContext) -> Selection | None:
        return None

    def kept(self, layers: int) -> list[float]:
        return [float(self.keep)] * layers


def check_share(family: str, option: str, value: float, least: float | None = None) -> None:
    """A share lies in (0, 1], or in [least, 1]."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value > 1 or (value <= 0 if least is None else value < least):
        lowest = "above 0" if least is None else f"from {least:g}"
        raise OptionError(f"{family} {option} {value}: a share, {lowest} and at most 1")


def check_selection(selection: Selection, tokens: Tensor, name: str) -> None:
    """Refuses an answer that is none about `tokens` [N, D]."""
    keep, values = selection.keep, selection.values
    if keep.dtype != torch.int64 or keep.ndim != 1:
        raise OptionError(f"{name}: keep is {keep.dtype} {list(keep.shape)}; indices [k] are wanted, int64")
    if len(keep) and not (keep[0] >= 0 and keep[-1] < len(tokens) and (keep[1:] > keep[:-1]).all()):
        raise OptionError(f"{name}: keep does not ascend within the {len(tokens)} visual tokens to choose from")
    if values is not None and values.shape != (len(keep), tokens.shape[1]):
        raise OptionError(f"{name}: values are {list(values.shape)} for {len(keep)} tokens of width {tokens.shape[1]}")


def required(given: T | None, family: str, what: str) -> T:
    """What was given, or a clear line when the engine could not get it."""
    if given is None:
        raise OptionError(f"{family}: needs {what}, which this model does not give")
    return given
