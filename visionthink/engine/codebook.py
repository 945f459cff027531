"""A model with a discrete image tokenizer (IBQ) in place of the vision tower: ETT (arXiv 2505.10562) in miniature.

    image [3, H, W] -> encoder -> z [h, w, d] -> nearest of K codes -> embeddings [h, w, d] -> projector -> visual tokens
                                                                                     `-> pixel decoder -> rebuilt image

One code is one visual token. The quantiser is that of IBQ (arXiv 2412.02692), restated from SEED-Voken (Apache-2.0):

    p = softmax(z E^T / t)   hard = onehot(argmax p)   onehot = hard - sg(p) + p   z_q = onehot E
    L_quant = |z_q - z|^2 + |sg(hard E) - z|^2 + .25 |hard E - sg(z)|^2        (means)

so that every code gets a gradient in every step. The entropy term is mean H(p) - H(mean p). Ours: z and E have unit norm, with
t = .07 in both terms; the convolutions, their sizes and the stride of 28 px. Not implemented: the perceptual loss, which needs a
pretrained network, and the adversarial loss. The decoder of the model is the stock one of Qwen2.5-VL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLTextModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

STRIDES = (4, 7)
"""Strides of the two convolutions that make a code of a patch. Kernels have the size of the stride, so that each convolution is
a linear layer over what `PixelUnshuffle` gathers; the pixel decoder reverses them."""


class CodebookConfig(PreTrainedConfig):
    """Configuration of the tokenizer."""

    model_type = "visionthink_codebook_tokenizer"
    base_config_key = "vision_config"
    spatial_merge_size = 1
    patch_size = STRIDES[0] * STRIDES[1]
    temporal_patch_size = 2
    in_channels = 3
    tokens_per_second = 4  # of a video; positions of images do not depend on it

    codes: int = 512
    code_size: int = 32
    first_size: int = 48
    """Channels after the first convolution and before the last one."""
    hidden_size: int = 128
    """Channels between them."""
    out_hidden_size: int = 160
    """Width of the model's decoder."""
    scale: float = 1.0
    """Factor on the projector's outputs: the root mean square of the visual tokens that the model's decoder was trained with."""
    temperature: float = 0.07
    indexed: bool = False
    """Whether the projector is a new embedding table over the indices of codes, and does not read their embeddings."""

    @property
    def intermediate_size(self) -> int:
        """The largest number of activations per visual token, by which memory is estimated."""
        return STRIDES[1] ** 2 * self.first_size


