"""Sizes of a model and of the longest episode that a run may have, known before any weights are loaded."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionthink.resolution import PixelBudget
    from visionthink.train.config import TrainConfig

_QUESTION = 100
"""Characters of a question."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model."""

    config: Any
    """The configuration in transformers."""
    budget: PixelBudget
    """The sizes its images may have."""
    text_tokens: int = 500
    """Tokens of an episode that are neither visual nor said by the model; the longest of our prompts has some 400 for Qwen."""

    @functools.cached_property
    def modules(self) -> Any:
        """The model without its weights."""
        import torch
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(self.config, trust_remote_code=False)

    @functools.cached_property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.modules.parameters())

    @property
    def patches(self) -> int:
        """The number of patches of a visual token."""
        return int(self.config.vision_config.spatial_merge_size**2)

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        vision = self.config.vision_config
        return int(vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)

    def adapter(self, rank: int) -> int:
        """Parameters of an adapter on the language model's linear layers."""
        from visionthink.train.settings import ADAPTED

        layers = [module for name, module in self.modules.named_modules() if re.fullmatch(ADAPTED, name)]
        return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def read_sizes(config: TrainConfig) -> Sizes:
    """Of the checkpoint that a run begins with, without its weights.

    Raises:
        ModelError: its files are missing or damaged.
    """
    from PIL import Image

    from visionthink.episode import Episode
    from visionthink.picture import Picture
    from visionthink.policies.checkpoint import check_files, describe
    from visionthink.policies.render import Renderer
    from visionthink.types import Example

    check_files(config.model)
    found = describe(config.model)
    side = 16 * found.budget.factor
    picture = Picture(Image.new("RGB", (side, side)))
    example = Example("", "?" * _QUESTION, picture.image)
    protocol = found.protocol.with_dialect(config.chosen_dialect)
    episode = Episode(example, [picture], config.rollout_menu(), protocol, budget=found.budget)
    prompt = Renderer(found.tokenizer, protocol.boundary).prompt_ids(episode.history)
    visual = episode.space.tokens(episode.space.opening)
    return Sizes(config=found.config, budget=found.budget, text_tokens=len(prompt) - visual)


def longest(config: TrainConfig, sizes: Sizes) -> tuple[int, int]:
    """Tokens that an episode may take, and how many of them are visual, by the settings alone."""
    menu = config.rollout_menu()
    budget = config.limited(sizes.budget)
    full = budget.max_pixels // budget.factor**2
    if menu.most_tokens:
        full = min(full, menu.most_tokens)
    levels, turns = menu.ladder.levels, menu.most_turns
    relative = sum(levels[:turns]) + max(0, turns - len(levels)) * menu.crop_level
    context = sizes.config.get_text_config().max_position_embeddings
    visual = min(round(full * min(relative, menu.allowance or relative)), context)
    return min(visual + turns * config.max_new_tokens + sizes.text_tokens, context), visual
