"""Visual tokens leave a stock Qwen2.5-VL or Qwen3-VL while it reads a prompt: forward hooks on one model, gone with the session.

A method says which of a sample's visual tokens stay: before the decoder (`vision`), at the entry of some of its layers
(`select`), or both. Samples of a batch keep different numbers; they are aligned to the right behind padding that attention does
not see. Positions stay (`positions="renumber"` closes the gaps), keys and values of what left are not cached in the
layers behind, and decoding goes on with the positions that follow the whole prompt.

    with compress(model, FastV(layer=3, keep=0.5)) as session:
        output = model.generate(**inputs)
    session.report()
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.probe import decoder_attention, tower_attention, window_order
from visionthink.compress.selection import LayerContext, Method, Rows, Selection, VisionContext
from visionthink.compress.sparsevlm import gravity
from visionthink.errors import OptionError, VisionThinkError

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")


class CompressionError(VisionThinkError):
    """A model, cache or call that tokens cannot be taken out of."""


@dataclass
class Prompt:
    """A batch while it is read: its samples aligned to the right, [batch, length] throughout."""

    valid: Tensor
    visual: Tensor
    index: Tensor
    """Where each position stood when it entered the decoder."""
    total: list[int]
    """Visual tokens of each sample before any left."""

    @property
    def counts(self) -> list[int]:
        return [int(n) for n in (self.visual & self.valid).sum(1)]

    @property
    def positions(self) -> Tensor:
        """From 0 without gaps."""
        return (self.valid.cumsum(1) - 1).clamp(min=0)

    def without(self, keep: list[Tensor]) -> tuple[Prompt, Tensor]:
        """The positions [k] of each sample that stay, aligned again; and, for gathering, where each of the new ones was."""
        length = max(map(len, keep))
        source = torch.stack([torch.nn.functional.pad(k, (length - len(k), 0)) for k in keep])
        valid = torch.stack([torch.arange(length, device=k.device) >= length - len(k) for k in keep])
        return Prompt(valid, self.visual.gather(1, source) & valid, self.index.gather(1, source), self.total), source


@dataclass
class Session:
    """What happened. For each prompt batch that was read, `totals` has the visual tokens of each sample before any left, `tokens`
    those that entered each decoder layer, [layer][sample], and `flops` what choosing them took, [sample]."""

    method: Method
    layers: int
    tokens: list[list[list[int]]] = field(default_factory=list)
    totals: list[list[int]] = field(default_factory=list)
    flops: list[list[int]] = field(default_factory=list)

    def samples(self) -> list[tuple[tuple[int, ...], int]]:
        """(visual tokens that entered each layer, operations of choosing them) of each sample, in the order of reading."""
        return [
            (tuple(layer[i] for layer in tokens), flops[i])
            for tokens, flops in zip(self.tokens, self.flops, strict=True)
            for i in range(len(flops))
        ]

    def report(self) -> dict[str, float]:
        """Shares of the visual tokens that stayed, averaged over layers and in the last one."""
        whole = sum(map(sum, self.totals))
        left = sum(sum(layer) for tokens in self.tokens for layer in tokens)
        last = sum(sum(t[-1]) for t in self.tokens)
        return {
            "visual_tokens": whole,
            "retained": left / self.layers / whole if whole else 1.0,
            "retained_last": last / whole if whole else 1.0,
        }


@contextlib.contextmanager
def compress(model: Any, method: Method) -> Iterator[Session]:
    """Compress every prompt that this thread lets the model read.

    Raises:
        CompressionError: the model, its cache or a call is not one that tokens can be taken out of; or nothing was taken out.
    """
    hooks = _Hooks(model, method)
    with contextlib.ExitStack() as stack:
        for handle in hooks.register():
            stack.callback(handle.remove)
        yield hooks.session
    hooks.check()


class _Hooks:
    """The hooks of one session; what they know of the prompt that is being read."""

    def __init__(self, model: Any, method: Method):
        kind = getattr(getattr(model, "config", None), "model_type", "")
        if kind not in MODEL_TYPES:
            raise CompressionError(f"{kind or type(model).__name__}: tokens can be taken out of {' and '.join(MODEL_TYPES)} only")
        self.model, self.method = model, method
        self.inner, self.decoder, self.tower = model.model, model.model.language_model, model.model.visual
        self.at: dict[int, Rows] = dict(method.at(len(self.decoder.layers)))
        first = len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ()) if kind == "qwen3_vl" else 1
        for layer in self.at:
            if not max(first, 1) <= layer < len(self.decoder.layers):
                raise OptionError(f"{method.name}: layer {layer}: must be from {max(first, 1)} to {len(self.decoder.layers) - 1}")
        if method.sees_tower and kind == "qwen2_5_vl" and len(self.tower.blocks) - 1 not in self.tower.fullatt_block_indexes:
            raise CompressionError("the last block of the vision tower attends within windows only")
        self.session = Session(method, len(self.decoder.layers))
        self.thread = threading.get_ident()
        self.prompt: Prompt | None = None
        self.entered: Prompt | None = None
        """As it entered the decoder; what its masks and positions are made for."""
        self.full = 0
        """Positions of the prompt before anything left, padding included."""
        self.by_layer: dict[int, Prompt] = {}
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        """By layer: what its attention was given, cosine and sine."""
        self.made: tuple[Prompt, tuple[Tensor, ...], Tensor | None] | None = None
        """For which prompt, its rotary embedding and mask."""
        self.received: Tensor | None = None
        self.keys: Tensor | None = None
        self.embeddings: Tensor | None = None
        self.grids: list[tuple[int, int, int]] = []
        self.decoding = False

    def register(self) -> Iterator[Any]:
        yield self.inner.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield self.tower.register_forward_pre_hook(self._before_tower, with_kwargs=True)
        if self.method.sees_tower:
            yield self.tower.blocks[-1].attn.register_forward_pre_hook(self._before_tower_attention, with_kwargs=True)
        yield self.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        for number, layer in enumerate(self.decoder.layers):
            yield layer.register_forward_pre_hook(self._before_layer(number), with_kwargs=True)
        for layer in self.at:
            attention = self.decoder.layers[layer - 1].self_attn
            yield attention.register_forward_pre_hook(self._before_attention(layer - 1), with_kwargs=True)

    def check(self) -> None:
        """A method that takes nothing out is an error, not a slower way to do nothing."""
        session, whole = self.session, sum(map(sum, self.session.totals))
        if whole > 4 * len(session.totals) and min(self.method.kept(session.layers)) < 1 and session.report()["retained"] == 1:
            raise CompressionError(f"{self.method.name}: took no token out of {whole}")

    @property
    def _mine(self) -> bool:
        return threading.get_ident() == self.thread

    # -------------------------------------------------------------------------------------------- a prompt arrives

    def _before_model(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if not self._mine:
            return
        if torch.compiler.is_compiling():
            raise CompressionError("tokens cannot be taken out of a compiled model")
        cache = kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        if cache is not None and getattr(cache, "is_compileable", False):
            raise CompressionError("tokens cannot be taken out of a static cache")
        ids = kwargs.get("input_ids")
        self.decoding = past > 0
        if self.decoding:
            if ids is not None and ids.shape[1] > 1 and self.prompt is not None and self.by_layer:
                raise CompressionError("a prompt that goes on where tokens have left the cache: read it again as a whole")
            return
        if ids is None:
            raise CompressionError("compression needs input_ids, to know which tokens are visual")
        mask = kwargs.get("attention_mask")
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        if valid.ndim != 2:
            raise CompressionError("compression needs an attention mask [batch, length]")
        if not valid[:, -1].all():
            raise CompressionError("compression needs padding on the left")
        visual = (ids == self.model.config.image_token_id) & valid
        if (ids == self.model.config.video_token_id).any():
            raise CompressionError("videos are not supported")
        index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        self.prompt = Prompt(valid, visual, index, [int(n) for n in visual.sum(1)])
        self.full, self.by_layer, self.seen = ids.shape[1], {}, {}
        self.session.totals.append(self.prompt.total)
        self.session.tokens.append([])
        self.session.flops.append([0] * len(ids))

    def _before_tower(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # generation encodes images before it calls the model: only here are their sizes always known
        if self._mine:
            grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.grids = [(int(t), int(h), int(w)) for t, h, w in grid.tolist()]

    def _before_tower_attention(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not self._mine:
            return
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        cosine, sine = kwargs["position_embeddings"]
        merge = self.tower.config.spatial_merge_size
        images = [t * h * w for t, h, w in self.grids]
        received, keys = tower_attention(module, hidden, cosine, sine, images, merge**2)
        windowed = hasattr(self.tower, "fullatt_block_indexes")
        window = self.tower.window_size // merge // self.tower.patch_size if windowed else 0
        order = window_order(self.grids, window, merge).argsort().to(received.device)
        self.received, self.keys = received[order], keys[order]

    # ------------------------------------------------------------------------------------------ before the decoder

    def _before_decoder(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self._mine or self.prompt is None:
            return None
        kwargs = dict(kwargs)
        if self.decoding:
            mask, entered = kwargs.get("attention_mask"), self.entered
            if entered is not None and torch.is_tensor(mask) and mask.ndim == 2 and entered.valid.shape[1] != self.full:
                kwargs["attention_mask"] = torch.cat((entered.valid.to(mask.dtype), mask[:, self.full :]), 1)
            if entered is not None and self.method.positions == "renumber" and entered.valid.shape[1] != self.full:
                past = kwargs["past_key_values"].get_seq_length() - entered.valid.shape[1]
                position = entered.valid.sum(1, keepdim=True) + past
                kwargs["position_ids"] = position.expand(3, *position.shape)
            return args, kwargs
        embeddings = kwargs["inputs_embeds"]
        chosen = self._vision(embeddings)
        if any(s is not None for s in chosen):
            kwargs = self._shortened(kwargs, embeddings, chosen)
        self.entered = self.prompt
        self.embeddings = kwargs["inputs_embeds"]
        return args, kwargs

    def _vision(self, embeddings: Tensor) -> list[Selection | None]:
        """What the method keeps of each sample; None where that is everything as it is."""
        assert self.prompt is not None
        merge = self.tower.config.spatial_merge_size**2
        sizes = [t * h * w // merge for t, h, w in self.grids]
        chosen: list[Selection | None] = []
        first = done = 0
        for sample, count in enumerate(self.prompt.total):
            images = list[int]()
            while sum(images) < count:
                images.append(sizes[first + len(images)])
            features = embeddings[sample, self.prompt.visual[sample]]
            span = slice(done, done + count)
            received, keys = (None if x is None else x[span] for x in (self.received, self.keys))
            chosen.append(self.method.vision(VisionContext(features, tuple(images), received, keys)) if count else None)
            first, done = first + len(images), done + count
        whole = zip(chosen, self.prompt.total, strict=True)
        return [None if s is None or (len(s.keep) == n and s.values is None) else s for s, n in whole]

    def _shortened(self, kwargs: dict[str, Any], embeddings: Tensor, chosen: list[Selection | None]) -> dict[str, Any]:
        """The decoder's inputs without what left."""
        assert self.prompt is not None
        before, embeddings = self.prompt, embeddings.clone()
        keep, stay = [], []
        for sample, selection in enumerate(chosen):
            places = before.visual[sample].nonzero()[:, 0]
            kept = places if selection is None else places[selection.keep]
            if selection is not None and selection.values is not None:
                embeddings[sample, kept] = selection.values.to(embeddings.dtype)
            left = before.valid[sample] & ~before.visual[sample]
            left[kept] = True
            keep.append(left.nonzero()[:, 0])
            stay.append(torch.isin(places, kept))
        self.prompt, source = before.without(keep)
        kwargs["inputs_embeds"] = _gathered(embeddings, source, self.prompt.valid)
        position_ids = kwargs["position_ids"]
        rows = position_ids.gather(2, source.expand(position_ids.shape[0], -1, -1))
        if position_ids.shape[0] == 4:  # text positions: gaps in them would read as packed sequences
            rows[0] = self.prompt.positions
        if self.method.positions == "renumber":
            rows[-3:] = self.prompt.positions
        kwargs["position_ids"] = rows
        mask = kwargs.get("attention_mask")
        if torch.is_tensor(mask):
            kwargs["attention_mask"] = self.prompt.valid.to(mask.dtype)
        elif not self.prompt.valid.all():
            kwargs["attention_mask"] = self.prompt.valid.long()
        if kwargs.get("visual_pos_masks") is not None:
            kwargs["visual_pos_masks"] = self.prompt.visual
            every = torch.cat(stay)
            kwargs["deepstack_visual_embeds"] = [d[every] for d in kwargs["deepstack_visual_embeds"]]
        return kwargs

    # ------------------------------------------------------------------------------------------- within the decoder

    def _before_attention(self, layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if self._mine and not self.decoding and self.prompt is not None:
                hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                self.seen[layer] = (hidden, *kwargs["position_embeddings"])

        return hook

    def _before_layer(self, layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if not self._mine or self.prompt is None or self.entered is None:
                return None
            kwargs = dict(kwargs)
            if self.decoding:
                if (read := self.by_layer.get(layer)) is not None:
                    kwargs["attention_mask"] = self._mask_of_one(read, kwargs, args)
                    if self.method.positions == "renumber":
                        hidden = args[0] if args else kwargs["hidden_states"]
                        position = read.valid.sum(1, keepdim=True) + self._said(kwargs) - 1
                        kwargs["position_embeddings"] = self._rotary(hidden, position)
                return args, kwargs
            hidden = args[0] if args else kwargs["hidden_states"]
            if layer in self.at:
                hidden = self._select(layer, hidden)
            self.session.tokens[-1].append(self.prompt.counts)
            if self.prompt is not self.entered:
                self.by_layer[layer] = self.prompt
                if self.made is None or self.made[0] is not self.prompt:  # the same for every layer until more leaves
                    self.made = self.prompt, self._embedded(hidden, kwargs["position_embeddings"]), self._mask(hidden)
                _, kwargs["position_embeddings"], kwargs["attention_mask"] = self.made
                if kwargs.get("position_ids") is not None:
                    kwargs["position_ids"] = self.prompt.positions
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return hook

    def _embedded(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Cosine and sine of the positions that are left."""
        assert self.prompt is not None
        if self.method.positions == "renumber":
            return self._rotary(hidden, self.prompt.positions)
        at = self._places()
        return tuple(_gathered(x, at, None) for x in rotary)

    def _places(self) -> Tensor:
        """[batch, length]: where the positions that are left stood when the prompt entered the decoder."""
        assert self.prompt is not None and self.entered is not None
        entered = self.entered.index.masked_fill(~self.entered.valid, -1)
        return torch.searchsorted(entered.contiguous(), self.prompt.index.contiguous()).clamp(max=entered.shape[1] - 1)

    def _select(self, layer: int, hidden: Tensor) -> Tensor:
        assert self.prompt is not None and self.entered is not None and self.embeddings is not None
        before, at = self.prompt, self._places()
        given, cosine, sine = self.seen.pop(layer - 1)
        weighs_position = getattr(self.method, "gravity", False)  # SparseVLM+ alone: [R, L] that others have no use for
        keep, changed, values = [], False, hidden
        for sample in range(len(hidden)):
            valid = before.valid[sample]
            visual = before.visual[sample, valid]
            stay = torch.ones_like(visual)
            if visual.any():
                rows = _rows(self.at[layer], visual)
                attention, keys = decoder_attention(
                    self.decoder.layers[layer - 1].self_attn,
                    given[sample, valid],
                    cosine[sample, valid],
                    sine[sample, valid],
                    rows,
                )
                embedded = self.embeddings[sample, at[sample, valid]]
                context = LayerContext(
                    layer,
                    len(self.decoder.layers),
                    hidden[sample, valid],
                    visual,
                    embedded,
                    attention,
                    rows,
                    keys,
                    before.total[sample],
                    gravity(cosine[sample, valid], sine[sample, valid], rows) if weighs_position else None,
                )
                selection = self.method.select(context)
                places = visual.nonzero()[:, 0]
                if selection is not None and (len(selection.keep) < len(places) or selection.values is not None):
                    changed = True
                    stay[places] = False
                    stay[places[selection.keep]] = True
                    if selection.values is not None:
                        values = values.clone() if values is hidden else values
                        values[sample, valid.nonzero()[:, 0][places[selection.keep]]] = selection.values.to(hidden.dtype)
            keep.append(valid.nonzero()[:, 0][stay])
        if not changed:
            return hidden
        self.prompt, source = before.without(keep)
        return _gathered(values, source, self.prompt.valid)

    def _mask(self, hidden: Tensor) -> Tensor | None:
        """What the layer's attention may see of the prompt that is left."""
        assert self.prompt is not None
        valid, kind = self.prompt.valid, self.model.config.get_text_config()._attn_implementation
        if "flash" in kind:
            return None if valid.all() else valid.long()
        if valid.all() and kind == "sdpa":
            return None
        length = valid.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril() & valid[:, None]
        seen |= torch.eye(length, dtype=torch.bool, device=valid.device)  # padding sees itself: a row of nothing is no number
        return _as_mask(seen[:, None], kind, hidden.dtype)

    def _mask_of_one(self, read: Prompt, kwargs: dict[str, Any], args: Any) -> Tensor | None:
        """What a new token may see in a layer whose cache holds less than the first one's."""
        hidden = args[0] if args else kwargs["hidden_states"]
        kind = self.model.config.get_text_config()._attn_implementation
        said = self._said(kwargs)
        if hidden.shape[1] != 1:
            raise CompressionError("several tokens at once behind a prompt that tokens have left")
        if read.valid.all() and (kind == "sdpa" or "flash" in kind):
            return None
        said_mask = torch.ones(len(read.valid), said, dtype=torch.bool, device=read.valid.device)
        seen = torch.cat((read.valid, said_mask), 1)
        return seen.long() if "flash" in kind else _as_mask(seen[:, None, None], kind, hidden.dtype)

    def _said(self, kwargs: dict[str, Any]) -> int:
        """Tokens behind the prompt, the one that is read now included: the first layer has it in its cache already."""
        assert self.entered is not None
        return int(kwargs["past_key_values"].get_seq_length()) - self.entered.valid.shape[1]

    def _rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of positions [batch, length] that are the same along time, height and width."""
        cosine, sine = self.decoder.rotary_emb(hidden, positions.expand(3, *positions.shape))
        return cosine, sine


def _rows(kind: Rows, visual: Tensor) -> Tensor:
    """Queries by name: the last position, the text behind the last visual token, the visual tokens."""
    if kind == "visual":
        return visual.nonzero()[:, 0]
    length = len(visual)
    last_visual = int(visual.nonzero()[-1, 0])
    first = length - 1 if kind == "last" else min(last_visual + 1, length - 1)
    return torch.arange(first, length, device=visual.device)


def _gathered(x: Tensor, source: Tensor, valid: Tensor | None) -> Tensor:
    """[batch, length, D] at [batch, new length]; zero where that is padding."""
    if x.shape[0] != source.shape[0]:
        x = x.expand(source.shape[0], *x.shape[1:])
    taken = x.gather(1, source[..., None].expand(-1, -1, x.shape[-1]))
    return taken if valid is None or valid.all() else taken * valid[..., None].to(taken.dtype)


def _as_mask(seen: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """[batch, 1, queries, keys] as the implementation wants it: booleans, or what is added to the scores."""
    if kind != "eager":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
