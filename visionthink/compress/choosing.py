"""Trained methods that select visual tokens before the decoder: of the N tokens of each image, the k = max(1, round(keep N)) with
the highest learned scores.

Selected tokens are copied unchanged and keep their positions. A hard selection has no gradient: training replaces it by a
differentiable one and keeps all tokens. Once fitted, a module can be used with any share.

The control of both selects as many tokens at random and has no parameters to train: it is `drop-random` with a seed that is drawn
when the module is made and is saved with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy, gumbel_softmax

from visionthink.compress.baselines import Random
from visionthink.compress.cells import WHOLE
from visionthink.compress.encoder import Encoder, Images
from visionthink.compress.learned import Base, Learned
from visionthink.compress.parts import Standard
from visionthink.compress.picking import count, per_image, top
from visionthink.compress.selection import Grid, Selection, VisionContext, check_choice, check_share, required
from visionthink.errors import OptionError

Scores = Literal["learned", "random"]


class Chooser(Learned):
    """Base class: the selection by score, and the control.

    Args:
        scores: `learned`, or `random` for the control.
    """

    control: ClassVar[Mapping[str, Any]] = {"scores": "random"}
    any_share: ClassVar[bool] = True
    seed: Tensor

    def __init__(self, base: Base, keep: float, scores: Scores):
        super().__init__(base, keep)
        check_choice(self.family, "scores", scores, Scores)
        self.random = scores == "random"
        self.register_buffer("seed", torch.randint(2**31, ()))
        """Seed of the random selection of the control."""

    def vision(self, context: VisionContext) -> Selection | None:
        if self.random:
            return Random(keep=self.keep, seed=int(self.seed)).vision(context)
        if self.training:
            return self.soft_selection(context)
        scores = self.scores(context)
        return per_image(context, lambda image: Selection(top(scores[image], count(self.keep, image.stop - image.start))))

    def scores(self, context: VisionContext) -> Tensor:
        """Scores [N] of the tokens of all images."""
        raise NotImplementedError

    def soft_selection(self, context: VisionContext) -> Selection | None:
        """The differentiable replacement of the selection in training, which keeps all tokens."""
        raise NotImplementedError

    def kept(self, layers: int) -> list[float]:
        return [1.0] * layers if self.training and not self.random else super().kept(layers)


class Selector(Chooser):
    """The selector of "When less is enough" (arXiv 2503.16660): it selects the tokens from which the others can be reconstructed.
    It is trained without the answers, and without running the decoder.

    F [N, D] are the features of an image, S (selector) and R (reconstructor) are small Transformers, M [N] is a mask of zeros and
    ones, and e [D] is one learned embedding that replaces masked features:

        M = Gumbel-softmax(S(F)),  L = rms(R(M F + (1 - M) e) - F) + lambda max(mean(M), p)

    The mask is hard in the forward pass and soft in the backward pass (straight-through). After training, S(F) is the score. The
    mean of the mask and the error are taken over all images of a batch.

    From the paper: S, R and e, three layers each, the sum of both terms, the floor p, and the selection by score. Ours, where the
    paper gives no value or its form has no effect (next to the error of raw features the second term vanishes): F standardised
    per dimension, the root mean square in place of a norm, lambda = 5, temperature 1, the inner width, and 2-D sinusoidal
    positions.

    Args:
        floor: p; a share of tokens below p does not reduce the loss further. None: `keep`. At 0 the share falls until the error
            outweighs it.
        weight: lambda.
        layers: number of layers of S, and of R.
        width: width of their hidden states, a multiple of 4; None: that of the tokens, but at most 512.
    """

    family: ClassVar[str] = "select"
    reconstructs: ClassVar[bool] = True

    def __init__(
        self,
        base: Base,
        keep: float = 0.5,
        floor: float | None = None,
        weight: float = 5.0,
        layers: int = 3,
        width: int | None = None,
        scores: Scores = "learned",
    ):
        super().__init__(base, keep, scores)
        self.floor, self.weight = keep if floor is None else floor, weight
        check_share(self.family, "floor", self.floor, least=0)
        _at_least(self.family, "weight", weight, 0)
        _at_least(self.family, "layers", layers, 1)
        width = min(512, base.hidden) if width is None else width
        if width < 4 or width % 4:
            raise OptionError(f"{self.family} width {width}: must be a multiple of 4")
        self.standard = Standard(base.hidden)
        self._seen: list[tuple[Tensor, Grid]] = []
        """Features and grids of the images since the last call of `losses`."""
        if not self.random:
            self.selector = Encoder(base.hidden, 1, layers=layers, width=width)
            self.reconstructor = Encoder(base.hidden, base.hidden, layers=layers, width=width)
            self.masked = nn.Parameter(torch.zeros(base.hidden))

    def measure(self, contexts: Sequence[VisionContext]) -> None:
        super().measure(contexts)
        self.standard.measure(torch.cat([context.features for context in contexts]))

    def soft_selection(self, context: VisionContext) -> Selection | None:
        self._seen += self.images(context)
        return None

    def scores(self, context: VisionContext) -> Tensor:
        return torch.cat([self.logits(self.standardised([image]))[0] for image in self.images(context)])

    def images(self, context: VisionContext) -> list[tuple[Tensor, Grid]]:
        """Features [N, D] and grid of each image."""
        grids = required(context.grids, self.family, WHOLE)
        return list(zip(context.features.detach().split(context.images), grids, strict=True))

    def losses(self) -> dict[str, Tensor]:
        if not self._seen:
            return {}
        images, self._seen = self.standardised(self._seen), []
        mask = sample_mask(self.logits(images))
        return {"reconstruct": self.error(images, mask), "budget": self.weight * budget(mask[images.real], self.floor)}

    def standardised(self, images: Sequence[tuple[Tensor, Grid]]) -> Images:
        """One batch of images, given as features [N, D] and grids; the features are standardised."""
        return Images.of([(self.standard(features), grid) for features, grid in images])

    def logits(self, images: Images) -> Tensor:
        """Logits [B, N] of being selected."""
        scores: Tensor = self.selector(images.tokens, images)[..., 0]
        return scores

    def error(self, images: Images, mask: Tensor) -> Tensor:
        """Root mean square error of the reconstruction from the features whose mask [B, N] is 1."""
        visible = mask[..., None] * images.tokens + (1 - mask[..., None]) * self.masked
        difference: Tensor = self.reconstructor(visible, images) - images.tokens
        return difference[images.real].pow(2).mean().sqrt()


def sample_mask(logits: Tensor) -> Tensor:
    """A random mask: 1 where the logit plus logistic noise is above 0, otherwise 0. The gradient is that of the soft mask."""
    return gumbel_softmax(torch.stack((logits, torch.zeros_like(logits)), -1), hard=True)[..., 0]


def budget(mask: Tensor, floor: float) -> Tensor:
    """max(mean(M), p): the selected share, but at least the floor.

    Example: .5 for the mask (1, 0, 0, 1) and floor .25; .25, without a gradient, for a mean of .2.
    """
    return mask.mean().clamp_min(floor)


class Importance(Chooser):
    """VisionSelector (arXiv 2510.16598), a learnable importance scorer: it is trained with the loss of the answers through a soft
    top-k.

    For the N tokens x_i of an image, with matrices of D x h, h = D / 2:

        s_i = mean_j (W_q x_i + b_q) . (W_k x_j + b_k) / sqrt(h) = (W_q x_i + b_q) . (W_k mean_j x_j + b_k) / sqrt(h)
        m = sigmoid(s + t),  with t such that sum_i m_i = k

    In training every token, and its DeepStack features on Qwen3-VL, is multiplied by its m, and none is removed. The loss of the
    answers gains lambda BCE(m, mask of the k highest), which pushes m towards 0 and 1. After training the k highest are kept.

    From the authors' code: the score, its initialisation (normal with deviation 1e-4), the soft top-k and its gradient, and the
    two losses. Ours: mean and k are those of one image (in the authors' training those of all images of a batch), the scaling of
    DeepStack features, and lambda, which grows from 0 to .2: the authors' .1 to 2 fixes an early order of the tokens.

    Args:
        polarise: lambda at the end of the training.
    """

    family: ClassVar[str] = "lis"

    def __init__(self, base: Base, keep: float = 0.5, polarise: float = 0.2, scores: Scores = "learned"):
        super().__init__(base, keep, scores)
        _at_least(self.family, "polarise", polarise, 0)
        self.polarise, self.done = polarise, 0.0
        self._polarisation: list[Tensor] = []
        """BCE of each image since the last call of `losses`."""
        if not self.random:
            self.query, self.key = (nn.Linear(base.hidden, base.hidden // 2) for _ in range(2))
            for layer in (self.query, self.key):
                nn.init.normal_(layer.weight, std=1e-4)
                nn.init.zeros_(layer.bias)

    def progress(self, done: float) -> None:
        self.done = done

    def score(self, tokens: Tensor) -> Tensor:
        """Scores [N] of the tokens [N, D] of an image. The mean is taken first, and W_q is applied to its key: N D + 2 D h
        products instead of N N h."""
        key = self.key(tokens.mean(0, keepdim=True)) / self.query.out_features**0.5
        scores: Tensor = tokens @ (key @ self.query.weight).T + key @ self.query.bias[:, None]
        return scores[:, 0]

    def scores(self, context: VisionContext) -> Tensor:
        return torch.cat([self.score(image) for image in context.features.float().split(context.images)])

    def soft_selection(self, context: VisionContext) -> Selection | None:
        weights = list[Tensor]()
        for tokens in context.features.float().split(context.images):
            if not len(tokens):
                continue
            scores, k = self.score(tokens), count(self.keep, len(tokens))
            weights.append(soft_top(scores, k))
            hard = torch.zeros_like(scores).index_fill(0, top(scores.detach(), k), 1)
            self._polarisation.append(binary_cross_entropy(weights[-1], hard))
        if not weights:
            return None
        m, features = torch.cat(weights), context.features
        return Selection(torch.arange(len(m), device=m.device), (features.float() * m[:, None]).to(features.dtype), mix=m.diag())

    def losses(self) -> dict[str, Tensor]:
        if not self._polarisation:
            return {}
        mean, self._polarisation = torch.stack(self._polarisation).mean(), []
        return {"polarise": self.polarise * self.done * mean}


class _SoftTop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        if k >= len(scores):
            m = torch.ones_like(scores)
        else:
            odds = torch.logit(scores.new_tensor(k / len(scores)))
            low, high = odds - scores.max(), odds - scores.min()
            for _ in range(torch.finfo(scores.dtype).bits):
                middle = (low + high) / 2
                short = (scores + middle).sigmoid().sum() < k
                low, high = torch.where(short, middle, low), torch.where(short, high, middle)
            m = (scores + high).sigmoid()
        ctx.save_for_backward(m)
        return m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (m,) = ctx.saved_tensors
        slope = m * (1 - m)
        moved = (slope * gradient).sum() / slope.sum().clamp_min(torch.finfo(m.dtype).tiny)
        return slope * (gradient - moved), None


def soft_top(scores: Tensor, k: int) -> Tensor:
    """m = sigmoid(s + t) [N] of scores s [N], with t found by bisection such that sum m = k. As t depends on the scores,

        dL/ds = v g - v (v . g) / sum v,  v = m (1 - m),  g = dL/dm

    Example: (.7311, .2689) for scores (1, -1) and k = 1.
    """
    m: Tensor = _SoftTop.apply(scores, k)
    return m


def _at_least(family: str, option: str, value: float, least: int) -> None:
    if not value >= least:
        raise OptionError(f"{family} {option} {value}: must be at least {least}")
