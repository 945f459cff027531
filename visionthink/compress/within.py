"""Trained methods that act within the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from visionthink.compress.cells import WHOLE, Cells, shape_of
from visionthink.compress.learned import Base, Learned
from visionthink.compress.parts import Attention, width_of, zeroed
from visionthink.compress.picking import count, top
from visionthink.compress.selection import LayerContext, Needs, Rows, Selection, VisionContext, check_choice, required
from visionthink.errors import OptionError

Source = Literal["levels", "pooled"]
Locality = Literal["cell", "all"]
Router = Literal["learned", "random"]
Gate = Literal["tanh", "raw"]
Schedule = Literal["interleaved", "cosine"]

LINEAR = r".*language_model\.layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj"
"""Names of the linear layers of a decoder."""


class Remember(Learned):
    """Vision Remember (arXiv 2506.03928): what is left of an image looks again at what the vision tower saw, between layers of
    the decoder.

    Tokens are means of cells before the decoder. At the entry of some layers, the hidden state h of a cell's token becomes

        h + s W_o Attention(q = W_q LN(h), k = W_k z_j, v = W_v z_j),  z_j = LN(W_l [LN(x_j1), LN(x_j2), ...])

    over the patches j of its own cell, where x_jl is the patch behind a block of the tower: three of them, and the last one, of
    which the cell's mean was made. W_o is 0 at the start, and s is the root mean square of a visual token's features. For C cells
    of A tokens of P patches, q is [C, w], k and v are [C, A P, w], with w at most 1024.

    Of the paper, abstracts and second-hand notes were seen: a local region, several levels of the tower, between layers. The
    equations, the sites, the start and the width are ours; its self-attention with a text-guided token is not here.

    Args:
        source: levels of the tower, or (`pooled`, the control) the means of the cells, which tell nothing new.
        locality: which patches a token looks at, those of its cell or all of its image.
        sites: layers at whose entry it does; by default at a quarter and at half of them.
    """

    family: ClassVar[str] = "remember"
    control: ClassVar = {"source": "pooled"}

    def __init__(
        self,
        base: Base,
        keep: float = 0.25,
        source: Source = "levels",
        locality: Locality = "cell",
        sites: Sequence[int] | None = None,
    ):
        super().__init__(base, keep)
        self.shape = shape_of(self.family, keep)
        check_choice(self.family, "source", source, Source)
        check_choice(self.family, "locality", locality, Locality)
        self.locality = locality
        levels = tuple(sorted({*base.levels, base.blocks - 1}))
        if source == "levels":
            self.needs = Needs(levels=levels)
        if sites is None:
            first = max(base.first, base.layers // 4)
            second = max(first + 1, math.ceil(base.layers / 2))
            sites = [first, second] if second < base.layers else [first]
        widths = [base.tower] * len(levels) if source == "levels" else [base.hidden]
        self.sites = nn.ModuleDict({str(site): _Look(base.hidden, widths) for site in sites})

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {int(site): "none" for site in self.sites}

    def vision(self, context: VisionContext) -> Selection | None:
        cells = Cells.of(required(context.grids, self.family, WHOLE), self.shape, context.features.device)
        return Selection(cells.keep, cells.mean(context.features.float()), mix=cells.average)

    def select(self, context: LayerContext) -> Selection | None:
        images = required(context.images, self.family, "images")
        hidden = context.hidden[context.visual].float()
        cells = Cells.of(required(images.grids, self.family, WHOLE), self.shape, hidden.device)
        own = torch.repeat_interleave(torch.arange(len(images.images)), torch.tensor(images.images)).to(hidden.device)
        if self.needs.levels:
            seen = [images.levels[block].float() for block in self.needs.levels]  # [N, P, tower width] each
            members, real, others = cells.members, cells.real, own
        else:
            seen = [cells.mean(images.features.float())[:, None]]  # [C, 1, D]
            members = torch.arange(len(hidden), device=hidden.device)[:, None]
            real, others = torch.ones_like(members, dtype=torch.bool), own[cells.keep]
        look = cast("_Look", self.sites[str(context.layer)])
        told = look.told(seen)
        patches = told.shape[1]
        if self.locality == "cell":
            found = look(hidden[:, None], told[members].flatten(1, 2), real.repeat_interleave(patches, 1)[:, None])[:, 0]
        else:
            same = own[cells.keep][:, None] == others.repeat_interleave(patches)
            found = look(hidden[None], told.flatten(0, 1)[None], same[None])[0]
        return Selection(torch.arange(len(hidden), device=hidden.device), hidden + self.scale * found)


class _Look(nn.Module):
    """One site: attention of tokens of width `hidden` to what was seen, levels of these `widths`."""

    def __init__(self, hidden: int, widths: Sequence[int]):
        super().__init__()
        width = width_of(hidden)
        self.levels = nn.ModuleList(nn.LayerNorm(level) for level in widths)
        self.seen = nn.Linear(sum(widths), width)
        self.norm, self.before = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.attention = Attention(width, hidden)
        zeroed(self.attention.out)

    def told(self, seen: Sequence[Tensor]) -> Tensor:
        """[tokens, patches, w] of levels [tokens, patches, width]."""
        told: Tensor = self.norm(self.seen(torch.cat([norm(x) for norm, x in zip(self.levels, seen, strict=True)], -1)))
        return told

    def forward(self, hidden: Tensor, told: Tensor, among: Tensor) -> Tensor:
        """[groups, queries, D] of hidden states of this shape, told [groups, keys, w], and which of them a query looks at."""
        found: Tensor = self.attention(self.before(hidden), told, told, among)
        return found


class MixtureOfDepths(Learned):
    """VideoLLM-MoD (arXiv 2408.16730): in some layers of the decoder a router sends a share of an image's tokens through, and the
    others stand behind the layer as they stood before it.

    Of the n tokens x of an image, the round(r n) with the highest w . x go through a layer, and text always does:

        x + g (Layer(x) - x),  g = 1 + 0.2 tanh(w . x),  w = 0 at the start

    Keys and values of the others are not in the cache of that layer. The decoder is tuned along, by LoRA. The paper's routing by
    frame, its share and every second layer are known from captions and notes; how it scales was not seen. This g is that of p-MoD
    (arXiv 2412.04449, which scales the feed-forward branch alone, and the skipped tokens too). Which layer is the first is ours,
    and that the last is none of them: no text reads what stands behind it, so that its router would learn nothing.

    Args:
        keep: r; for `schedule="cosine"` the least r.
        router: chooses by w . x; or (`random`, the control) by chance: anew at each step of training, afterwards by the size of
            the image alone.
        gate: g as above; or `raw`, g = w . x, as in mixture-of-depths (arXiv 2404.02258), by which the layer says nothing at the
            start.
        schedule: `interleaved`, every second layer, 1, 3, 5 ...; or `cosine`, as in p-MoD: r falls with the depth,
            cos(pi l / (T - 1)) / 2 + 1/2, and layers where it is above 0.85 are plain.
        layers: those that are routed, in place of a schedule's.
    """

    family: ClassVar[str] = "mod"
    control: ClassVar = {"router": "random"}
    any_share: ClassVar[bool] = True
    lora: ClassVar = {"r": 16, "lora_alpha": 32, "target_modules": LINEAR}
    drawn: Tensor

    def __init__(
        self,
        base: Base,
        keep: float = 0.2,
        router: Router = "learned",
        gate: Gate = "tanh",
        schedule: Schedule = "interleaved",
        layers: Sequence[int] | None = None,
    ):
        super().__init__(base, keep)
        check_choice(self.family, "router", router, Router)
        check_choice(self.family, "gate", gate, Gate)
        check_choice(self.family, "schedule", schedule, Schedule)
        self.gate, self.schedule = gate, schedule
        if layers is None:
            every = list(range(base.first, base.layers - 1)) or [base.layers - 1]
            layers = every[::2] if schedule == "interleaved" else [i for i in every if self._falling(i) <= 0.85]
        self.routed = tuple(layers)
        if not self.routed:
            raise OptionError(f"{self.family}: a decoder of {base.layers} layers has none to route")
        self.register_buffer("drawn", torch.randint(2**31, ()))
        self.routers = nn.ModuleDict(
            {str(layer): nn.Linear(base.hidden, 1, bias=False) for layer in layers if router == "learned"}
        )
        for parameter in self.routers.parameters():
            nn.init.zeros_(parameter)

    def _falling(self, layer: int) -> float:
        return math.cos(math.pi * layer / max(1, self.base.layers - 1)) / 2 + 0.5

    def share(self, layer: int) -> float:
        """Of the tokens of an image that go through a routed layer."""
        return float(self.keep) if self.schedule == "interleaved" else max(float(self.keep), self._falling(layer))

    def at(self, layers: int) -> Mapping[int, Rows]:
        return dict.fromkeys(self.routed, "none")

    def kept(self, layers: int) -> list[float]:
        return [self.share(layer) if layer in self.routed else 1.0 for layer in range(layers)]

    def select(self, context: LayerContext) -> Selection | None:
        sizes = torch.tensor(required(context.images, self.family, "images").images, device=context.hidden.device)
        places = required(context.places, self.family, "places")
        image = torch.searchsorted(sizes.cumsum(0), places, right=True)
        tokens = context.hidden[context.visual].float()
        scores = self.routers[str(context.layer)](tokens)[:, 0] if self.routers else None
        keep, start = list[Tensor](), 0
        for left in torch.bincount(image, minlength=len(sizes)).tolist():
            own = self._by_chance(context.layer, left) if scores is None else scores[start : start + left].detach()
            keep.append(start + top(own.to(tokens.device), count(self.share(context.layer), left)))
            start += left
        kept = torch.cat(keep)
        if scores is None:
            return Selection(kept, others="pass")
        gate = scores[kept] if self.gate == "raw" else 1 + 0.2 * scores[kept].tanh()
        return Selection(kept, others="pass", gate=gate)

    def _by_chance(self, layer: int, tokens: int) -> Tensor:
        if self.training:
            return torch.rand(tokens)
        return torch.from_numpy(np.random.default_rng([int(self.drawn), layer, tokens]).random(tokens))
