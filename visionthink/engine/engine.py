"""Generation in which every distinct image and every shared prefix is computed once.

A call gets prompts as token ids and images. Those that are equal are one context; contexts share their common prefixes with each
other and with what the call before read and said, so that a second round goes on where the first one ended. Rows that have ended
take no part in later steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionthink.engine.attention import share_attention, without_mask
from visionthink.engine.decoding import Cache, Decode, Prefill
from visionthink.engine.positions import rope_positions
from visionthink.engine.sampling import Listen, Said, Sampling, Streams
from visionthink.engine.tower import Features, Pixels, PreparedImages, encode_once
from visionthink.engine.tree import PrefixTree, row_keys, visual
from visionthink.types import Spread


@dataclass(kw_only=True)
class Counts:
    """What was computed: images given to the processor, patches given to the tower, tokens of prompts that were read, tokens that
    were sampled and read again, and calls of the decoder."""

    prepared: int = 0
    patches: int = 0
    prefilled: int = 0
    decoded: int = 0
    calls: int = 0


@dataclass(kw_only=True)
class _Known:
    """What the last call has left: keys and values of tokens, and the sequences that they belong to."""

    cache: Cache = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    """Keys of each sequence, as `tree.row_keys`."""
    places: list[np.ndarray] = field(default_factory=list)
    """Where in the cache each of its tokens is."""
    prompts: list[int] = field(default_factory=list)
    """Tokens of each sequence that were its prompt."""

    def only(self, kept: Sequence[int]) -> _Known:
        """Some of the sequences, by their places among all."""
        return _Known(
            cache=self.cache if kept else [],
            rows=[self.rows[i] for i in kept],
            places=[self.places[i] for i in kept],
            prompts=[self.prompts[i] for i in kept],
        )


class Engine:
    """Generates with a stock Qwen-VL model, whose decoder it lets share attention (`attention.share_attention`).

    What the last call has computed is used where a conversation goes on. A prompt that is asked again is computed again, since
    the weights may have changed, unless the caller retains everything and says itself when to `forget`.

    Args:
        model: as it was loaded, not wrapped for training.
        images: prepared images, its own.
        pad: id of the image pad token.
    """

    def __init__(self, model: Any, images: PreparedImages, pad: int):
        share_attention(model)
        self.model, self.images, self.pad = model, images, pad
        self.counts, self.first_token = Counts(), 0.0
        """`first_token`: when the first tokens of the last call were sampled, by `time.perf_counter`."""
        self._known = _Known()
        self._features: dict[int, Features] = {}

    @property
    def bytes_held(self) -> int:
        """Memory of what the last call has left for the next one."""
        held = [x for layer in self._known.cache for x in layer]
        held += [x for each in self._features.values() for x in (each.tokens, *each.deep)]
        return sum(x.nbytes for x in {id(x): x for x in held}.values())

    def forget(self, *, keep_features: bool = False) -> None:
        """Drop what was computed: no conversation goes on, or the weights have changed. Features of a tower that is not trained
        may stay."""
        self._known = _Known()
        if not keep_features:
            self._features = {}

    def features(self, images: Sequence[Pixels]) -> Features | None:
        """The features of images, each computed once until it is dropped; None where there are no images."""
        distinct = {image.number: image for image in images}
        features, patches = encode_once(self.model, list(distinct.values()), self._features)
        self.counts.patches += patches
        return features

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image.Image]],
        sampling: Sampling,
        streams: Streams | None = None,
        *,
        retain: bool = False,
        listen: Listen | None = None,
    ) -> list[Said]:
        """What is said after each prompt.

        Args:
            prompts: token ids; an image is as many pads as it has visual tokens.
            images: of each prompt, in the order of reading.
            sampling: how tokens are drawn.
            streams: needed at a temperature above 0.
            retain: also keep what is known of conversations that are not among these; for a batch that is completed in parts.
            listen: hears every token, and may end rows.
        """
        if not prompts:
            return []
        try:
            return self._complete(prompts, images, sampling, streams, retain, listen)
        except BaseException:  # what is known must not be half of a call, nor stay where memory has run out
            self.forget()
            raise

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        images: Sequence[Sequence[Image.Image]],
        sampling: Sampling,
        streams: Streams | None,
        retain: bool,
        listen: Listen | None,
    ) -> list[Said]:
        before = self.images.prepared
        prepared = self.images.of(images)
        self.counts.prepared += self.images.prepared - before
        of_images = [[(image.number, image.tokens) for image in row] for row in prepared]
        keys = [row_keys(ids, self.pad, row) for ids, row in zip(prompts, of_images, strict=True)]
        distinct: dict[bytes, int] = {}
        of = [distinct.setdefault(row.tobytes(), len(distinct)) for row in keys]
        first = [of.index(i) for i in range(len(distinct))]
        rows = [keys[i] for i in first]
        if not retain:
            self.images.keep({image.number for row in prepared for image in row})
            self._keep_what_goes_on(rows)
        with sampling.numbers(streams, prompts, prepared) as numbers:
            tree, cache, logits, following = self._prefill(rows, [prepared[i] for i in first], retain=retain)
            decode = self._behind(tree, cache, of)
            said, own = self._decode(decode, logits, following, prompts, sampling, numbers, listen)
        self._remember(tree, cache, rows, of, said, own)
        return said

    def _keep_what_goes_on(self, rows: Sequence[np.ndarray]) -> None:
        """Drop all but conversations whose prompt is the beginning of one of these, and the features of their images."""
        known = self._known
        lengths = set(known.prompts)
        begun = {row[:n].tobytes() for row in rows for n in lengths if n < len(row)}
        kept = [i for i, row in enumerate(known.rows) if row[: known.prompts[i]].tobytes() in begun]
        self._known = known.only(kept)
        shown = {number for row in self._known.rows for number in visual(row)[1].tolist()}
        self._features = {number: held for number, held in self._features.items() if number in shown}

    def _prefill(
        self, rows: list[np.ndarray], images: list[tuple[Pixels, ...]], *, retain: bool
    ) -> tuple[PrefixTree, Cache, Tensor, list[int]]:
        """The tree of the prompts with keys and values of all its tokens, the logits after each prompt [prompts, vocabulary], and
        the position of what follows it. `retain` adds the sequences that are known already to the tree."""
        known = self._known
        whole = PrefixTree.of([*known.rows, *rows])
        source = np.full(len(whole.keys), -1)
        for where, places in zip(whole.where, known.places, strict=False):
            source[where] = places
        asked = range(len(known.rows), len(whole.where))
        kept = np.zeros(len(whole.keys), dtype=bool)
        for i in range(len(whole.where)) if retain else asked:
            kept[whole.where[i]] = True
        last = [whole.where[i][-1] for i in asked]
        source[last] = -1  # its logits are wanted
        tree = whole.restricted(kept, [*(range(len(known.rows)) if retain else ()), *asked])
        source = source[kept]
        is_known = source >= 0
        past, known.cache = self._taken(known.cache, source[is_known]), []
        self._known = known.only(range(len(known.rows))) if retain else _Known()
        self._known.places = list(tree.where[: len(self._known.rows)])
        prefill = Prefill(tree, is_known, past, self.model.device)
        positions = np.zeros((3, len(tree.keys)), dtype=np.int64)
        following = []
        prompts = tree.where[-len(rows) :]
        for row, pictures, where in zip(rows, images, prompts, strict=True):
            positions[:, where], after = rope_positions(row, [image.shape for image in pictures])
            following.append(after)
        fresh = np.flatnonzero(~is_known)
        hidden = self._read(tree.keys[fresh], positions[:, fresh], [image for row in images for image in row], prefill)
        self.counts.prefilled += len(fresh)
        at = torch.from_numpy(np.searchsorted(fresh, [where[-1] for where in prompts])).to(hidden.device)
        logits = self.model.lm_head(hidden[0].index_select(0, at))
        return dataclasses.replace(tree, where=tuple(prompts)), prefill.cache, logits, following

    def _taken(self, cache: Cache, places: np.ndarray) -> Cache:
        index = torch.from_numpy(places).to(self.model.device)
        return [(keys.index_select(1, index), values.index_select(1, index)) for keys, values in cache]

    def _read(self, keys: np.ndarray, positions: np.ndarray, images: Sequence[Pixels], shared: Any) -> Tensor:
        """Hidden states [1, tokens, hidden] of new tokens."""
        device = self.model.device
        ids = torch.from_numpy(np.where(keys < 0, self.pad, keys)).to(device)
        embeds = self.model.get_input_embeddings()(ids)
        deep: dict[str, Any] = {}
        new = set(visual(keys)[1].tolist())
        features = self.features([image for image in images if image.number in new])
        if features:
            at, tokens, layers = features.of_keys(keys)
            embeds = embeds.index_copy(0, at, tokens.to(embeds.dtype))
            if layers:
                mask = torch.zeros((1, len(keys)), dtype=torch.bool, device=device)
                mask[0, at] = True
                deep = {"visual_pos_masks": mask, "deepstack_visual_embeds": layers}
        return self._call(embeds[None], torch.from_numpy(positions).to(device)[:, None], shared, **deep)

    def _call(self, embeds: Tensor, positions: Tensor, shared: Any, **deep: Any) -> Tensor:
        self.counts.calls += 1
        out = self.model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=without_mask(self.model),
            use_cache=False,
            shared=shared,
            **deep,
        )
        return out.last_hidden_state

    def _behind(self, tree: PrefixTree, cache: Cache, of: list[int]) -> Decode:
        """Decoding of rows behind the prompts of the tree; `of` is the prompt of each row."""
        longest = max(map(len, tree.where))
        places = np.zeros((len(tree.where), longest), dtype=np.int64)
        mask = np.zeros(places.shape, dtype=np.float32)
        for i, where in enumerate(tree.where):
            places[i, : len(where)] = where
            mask[i, len(where) :] = -np.inf
        device = self.model.device
        if len(places) == 1 and len(tree.keys) == longest:  # a single prompt is read where it lies
            contexts = [(keys[None], values[None]) for keys, values in cache]
        else:
            index = torch.from_numpy(places.ravel()).to(device)
            contexts = [
                tuple(x.index_select(1, index).unflatten(1, places.shape).transpose(0, 1) for x in layer) for layer in cache
            ]
        added = torch.from_numpy(mask).to(device, cache[0][0].dtype) if mask.any() else None
        return Decode(contexts=contexts, mask=added, of=list(of))

    def _decode(
        self,
        decode: Decode,
        logits: Tensor,
        following: list[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        numbers: list[np.random.Generator] | None,
        listen: Listen | None,
    ) -> tuple[list[Said], list[Cache]]:
        """What every row says, and keys and values of all of it but the last token."""
        of, device = decode.of, self.model.device
        live = list(range(len(of)))
        scores = logits[torch.tensor(of, device=device)]
        ids: list[list[int]] = [[] for _ in of]
        logprobs: list[list[float]] = [[] for _ in of]
        spreads: list[list[Spread]] = [[] for _ in of]
        own: list[Cache] = [[] for _ in of]
        positions = torch.tensor([following[context] for context in of], device=device)
        while True:
            tails = [[*prompts[r][-sampling.memory :], *ids[r][-sampling.memory :]] for r in live] if sampling.phrases else ()
            drawn, chosen, measured = sampling.draw(scores, tails, [numbers[r] for r in live] if numbers else None)
            tokens = drawn.tolist()  # a GPU is waited for
            if not decode.steps:
                self.first_token = time.perf_counter()
            for row, token, logprob in zip(live, tokens, chosen.tolist(), strict=True):
                ids[row].append(token)
                logprobs[row].append(logprob)
            for row, spread in zip(live, [] if measured is None else measured.tolist(), strict=False):
                spreads[row].append(Spread(*spread))
            ended = listen(live, tokens) if listen else ()
            staying = [
                i
                for i, r in enumerate(live)
                if ids[r][-1] not in sampling.ends and len(ids[r]) < sampling.most and r not in ended
            ]
            if len(staying) < len(live):
                for i in set(range(len(live))) - set(staying):
                    own[live[i]] = decode.said(i)
                if not staying:
                    rows = zip(ids, logprobs, spreads, strict=True)
                    return [Said(ids=tuple(i), logprobs=tuple(p), spreads=tuple(s)) for i, p, s in rows], own
                decode.leave(staying)
                index = torch.tensor(staying, device=device)
                live, drawn, positions = [live[i] for i in staying], drawn[index], positions[index]
            embeds = self.model.get_input_embeddings()(drawn[:, None])
            hidden = self._call(embeds, positions[None, :, None].expand(3, -1, 1), decode)
            scores = self.model.lm_head(hidden[:, 0])
            decode.steps += 1
            positions = positions + 1
            self.counts.decoded += len(live)

    def _remember(
        self, tree: PrefixTree, cache: Cache, rows: list[np.ndarray], of: list[int], said: list[Said], own: list[Cache]
    ) -> None:
        """Keep what was read and said for the next call."""
        begin = len(tree.keys)
        for context, spoken in zip(of, said, strict=True):
            fed = spoken.ids[:-1]
            self._known.rows.append(np.concatenate([rows[context], np.asarray(fed, dtype=np.int64)]))
            self._known.places.append(np.concatenate([tree.where[context], np.arange(begin, begin + len(fed))]))
            self._known.prompts.append(len(rows[context]))
            begin += len(fed)
        layers = zip(cache, *(layers for layers in own if layers), strict=True)
        self._known.cache = [
            (torch.cat(keys, 1), torch.cat(values, 1)) for keys, values in (zip(*x, strict=True) for x in layers)
        ]
