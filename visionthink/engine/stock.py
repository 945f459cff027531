"""Generation by `generate` of transformers, by the same rule and from the same random numbers: every prompt is read as a whole,
padded on the left to the longest.

For prompts out of which visual tokens are taken while they are read, and for models whose prefixes cannot be shared
(`attention.why_not`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from visionthink.engine.sampling import Listen, Said, Sampling, Streams
from visionthink.engine.tower import Pixels, PreparedImages
from visionthink.types import Spread


class StockGeneration:
    """Completes as `engine.Engine` does; nothing is kept for the next call but prepared images.

    Args:
        model: a stock Qwen-VL model.
        images: prepared images.
        pad: id of the image pad token.
        padding: id of the token on the left of shorter prompts.
    """

    bytes_held = 0

    def __init__(self, model: Any, images: PreparedImages, pad: int, padding: int):
        self.model, self.images, self.pad, self.padding = model, images, pad, padding
        self.first_token = 0.0
        """When the first tokens of the last call were sampled, by `time.perf_counter`."""

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image.Image]],
        sampling: Sampling,
        streams: Streams | None = None,
        *,
        listen: Listen | None = None,
    ) -> list[Said]:
        """What is said after each prompt; see `engine.Engine.complete`. A row that ends early is computed on, to no effect, until
        the last one has ended."""
        if not prompts:
            return []
        prepared = self.images.of(images)
        self.images.keep({image.number for row in prepared for image in row})  # a second round shows the first view again
        with sampling.numbers(streams, prompts, prepared) as numbers:
            draws = _Draws(sampling, numbers, listen)
            output = self.model.generate(
                **self.inputs(prompts, prepared),
                max_new_tokens=sampling.most,
                do_sample=False,  # the token is drawn before
                eos_token_id=sorted(sampling.ends),
                pad_token_id=self.padding,
                logits_processor=LogitsProcessorList([draws]),
            )
        self.first_token = draws.first_token
        sampled = output[:, max(map(len, prompts)) :].tolist()
        logprobs = torch.stack(draws.logprobs, 1).tolist()
        spreads = torch.stack(draws.spreads, 1).tolist() if draws.spreads else [[] for _ in sampled]
        return [
            Said(ids=tuple(ids[:n]), logprobs=tuple(scores[:n]), spreads=tuple(Spread(*spread) for spread in measured[:n]))
            for ids, scores, measured, n in zip(sampled, logprobs, spreads, draws.lengths, strict=True)
        ]

    def inputs(self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Pixels]]) -> dict[str, Tensor]:
        """Left-padded input_ids and attention_mask [prompts, longest], pixel_values [patches, values of a patch], image_grid_thw
        [images, 3]."""
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.tensor([[*[self.padding] * (width - len(prompt)), *prompt] for prompt in prompts])
        behind = width - torch.tensor([len(prompt) for prompt in prompts])
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(width) >= behind[:, None]).long()}
        shown = [image for row in images for image in row]
        if shown:
            inputs |= {
                "pixel_values": torch.cat([image.pixels for image in shown]).to(self.model.dtype),
                "image_grid_thw": torch.from_numpy(np.array([image.grid for image in shown])),
                "mm_token_type_ids": (ids == self.pad).long(),
            }
        return {name: tensor.to(device) for name, tensor in inputs.items()}


class _Draws(LogitsProcessor):
    """Draws the next tokens by our rule, and leaves `generate` no other choice.

    It is the only processor, so that the scores are the model's own logits.
    """

    def __init__(self, sampling: Sampling, streams: Sequence[np.random.Generator] | None, listen: Listen | None):
        self._sampling, self._streams, self._listen = sampling, streams, listen
        self.lengths: list[int] = []
        """Tokens of each row up to its end; padding stands behind it."""
        self._live: list[int] = []
        self.logprobs: list[Tensor] = []
        """The log-probabilities of the tokens that were drawn, one tensor [prompts] for each step."""
        self.spreads: list[Tensor] = []
        """[prompts, 3] for each step, where they are asked for."""
        self.first_token = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn, logprobs, spreads = self._sampling.draw(scores, input_ids[:, -self._sampling.memory :].tolist(), self._streams)
        tokens = drawn.tolist()  # a GPU is waited for
        if not self.logprobs:
            self.first_token = time.perf_counter()
            self.lengths, self._live = [0] * len(tokens), list(range(len(tokens)))
        self.logprobs.append(logprobs)
        if spreads is not None:
            self.spreads.append(spreads)
        of_live = [tokens[row] for row in self._live]
        for row in self._live:
            self.lengths[row] += 1
        ended = self._listen(self._live, of_live) if self._listen else ()
        over = [row for row in range(len(tokens)) if row not in self._live]
        if over:  # these were to draw no more: `generate` is told that they end
            drawn = drawn.index_fill(0, torch.tensor(over, device=drawn.device), min(self._sampling.ends))
        self._live = [
            row for row, token in zip(self._live, of_live, strict=True) if token not in self._sampling.ends and row not in ended
        ]
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)
