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

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor

from visionthink.errors import OptionError

Rows = Literal["last", "text", "visual", "none"]
"""Queries whose attention a method needs: the last position; all text behind the last image; all visual tokens; none."""

Question = Literal["unread", "embedded", "read"]
"""How a method is given the question: not at all, as embeddings, or as hidden states of a decoder that reads the text alone."""

T = TypeVar("T")

Grid: TypeAlias = tuple[int, int, int]

Positions = Literal["keep", "renumber"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the engine gathers for a method in addition to the visual tokens."""

    attention: bool = False
    """`received` and `keys` of the vision tower's last block."""
    levels: tuple[int, ...] = ()
    """Blocks of the vision tower whose outputs are wanted."""
    question: Question = "unread"
    within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """A context that is entered for the length of a session, by methods that bring their own layers of the decoder. Other threads
    that use the model during the session use those layers too."""


@dataclass(frozen=True)
class Selection:
    """The answer of a method for one sample."""

    keep: Tensor
    """[k] int64, ascending: indices into the current visual tokens of one sample. Empty: no token is kept."""
    values: Tensor | None = None
    """[k, D] new values of the kept tokens; None: they are unchanged. With all tokens kept, this edits them in place."""
    _: KW_ONLY
    others: Literal["leave", "pass"] = "leave"
    """What happens to tokens that are not kept: they leave the decoder, or (`select` only) they skip this layer unchanged and are
    there again behind it, as in a mixture of depths."""
    mix: Tensor | None = None
    """[k, N] (`vision` only): the kept tokens, and their DeepStack features on Qwen3-VL, become these sums of all tokens. Where
    `values` are given too, they take precedence for the tokens. Example: with N = 4 and k = 2, the rows [.5, .5, 0, 0] and
    [0, 0, .5, .5] are means of neighbours."""
    gate: Tensor | None = None
    """[k] (`select` only): scales what the layer adds to a kept token, x + gate (Layer(x) - x)."""


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
    grids: tuple[Grid, ...] | None = None
    """(frames, rows, columns) of each image in visual tokens, which stand row by row. None where an image has no grid, because
    the prompt ends in it and its last token is withheld."""
    levels: Mapping[int, Tensor] = field(default_factory=dict)
    """[N, patches of a token, tower width]: outputs of the blocks of the tower that `needs` names."""
    question: Tensor | None = None
    """[Q, D] the text of the turn that shows the first image, as `needs` says: embeddings, or hidden states of the decoder's last
    layer."""


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
    """[H, R, L] softmax rows of layer - 1, causal; for the rows of all visual tokens their mean, [1, 1, L]. R is 0 where no
    attention was asked for."""
    rows: Tensor
    """[R] which queries those rows are: indices into L."""
    keys: Tensor | None
    """[L, head_size] keys of layer - 1, mean over key-value heads."""
    total: int
    """Visual tokens of the sample before any was dropped."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosine and sine [L, head_size] of the rotary embedding of layer - 1."""
    images: VisionContext | None = None
    """What `vision` was asked about."""
    places: Tensor | None = None
    """[remaining visual tokens] index of each of them in `images.features`."""


class Method(Protocol):
    @property
    def name(self) -> str:
        """The family and the share, for messages and reports. Of a training-free method, `names.parse` can read it."""

    @property
    def needs(self) -> Needs:
        """What `vision` and `select` are given."""

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


class Idle:
    """Base class of methods: it does nothing, and its share is the same in all layers."""

    keep: float

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {}

    def vision(self, context: VisionContext) -> Selection | None:
        return None

    def select(self, context: LayerContext) -> Selection | None:
        return None

    def kept(self, layers: int) -> list[float]:
        return [float(self.keep)] * layers


@dataclass(frozen=True, kw_only=True)
class TrainingFree(Idle):
    """Base class of the training-free methods, whose setting is the share of tokens to keep."""

    family: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()
    keep: float
    positions: Positions = "keep"

    def __post_init__(self) -> None:
        check_share(self.family, "keep", self.keep)
        check_choice(self.family, "positions", self.positions, Positions)

    @property
    def name(self) -> str:
        return f"{self.family}:{self.keep:g}{self._ending}"

    @property
    def _ending(self) -> str:
        return "" if self.positions == "keep" else f":{self.positions}"


def check_share(family: str, option: str, value: float, least: float | None = None) -> None:
    """Refuse a value outside of (0, 1], or of [least, 1]."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value > 1 or (value <= 0 if least is None else value < least):
        lowest = "above 0" if least is None else f"from {least:g}"
        raise OptionError(f"{family} {option} {value}: a share, {lowest} and at most 1")


def check_choice(family: str, option: str, value: str, kind: Any) -> None:
    """Refuse a value that the `Literal` type `kind` does not contain."""
    *choices, last = get_args(kind)
    if value not in (*choices, last):
        raise OptionError(f"{family} {option} {value!r}: choose {', '.join(choices)} or {last}")


def check_selection(selection: Selection, tokens: Tensor, name: str) -> None:
    """Refuse a selection whose shapes or indices do not fit to `tokens` [N, D]."""
    keep, values, mix, gate = selection.keep, selection.values, selection.mix, selection.gate
    if keep.dtype != torch.int64 or keep.ndim != 1:
        raise OptionError(f"{name}: keep is {keep.dtype} {list(keep.shape)}; indices [k] are wanted, int64")
    if len(keep) and not (keep[0] >= 0 and keep[-1] < len(tokens) and (keep[1:] > keep[:-1]).all()):
        raise OptionError(f"{name}: keep does not ascend within the {len(tokens)} visual tokens to choose from")
    if values is not None and values.shape != (len(keep), tokens.shape[1]):
        raise OptionError(f"{name}: values are {list(values.shape)} for {len(keep)} tokens of width {tokens.shape[1]}")
    if mix is not None and mix.shape != (len(keep), len(tokens)):
        raise OptionError(f"{name}: mix is {list(mix.shape)} for {len(keep)} of {len(tokens)} tokens")
    if gate is not None and gate.shape != (len(keep),):
        raise OptionError(f"{name}: gate is {list(gate.shape)} for {len(keep)} tokens")


def required(given: T | None, family: str, what: str) -> T:
    """The value; an error with a clear message where the engine could not provide it."""
    if given is None:
        raise OptionError(f"{family}: needs {what}, which this model or this prompt does not give")
    return given
