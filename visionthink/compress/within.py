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
"""Pattern of the names of a decoder's linear layers."""


class Remember(Learned):
    """Vision Remember (arXiv 2506.03928): between layers of the decoder, visual tokens attend again to features of the vision
    tower.

    Before the decoder, each cell of tokens is replaced by its mean. At the entry of some layers, the hidden state h of the token
    of a cell becomes

        h + s W_o Attention(q = W_q LN(h), k = W_k z_j, v = W_v z_j),  z_j = LN(W_l [LN(x_j1), LN(x_j2), ...])

    over the patches j of its own cell. x_jl is the output of block l of the tower for patch j, for three blocks and the last one,
    from which the visual tokens are made. W_o is initialised to 0; s is the root mean square of the features of visual tokens.
    For C cells of A tokens of P patches, q is [C, w], k and v are [C, A P, w], with w = min(1024, D).

    The sources are abstracts and second-hand notes: attention to a local region, several levels of the tower, between layers. The
    equations, the choice of layers, the initialisation and the width are ours. Not implemented: the paper's self-attention with a
    text-guided token.

    Args:
        source: features of the vision tower, or (`pooled`, the control) the means of the cells, which contain nothing new.
        locality: whether a token attends to the patches of its own cell or to all patches of its image.
        sites: the layers at whose entry it does; by default those at a quarter and at half of the depth.
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
        self.sites = nn.ModuleDict({str(site): _Site(base.hidden, widths) for site in sites})

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
        site = cast("_Site", self.sites[str(context.layer)])
        features = site.features(seen)
        patches = features.shape[1]
        if self.locality == "cell":
            added = site(hidden[:, None], features[members].flatten(1, 2), real.repeat_interleave(patches, 1)[:, None])[:, 0]
        else:
            same = own[cells.keep][:, None] == others.repeat_interleave(patches)
            added = site(hidden[None], features.flatten(0, 1)[None], same[None])[0]
        return Selection(torch.arange(len(hidden), device=hidden.device), hidden + self.scale * added)


class _Site(nn.Module):
    """Cross-attention at one layer: from tokens of width `hidden` to features, the concatenation of levels of these `widths`."""

    def __init__(self, hidden: int, widths: Sequence[int]):
        super().__init__()
        width = width_of(hidden)
        self.levels = nn.ModuleList(nn.LayerNorm(level) for level in widths)
        self.seen = nn.Linear(sum(widths), width)
        self.norm, self.before = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.attention = Attention(width, hidden)
        zeroed(self.attention.out)

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """[tokens, patches, w] features z of levels [tokens, patches, width]."""
        normed = [norm(level) for norm, level in zip(self.levels, levels, strict=True)]
        features: Tensor = self.norm(self.seen(torch.cat(normed, -1)))
        return features

    def forward(self, hidden: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """What is added to hidden states [groups, queries, D], given features [groups, keys, w] and a mask [..., queries, keys]
        of those that a query attends to."""
        added: Tensor = self.attention(self.before(hidden), features, features, mask)
        return added


class MixtureOfDepths(Learned):
    """VideoLLM-MoD (arXiv 2408.16730), a mixture of depths: in some layers of the decoder a router selects a share of an image's
    tokens, and the other visual tokens skip the layer unchanged.

    Of the n tokens x of an image, the k = max(1, round(r n)) with the highest w . x are processed, and text always is:

        x + g (Layer(x) - x),  g = 1 + 0.2 tanh(w . x),  w = 0 at the start

    Keys and values of skipped tokens are not in the cache of that layer. The decoder is tuned together with the routers, by LoRA.

    The sources are captions and notes: routing within a frame, the share, and every second layer. Which gate the paper uses could
    not be read; g is that of p-MoD (arXiv 2412.04449) without its bias. p-MoD scales the feed-forward branch alone, and the
    skipped tokens too. Ours: which layer is the first one, and that the last layer is not routed, since no text attends to its
    output and its router would get no gradient.

    Args:
        keep: r; for `schedule="cosine"` the lowest r.
        router: selects by w . x; or (`random`, the control) at random: anew in each step of training, and afterwards as a
            function of the layer and the number of tokens.
        gate: g as above; or `raw`, g = w . x, as in the first mixture of depths (arXiv 2404.02258). With it, a routed layer
            adds nothing at the start.
        schedule: `interleaved`: every second layer, 1, 3, 5 ...; or `cosine`, as in p-MoD: r falls with the depth,
            cos(pi l / (T - 1)) / 2 + 1/2, and layers with r above 0.85 are not routed.
        layers: the routed layers, in place of those of a schedule.
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
        """Share of the tokens of an image that a routed layer processes."""
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