class CodebookVLConfig(Qwen2_5_VLConfig):
    """Configuration of the model: that of Qwen2.5-VL with another `vision_config`."""

    model_type = "visionthink_codebook"
    sub_configs_defaults = {"vision_config": CodebookConfig, "text_config": Qwen2_5_VLTextConfig}  # noqa: RUF012
    sub_configs = sub_configs_defaults  # its name until transformers 5.20


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Quantised vectors: `values` [..., d], `indices` [...], and two losses."""

    values: Tensor
    indices: Tensor
    loss: Tensor
    """L_quant."""
    entropy: Tensor
    """The entropy loss: low if each vector has one likely code and all codes are used."""


def quantise(z: Tensor, codebook: Tensor, temperature: float = 1.0) -> Codes:
    """Quantise vectors [..., d] by a codebook [K, d], as IBQ does."""
    soft = (z @ codebook.T / temperature).softmax(-1)
    indices = soft.argmax(-1)
    hard = F.one_hot(indices, len(codebook)).to(soft.dtype)
    values, nearest = (hard - soft.detach() + soft) @ codebook, hard @ codebook
    loss = F.mse_loss(values, z) + F.mse_loss(z, nearest.detach()) + 0.25 * F.mse_loss(nearest, z.detach())
    mean = soft.flatten(0, -2).mean(0)
    return Codes(values=values, indices=indices, loss=loss, entropy=_entropy(soft).mean() - _entropy(mean))


def _entropy(p: Tensor) -> Tensor:
    """Entropy of probabilities along the last dimension."""
    return -(p * p.clamp(min=1e-9).log()).sum(-1)


class _Residual(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, size),
            nn.GELU(),
            nn.Conv2d(size, size, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(size, size, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class CodebookTokenizer(PreTrainedModel):
    """Encoder, codebook, pixel decoder and projector, called like a vision tower.

    It has no attention, so any attention implementation is accepted. Weights are initialised as torch does by default.
    """

    config_class = CodebookConfig
    main_input_name = "pixel_values"
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: CodebookConfig):
        super().__init__(config)
        first, size, d = config.first_size, config.hidden_size, config.code_size
        near, far = STRIDES
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(near),
            nn.Conv2d(config.in_channels * near**2, first, 1),
            nn.GELU(),
            nn.PixelUnshuffle(far),
            nn.Conv2d(first * far**2, size, 1),
            _Residual(size),
            _Residual(size),
            nn.GroupNorm(8, size),
            nn.Conv2d(size, d, 1),
        )
        self.codebook = nn.Embedding(config.codes, d)
        self.pixels = nn.Sequential(
            nn.Conv2d(d, size, 1),
            _Residual(size),
            _Residual(size),
            nn.GELU(),
            nn.Conv2d(size, first * far**2, 1),
            nn.PixelShuffle(far),
            nn.GELU(),
            nn.Conv2d(first, config.in_channels * near**2, 1),
            nn.PixelShuffle(near),
        )
        out = config.out_hidden_size
        self.projector = (
            nn.Embedding(config.codes, out)
            if config.indexed
            else nn.Sequential(nn.Linear(d, out), nn.GELU(), nn.Linear(out, out))
        )
        self.spatial_merge_size = config.spatial_merge_size
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def images(self, patches: Tensor, grid: Tensor) -> Tensor:
        """Images [n, 3, h patch, w patch] from patches [n h w, values] in the order of the processor; all rows of `grid` [n, 3]
        are equal. The frames of a patch are copies of one image, of which the first is taken."""
        (_, h, w), side = grid[0].tolist(), self.config.patch_size
        cut = patches.view(-1, h, w, self.config.in_channels, self.config.temporal_patch_size, side, side)[..., 0, :, :]
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(cut), -1, h * side, w * side)

    def encode(self, images: Tensor) -> Tensor:
        """z [n, h, w, d], of unit norm."""
        return F.normalize(self.encoder(images).permute(0, 2, 3, 1), dim=-1)

    def quantise(self, z: Tensor) -> Codes:
        """Codes of z [n, h, w, d]."""
        return quantise(z, F.normalize(self.codebook.weight, dim=-1), self.config.temperature)

    def decode(self, values: Tensor) -> Tensor:
        """Images rebuilt from values [n, h, w, d]."""
        return self.pixels(values.permute(0, 3, 1, 2))

    def project(self, codes: Codes) -> Tensor:
        """Visual tokens [n, h, w, hidden] for the model's decoder."""
        return self.projector(codes.indices if self.config.indexed else codes.values) * self.config.scale

    def forward(self, pixel_values: Tensor, grid_thw: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """`pooler_output` [codes, hidden] of patches [codes, values], image by image in the order of `grid_thw` [images, 3]."""
        parts = pixel_values.split(grid_thw.prod(-1).tolist())
        features: list[Any] = [None] * len(parts)
        for shape in {tuple(row) for row in grid_thw.tolist()}:
            alike = [i for i, row in enumerate(grid_thw.tolist()) if tuple(row) == shape]
            images = self.images(torch.cat([parts[i] for i in alike]), grid_thw[alike])
            each = self.project(self.quantise(self.encode(images))).flatten(0, 2).split(len(parts[alike[0]]))
            for i, feature in zip(alike, each, strict=True):
                features[i] = feature
        return BaseModelOutputWithPooling(pooler_output=torch.cat(features))


class CodebookModel(Qwen2_5_VLModel):
    """Tokenizer and decoder."""

    config_class = CodebookVLConfig

    def __init__(self, config: CodebookVLConfig):
        super(Qwen2_5_VLModel, self).__init__(config)  # skips the constructor that builds a vision tower
        self.visual = CodebookTokenizer._from_config(config.vision_config)
        self.language_model = Qwen2_5_VLTextModel._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()


class CodebookForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """The class of Qwen2.5-VL with a `CodebookModel` inside."""

    config_class = CodebookVLConfig

    def __init__(self, config: CodebookVLConfig):
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = CodebookModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register(CodebookVLConfig.model_type, CodebookVLConfig)
AutoModelForImageTextToText.register(CodebookVLConfig, CodebookForConditionalGeneration)
