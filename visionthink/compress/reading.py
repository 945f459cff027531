"""The stage within the decoder. At the entry of some layers it asks the method which visual tokens to keep (`select`), and it
gives every layer the inputs of the tokens that are left."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.probe import decoder_attention, merged
from visionthink.compress.products import counted
from visionthink.compress.prompt import Prompt, gathered, rows_of
from visionthink.compress.record import Session
from visionthink.compress.selection import LayerContext, Selection, VisionContext, check_selection
from visionthink.compress.target import Target
from visionthink.errors import CompressionError, OptionError


class Reading:
    """The state of one prompt batch while the decoder reads it. A new one is made for every prompt.

    Args:
        offered: the prompt of which the method was asked before the decoder.
        entered: the prompt as it entered the decoder, which is what the decoder's own masks and positions are made for.
        images: what the method saw then of each sample; None where it was not asked.
        embeddings: [batch, length, D], the decoder's inputs.
        following: [batch], the position behind the whole prompt; None where no token left before the decoder.
    """

    def __init__(
        self,
        *,
        target: Target,
        session: Session,
        offered: Prompt,
        entered: Prompt,
        images: Sequence[VisionContext | None],
        embeddings: Tensor,
        following: Tensor | None,
    ):
        self.target, self.session = target, session
        self.offered, self.entered, self.images = offered, entered, images if target.at else []
        self.embeddings, self.following = embeddings, following
        self.prompt = session.prompt = entered
        """The prompt as it is in the layer that runs."""
        self.cache: weakref.ref[Any] | None = None
        """The cache that holds the keys and values of the prompt."""
        self.by_layer: dict[int, Prompt] = {}
        """The prompt as it was in each layer that fewer tokens entered than the decoder."""
        self.seen: dict[int, tuple[Prompt, Tensor, Tensor, Tensor]] = {}
        """For each layer: the prompt, and the hidden states, cosine and sine that its attention was given."""
        self.made: tuple[Prompt, tuple[Tensor, ...], Tensor | None] | None = None
        """A prompt, and the rotary embedding and the mask that were made for it."""
        self.passed: tuple[Tensor, Prompt, Tensor] | None = None
        """While tokens skip a layer: all hidden states, their prompt, and the places of those that the layer processes."""
        self.gated: tuple[Tensor, Tensor] | None = None
        """While a gate scales what a layer adds: the hidden states that enter it, and their scales [batch, length]."""

    def attention_given(self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        """The attention of a layer is about to be computed."""
        cosine, sine = (merged(x, self.target.decoder.config) for x in rotary)
        self.seen[layer] = self.prompt, hidden, cosine, sine

    def enter_layer(self, layer: int, hidden: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The hidden states and the other inputs of a layer, without the tokens that were removed."""
        module = self.target.decoder.layers[layer]
        if module.training and getattr(module, "gradient_checkpointing", False):
            # some versions call the hooks again in the backward pass
            raise CompressionError("compression and gradient checkpointing do not go together: see prepare")
        if layer == 0 and inputs.get("past_key_values") is not None:
            self.cache = weakref.ref(inputs["past_key_values"])
        if layer in self.target.at:
            hidden = self._select(layer, hidden)
        self.session.tokens[-1].append(self.prompt.counts)
        if self.prompt is self.entered:
            return hidden, inputs
        self.by_layer[layer] = self.prompt
        if self.made is None or self.made[0] is not self.prompt:  # the same for every layer until more leaves
            rotary = self._rotary(hidden, inputs["position_embeddings"])
            self.made = self.prompt, rotary, self.prompt.mask(self.target.implementation, hidden.dtype)
        _, rotary, mask = self.made
        inputs = inputs | {"position_embeddings": rotary, "attention_mask": mask}
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = self.prompt.positions
        return hidden, inputs

    def leave_layer(self, output: Tensor) -> Tensor | None:
        """The output of a layer, scaled by the gate and with the tokens that skipped the layer; None if it does not change."""
        if self.gated is not None:
            entered, scale = self.gated
            output, self.gated = torch.lerp(entered, output, scale[..., None].to(output.dtype)), None
            if self.passed is None:
                return output
        if self.passed is None:
            return None
        hidden, prompt, source = self.passed
        through = torch.zeros_like(hidden).scatter(1, source[..., None].expand_as(output), output)
        sample, place = self.prompt.valid.nonzero(as_tuple=True)
        gone = torch.zeros_like(prompt.valid)
        gone[sample, source[sample, place]] = True
        self.prompt = self.session.prompt = prompt
        self.passed = None
        return torch.where(gone[..., None], through, hidden)

    def _rotary(self, hidden: Tensor, entered: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Cosine and sine of the positions that are left, from those of the prompt as it entered."""
        if self.target.method.positions == "renumber":
            return self.target.rotary(hidden, self.prompt.positions)
        at = self.prompt.places_in(self.entered)
        return tuple(gathered(x, at) if x.ndim == 3 else torch.stack([gathered(axis, at) for axis in x]) for x in entered)

    def _select(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states of what enters the layer."""
        before, keep, changed, passing, values = self.prompt, list[Tensor](), False, False, hidden
        scale: Tensor | None = None
        for sample in range(len(hidden)):
            offered = before.offered[sample, before.valid[sample]]
            stay = torch.ones_like(offered)
            selection = self._selected(layer, sample, hidden) if offered.any() else None
            places, own = offered.nonzero()[:, 0], before.valid[sample].nonzero()[:, 0]
            where = own if selection is None else own[places[selection.keep]]
            if selection is not None and selection.gate is not None:
                scale = hidden.new_ones(hidden.shape[:2]) if scale is None else scale
                scale = scale.index_put((torch.full_like(where, sample), where), selection.gate.to(hidden.dtype))
            if selection is not None and (len(selection.keep) < len(places) or selection.values is not None):
                changed, passing = True, passing or selection.others == "pass"
                stay[places] = False
                stay[places[selection.keep]] = True
                if selection.values is not None:
                    values = values.clone() if values is hidden else values
                    values[sample, where] = selection.values.to(hidden.dtype)
            keep.append(own[stay])
        self.seen.pop(layer - 1, None)
        if changed:
            prompt, source = before.without(keep)
            self.prompt = self.session.prompt = prompt
            if passing:
                self.passed = hidden, before, source
            hidden = gathered(values, source, prompt.valid)
            scale = scale if scale is None else scale.gather(1, source)
        if scale is not None:
            self.gated = hidden, scale
        return hidden

    def _attention(
        self, layer: int, sample: int, rows: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Attention of the layer before in these rows, its mean keys, and its rotary embedding, for a sample."""
        target = self.target
        if target.at[layer] == "none":
            return hidden.new_zeros(0, 0, len(hidden)), None, None
        attended, given, cosine, sine = self.seen[layer - 1]
        if attended is not self.prompt:
            raise OptionError(
                f"{target.method.name}: layer {layer}: tokens skipped the layer before it, which has no attention for them"
            )
        given, cosine, sine = (x[sample, self.prompt.valid[sample]] for x in (given, cosine, sine))
        module, averaged = target.decoder.layers[layer - 1].self_attn, target.at[layer] == "visual"
        with torch.no_grad():
            attention, keys = decoder_attention(module, given, cosine, sine, rows, averaged=averaged)
        return attention, keys, (cosine, sine)

    def _selected(self, layer: int, sample: int, hidden: Tensor) -> Selection | None:
        """What the method keeps of a sample at the entry of a layer."""
        prompt, target, method = self.prompt, self.target, self.target.method
        valid = prompt.valid[sample]
        visual, offered = prompt.visual[sample, valid], prompt.offered[sample, valid]
        rows = rows_of(target.at[layer], visual, offered)
        own = hidden[sample, valid]
        embedded = self.embeddings[sample, prompt.places_in(self.entered)[sample, valid]]
        stood = self.offered.index[sample, self.offered.offered[sample]]
        places = torch.searchsorted(stood, prompt.index[sample, valid][offered])
        images = self.images[sample]
        key = (layer, len(own), len(rows), int(offered.sum()), prompt.total[sample], images.grids if images else None)
        with counted(target.flops, key):
            attention, keys, rotary = self._attention(layer, sample, rows, own)
            context = LayerContext(
                layer=layer,
                layers=target.layers,
                hidden=own,
                visual=offered,
                embeddings=embedded,
                attention=attention,
                rows=rows,
                keys=keys,
                total=prompt.total[sample],
                rotary=rotary,
                images=images,
                places=places,
            )
            with torch.autocast(hidden.device.type, enabled=False):
                selection = method.select(context)
        if selection is not None:
            check_selection(selection, context.hidden[offered], method.name)
        self.session.flops[-1][sample] += target.flops[key]
        return selection
