"""The stage before the decoder. It checks the prompt, asks the method which visual tokens to keep (`vision`) and removes the
others from the decoder's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.products import counted
from visionthink.compress.prompt import Prompt, gathered
from visionthink.compress.reading import Reading
from visionthink.compress.record import Session
from visionthink.compress.selection import Grid, Selection, VisionContext, check_selection
from visionthink.compress.target import Target
from visionthink.compress.tower import TowerProbe
from visionthink.errors import CompressionError


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """The visual tokens of one sample that the method is asked about."""

    among: Tensor
    """[visual tokens of the sample] bool."""
    images: tuple[int, ...]
    """How many of them each image has, for the images on which the method acts."""
    grids: tuple[Grid, ...] | None
    """The token grids of these images; None if one of them has no grid."""
    first: int
    """Visual tokens of the images that were encoded before those of the sample."""
    flops: int
    """Operations of the attention that was computed for the images of the sample in the vision tower."""


class VisionStage:
    """This stage in one session; it lasts as long as the session.

    `views` says, for each sample in the order of reading and for each of its images, whether the method acts on it; None: on all.
    `read_text` reads text alone, [Q, D] embeddings to hidden states of the last layer.
    """

    def __init__(
        self,
        target: Target,
        session: Session,
        views: Iterable[Sequence[bool]] | None,
        read_text: Callable[[Tensor], Tensor],
    ):
        self.target, self.session, self.read_text = target, session, read_text
        self.views = None if views is None else iter(views)
        self.probe = TowerProbe(target.tower, target.flops)

    def prompt_of(self, ids: Tensor | None, mask: Tensor | None) -> Prompt:
        """The prompt that the model was called with, from its `input_ids` and `attention_mask`.

        Raises:
            CompressionError: it is not one that tokens can be taken out of.
        """
        config = self.target.model.config
        if ids is None:
            raise CompressionError("compression needs input_ids, to know which tokens are visual")
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if valid.ndim != 2:
            raise CompressionError("compression needs an attention mask [batch, length]")
        if not valid[:, -1].all():
            raise CompressionError("compression needs padding on the left")
        visual = (ids == config.image_token_id) & valid
        if (ids == config.video_token_id).any():
            raise CompressionError("videos are not supported")
        index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        ends = torch.isin(ids, torch.tensor(self.target.turn_ends, device=ids.device)) & valid
        return Prompt(valid=valid, visual=visual, offered=visual, index=index, ends=ends, total=[])

    def enter(self, prompt: Prompt, inputs: dict[str, Any]) -> tuple[Reading, dict[str, Any]]:
        """A new reading for the decoder, and the decoder's inputs; neither contains the tokens that are not kept."""
        self.session.begin(prompt.counts)
        if inputs.get("position_ids") is None and any(prompt.counts):
            raise CompressionError("compression needs mm_token_type_ids, without which this model knows no positions of images")
        offered, following = prompt, None
        contexts, selections = self._selections(prompt, inputs["inputs_embeds"])
        if any(selection is not None for selection in selections):
            following = inputs["position_ids"][-3:].amax((0, 2)) + 1
            prompt, inputs = self._shortened(prompt, selections, inputs)
        embeddings = inputs["inputs_embeds"]
        reading = Reading(
            target=self.target,
            session=self.session,
            offered=offered,
            entered=prompt,
            images=contexts,
            embeddings=embeddings,
            following=following,
        )
        return reading, inputs

    def _acting_on(self, images: int) -> list[bool]:
        """Whether the method acts on each image of the next prompt."""
        if self.views is None:
            return [True] * images
        acting = list(next(self.views, ()))
        if len(acting) != images:
            raise CompressionError(f"views: {len(acting)} for a prompt of {images} images")
        return acting

    def _offers(self, prompt: Prompt) -> Iterator[_Offer]:
        """One for each sample."""
        owned, copies = self.probe.images(prompt.counts)
        acting = list[bool]()
        for sample, own in enumerate(owned):
            sizes = self.probe.sizes[own.start : own.stop]
            if sample % copies == 0:  # another answer to the same prompt otherwise
                acting = self._acting_on(len(own))
            among = torch.tensor([a for a, n in zip(acting, sizes, strict=True) for _ in range(n)], dtype=torch.bool)
            images = [n for a, n in zip(acting, sizes, strict=True) if a]
            grids = [g for a, g in zip(acting, self.probe.token_grids[own.start : own.stop], strict=True) if a]
            withheld = bool(prompt.visual[sample, -1]) and acting[-1]
            if withheld:  # what comes next is read off the last position: it stays
                among[-1], images[-1] = False, images[-1] - 1
            yield _Offer(
                among=among,
                images=tuple(images),
                grids=None if withheld else tuple(grids),
                first=sum(self.probe.sizes[: own.start]),
                flops=self.probe.bill(own),
            )

    def _selections(self, prompt: Prompt, embeddings: Tensor) -> tuple[list[VisionContext | None], list[Selection | None]]:
        """For each sample the context that the method is given (None without images that it acts on) and its selection (None if
        nothing changes). Also sets `offered` and `total`."""
        contexts, chosen, total = list[VisionContext | None](), list[Selection | None](), list[int]()
        rows = list[Tensor]()  # not written into one tensor: what was indexed by it may want gradients later
        least = min(self.target.method.kept(self.target.layers))
        for sample, offer in enumerate(self._offers(prompt)):
            own = prompt.visual[sample]
            rows.append(own.masked_scatter(own, offer.among.to(embeddings.device)))
            total.append(sum(offer.images))
            self.session.flops[-1][sample] += offer.flops
            contexts.append(self._context(prompt, sample, offer, embeddings[sample], rows[-1]) if offer.images else None)
            chosen.append(selection := self._selection(sample, context) if (context := contexts[-1]) else None)
            if (
                selection is None or selection.mix is None
            ):  # how many a mixture leaves depends on the grid: of a column perhaps all
                self.session.expected += max(0.0, total[-1] * (1 - least) - len(offer.images))
        prompt.offered, prompt.total = torch.stack(rows), total
        return contexts, chosen

    def _context(self, prompt: Prompt, sample: int, offer: _Offer, embeddings: Tensor, offered: Tensor) -> VisionContext:
        """The context that the method is given for one sample of `embeddings` [length, D], with visual tokens at `offered`."""
        where = offer.first + offer.among.nonzero()[:, 0].to(embeddings.device)
        received, keys = (None if x is None else x[where] for x in (self.probe.received, self.probe.keys))
        return VisionContext(
            features=embeddings[offered],
            images=offer.images,
            layers=self.target.layers,
            received=received,
            keys=keys,
            grids=offer.grids,
            levels={block: level[where] for block, level in self.probe.levels.items()},
            question=self._question(prompt, sample, embeddings),
        )

    def _question(self, prompt: Prompt, sample: int, embeddings: Tensor) -> Tensor | None:
        """[Q, D] the text of the turn that shows the first image; the operations of reading it are counted."""
        kind = self.target.method.needs.question
        if kind == "unread":
            return None
        text = embeddings[prompt.question_of(sample)]
        if kind == "embedded":
            return text
        with counted(self.target.flops, key := ("question", len(text))), torch.no_grad():
            read = self.read_text(text)
        self.session.flops[-1][sample] += self.target.flops[key]
        return read

    def _selection(self, sample: int, context: VisionContext) -> Selection | None:
        """The selection of the method for one sample; None if nothing changes."""
        method, flops, features = self.target.method, self.target.flops, context.features
        key = ("vision", context.images, context.grids, None if context.question is None else len(context.question))
        with counted(flops, key), torch.autocast(features.device.type, enabled=False):
            selection = method.vision(context)
            if selection is not None and selection.mix is not None and selection.values is None:
                selection = replace(selection, values=selection.mix @ features.to(selection.mix.dtype))
        self.session.flops[-1][sample] += flops[key]
        if selection is None:
            return None
        check_selection(selection, features, method.name)
        if selection.others == "pass" or selection.gate is not None:
            raise CompressionError(f"{method.name}: before the decoder there is no layer to skip, and none to scale")
        return None if len(selection.keep) == len(features) and selection.values is None else selection

    def _shortened(
        self, before: Prompt, selections: Sequence[Selection | None], inputs: dict[str, Any]
    ) -> tuple[Prompt, dict[str, Any]]:
        """The prompt and the decoder's inputs without what was not selected."""
        inputs, embeddings = dict(inputs), inputs["inputs_embeds"].clone()
        keep, stay = list[Tensor](), list[Tensor]()
        for sample, selection in enumerate(selections):
            places = before.offered[sample].nonzero()[:, 0]
            kept = places if selection is None else places[selection.keep]
            if selection is not None and selection.values is not None:
                embeddings[sample, kept] = selection.values.to(embeddings.dtype)
            left = before.valid[sample] & ~before.offered[sample]
            left[kept] = True
            keep.append(left.nonzero()[:, 0])
            stay.append(left[before.visual[sample]])
        prompt, source = before.without(keep)
        inputs["inputs_embeds"] = gathered(embeddings, source, prompt.valid)
        position_ids = inputs["position_ids"]
        rows = position_ids.gather(2, source.expand(position_ids.shape[0], -1, -1))
        if position_ids.shape[0] == 4:  # text positions: gaps in them would read as packed sequences
            rows[0] = prompt.positions
        if self.target.method.positions == "renumber":
            rows[-3:] = prompt.positions
        inputs["position_ids"] = rows
        mask = inputs.get("attention_mask")
        if torch.is_tensor(mask):
            inputs["attention_mask"] = prompt.valid.to(mask.dtype)
        elif not prompt.full:
            inputs["attention_mask"] = prompt.valid.long()
        if inputs.get("visual_pos_masks") is not None:
            inputs["visual_pos_masks"] = prompt.visual
            among = [before.offered[sample][before.visual[sample]] for sample in range(len(selections))]

            def remaining(features: Tensor) -> Tensor:
                own = zip(features.split(before.counts), selections, among, stay, strict=True)
                return torch.cat([_mixed(x, selection, offered)[still] for x, selection, offered, still in own])

            inputs["deepstack_visual_embeds"] = [remaining(features) for features in inputs["deepstack_visual_embeds"]]
        return prompt, inputs


def _mixed(features: Tensor, selection: Selection | None, offered: Tensor) -> Tensor:
    """DeepStack features [visual tokens, D] of one sample, in which the rows of kept tokens are mixed from those at `offered`."""
    if selection is None or selection.mix is None:
        return features
    places = offered.nonzero()[:, 0]
    mix = selection.mix.to(features.dtype)
    return features.index_copy(0, places[selection.keep], mix @ features[places])
