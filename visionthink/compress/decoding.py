"""Tokens that follow a prompt from which visual tokens were removed: the checks of what may follow, and the masks and positions
that such tokens need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionthink.compress.reading import Reading
from visionthink.compress.target import Target
from visionthink.errors import CompressionError


class Decoding:
    """One call of the model with tokens that follow the prompt which was read last.

    Args:
        reading: of that prompt; None where none was read.
        cache: the one that the model was called with.
        ids: [batch, tokens], what follows; None where the caller gave embeddings.

    Raises:
        CompressionError: these tokens cannot follow.
    """

    def __init__(self, target: Target, reading: Reading | None, cache: Any, ids: Tensor | None):
        if reading is None or reading.cache is None or reading.cache() is not cache:
            raise CompressionError("compression needs the whole prompt, and this cache was filled before or by an earlier one")
        if ids is not None and ids.shape[1] > 1:
            if reading.by_layer or reading.following is not None:
                raise CompressionError("a prompt that goes on where tokens have left the cache: read it again as a whole")
            if (ids == target.model.config.image_token_id).any():
                raise CompressionError("an image behind what is cached: read the prompt again as a whole")
        self.target, self.reading = target, reading

    def enter_decoder(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's inputs. The caller's mask and positions are those of the whole prompt: they are replaced where tokens
        were removed before the decoder."""
        entered, following = self.reading.entered, self.reading.following
        if following is None:
            return inputs
        said = inputs["past_key_values"].get_seq_length() - entered.valid.shape[1]
        seen = torch.nn.functional.pad(entered.valid.long(), (0, said + 1), value=1)
        first = following if self.target.method.positions == "keep" else entered.valid.sum(1)
        positions = (first + said)[None, :, None].expand(3, -1, -1)
        return inputs | {"attention_mask": None if entered.full else seen, "position_ids": positions}

    def enter_layer(self, layer: int, hidden: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a layer. The mask and the rotary embedding are replaced where fewer tokens entered the layer than the
        decoder."""
        if (read := self.reading.by_layer.get(layer)) is None:
            return inputs
        if hidden.shape[1] != 1:
            raise CompressionError("several tokens at once behind a prompt that tokens have left")
        # behind the prompt; the first layer has the new token in its cache already
        said = int(inputs["past_key_values"].get_seq_length()) - self.reading.entered.valid.shape[1]
        changed: dict[str, Any] = {"attention_mask": read.mask_of_next(said, self.target.implementation, hidden.dtype)}
        if self.target.method.positions == "renumber":
            changed["position_embeddings"] = self.target.rotary(hidden, read.valid.sum(1, keepdim=True) + said - 1)
        return inputs | changed
