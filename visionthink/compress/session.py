"""Visual tokens leave a stock Qwen2-VL, Qwen2.5-VL or Qwen3-VL while it reads a prompt: forward hooks on one model, gone with the
session.

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
import weakref
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.probe import decoder_attention, merged
from visionthink.compress.products import counted
from visionthink.compress.prompt import Prompt, gathered, rows_of
from visionthink.compress.selection import LayerContext, Method, Rows, Selection, VisionContext, check_selection
from visionthink.compress.tower import TowerProbe
from visionthink.errors import CompressionError, OptionError

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass
class Session:
    """What happened. For each prompt batch that was read, `totals` has the visual tokens of each sample before any left, `tokens`
    those that entered each decoder layer, [layer][sample], and `flops` what choosing them took, [sample]."""

    method: Method
    layers: int
    tokens: list[list[list[int]]] = field(default_factory=list)
    totals: list[list[int]] = field(default_factory=list)
    flops: list[list[int]] = field(default_factory=list)
    expected: float = 0.0
    """How many tokens at least should have left, rounding aside."""

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

    def begin(self, visual: list[int]) -> None:
        """A prompt batch enters the decoder."""
        self.drop_unfinished()
        self.totals.append(visual)
        self.tokens.append([])
        self.flops.append([0] * len(visual))

    def drop_unfinished(self) -> None:
        """Forget a prompt that an exception ended."""
        if self.tokens and len(self.tokens[-1]) < self.layers:
            self.tokens.pop(), self.totals.pop(), self.flops.pop()

    def check(self) -> None:
        """A method that takes nothing out is an error, not a slower way to do nothing."""
        if not self.totals:
            raise CompressionError(f"{self.method.name}: no prompt was read by the thread of the session")
        if self.expected >= 1 and self.report()["retained"] == 1:
            raise CompressionError(f"{self.method.name}: took no token out of {sum(map(sum, self.totals))}")


@contextlib.contextmanager
def compress(model: Any, method: Method, *, views: Sequence[Sequence[bool]] | None = None) -> Iterator[Session]:
    """Compress every prompt that this thread lets the model read.

    `views` says, for each sample in the order of reading and for each of its images, whether the method acts on it; None: on all.

    Raises:
        CompressionError: the model, its cache or a call is not one that tokens can be taken out of; or nothing was taken out.
        OptionError: the method has no place in this model.
    """
    with Hooks(model, method, views).open() as session:
        yield session


class Hooks:
    """The hooks of one session; what they know of the prompt that is being read.

    `flops` are operations of choosing tokens by the shapes that decide them, each counted once; sessions of the same model and
    method may share them.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        views: Iterable[Sequence[bool]] | None = None,
        flops: dict[Hashable, int] | None = None,
    ):
        if hasattr(model, "get_base_model"):  # wrapped by peft
            model = model.get_base_model()
        kind = getattr(getattr(model, "config", None), "model_type", "")
        if kind not in MODEL_TYPES:
            raise CompressionError(f"{kind or type(model).__name__}: tokens can be taken out of {', '.join(MODEL_TYPES)} only")
        if not hasattr(model, "lm_head"):
            raise CompressionError(f"{type(model).__name__}: compression needs the model with its language head")
        self.model, self.method = model, method
        self.inner, self.decoder, self.tower = model.model, model.model.language_model, model.model.visual
        parts = (model, self.inner, self.decoder, self.tower, *self.decoder.layers)
        if any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in parts):
            raise CompressionError("tokens cannot be taken out of a compiled model")
        self.at: dict[int, Rows] = dict(method.at(len(self.decoder.layers)))
        least = max(1, len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ()))
        for layer in self.at:
            if not least <= layer < len(self.decoder.layers):
                raise OptionError(f"{method.name}: layer {layer}: must be from {least} to {len(self.decoder.layers) - 1}")
        if method.sees_tower and kind == "qwen2_5_vl" and len(self.tower.blocks) - 1 not in self.tower.fullatt_block_indexes:
            raise CompressionError("the last block of the vision tower attends within windows only")
        self.session = Session(method, len(self.decoder.layers))
        self.views = None if views is None else iter(views)
        self.thread = threading.get_ident()
        self.prompt: Prompt | None = None
        self.entered: Prompt | None = None
        """As it entered the decoder; what its masks and positions are made for."""
        self.cache: weakref.ref[Any] | None = None
        """Of the last prompt; the only one that can be gone on with."""
        self.shortened = False
        """Whether anything left before the decoder."""
        self.following: Tensor | None = None
        """[batch]: the position behind the whole prompt."""
        self.by_layer: dict[int, Prompt] = {}
        self.passed: tuple[Tensor, Prompt, Tensor] | None = None
        """While a layer is passed by: all hidden states, whose they are, and where those that go through it stand."""
        self.seen: dict[int, tuple[Prompt, Tensor, Tensor, Tensor]] = {}
        """By layer: what its attention was given, cosine and sine."""
        self.made: tuple[Prompt, tuple[Tensor, ...], Tensor | None] | None = None
        """For which prompt, its rotary embedding and mask."""
        self.embeddings: Tensor | None = None
        self.flops = {} if flops is None else flops
        self.probe = TowerProbe(self.tower, self.flops)
        self.decoding = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Session]:
        """See `compress`."""
        with self.hooked():
            yield self.session
        self.session.drop_unfinished()
        self.session.check()

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """While the hooks are in place.

        Raises:
            CompressionError: those of another session of this thread are.
        """
        owners = (getattr(hook, "__self__", None) for hook in self.inner._forward_pre_hooks.values())
        if any(isinstance(owner, Hooks) and owner.thread == self.thread for owner in owners):
            raise CompressionError("another session of this thread is open on this model")
        with contextlib.ExitStack() as stack:
            for handle in self._registered():
                stack.callback(handle.remove)
            yield

    def _registered(self) -> Iterator[Any]:
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
            yield self.decoder.layers[layer].register_forward_hook(self._behind_layer)

    @property
    def mine(self) -> bool:
        """Whether it is the session's thread that calls."""
        return threading.get_ident() == self.thread

    @property
    def _implementation(self) -> str:
        return str(self.model.config.get_text_config()._attn_implementation)

    # -------------------------------------------------------------------------------------------- a prompt arrives

    def _before_model(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if not self.mine:
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
            if self.cache is None or self.cache() is not cache:
                raise CompressionError(
                    "compression needs the whole prompt, and this cache was filled before or by an earlier one"
                )
            if ids is not None and ids.shape[1] > 1:
                if self.by_layer or self.shortened:
                    raise CompressionError("a prompt that goes on where tokens have left the cache: read it again as a whole")
                if (ids == self.model.config.image_token_id).any():
                    raise CompressionError("an image behind what is cached: read the prompt again as a whole")
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
        self.prompt, self.entered = Prompt(valid, visual, visual, index, []), None
        self.shortened, self.by_layer, self.seen, self.passed, self.cache = False, {}, {}, None, None

    def _before_tower(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self.mine:
            self.probe.before(args, kwargs)

    def _before_tower_attention(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self.mine:
            self.probe.before_attention(module, args, kwargs)

    # ------------------------------------------------------------------------------------------ before the decoder

    def _before_decoder(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self.mine or self.prompt is None:
            return None
        kwargs = dict(kwargs)
        if self.decoding:
            if self.shortened:  # mask and positions as the caller sees them are those of the whole prompt
                entered = self.entered
                assert entered is not None and self.following is not None
                said = kwargs["past_key_values"].get_seq_length() - entered.valid.shape[1]
                seen = torch.nn.functional.pad(entered.valid.long(), (0, said + 1), value=1)
                kwargs["attention_mask"] = None if entered.full else seen
                first = self.following if self.method.positions == "keep" else entered.valid.sum(1)
                kwargs["position_ids"] = (first + said)[None, :, None].expand(3, -1, -1)
            return args, kwargs
        embeddings = kwargs["inputs_embeds"]
        self.session.begin(self.prompt.counts)
        if kwargs.get("position_ids") is None and any(self.prompt.counts):
            raise CompressionError("compression needs mm_token_type_ids, without which this model knows no positions of images")
        chosen = self._vision(embeddings)
        if any(s is not None for s in chosen):
            kwargs = self._shortened(kwargs, embeddings, chosen)
        self.entered = self.prompt
        self.embeddings = kwargs["inputs_embeds"]
        return args, kwargs

    def _acting_on(self, images: int) -> list[bool]:
        """Whether the method acts on each image of the next prompt."""
        if self.views is None:
            return [True] * images
        acting = list(next(self.views, ()))
        if len(acting) != images:
            raise CompressionError(f"views: {len(acting)} for a prompt of {images} images")
        return acting

    def _vision(self, embeddings: Tensor) -> list[Selection | None]:
        """What the method keeps of each sample before the decoder; None where that is everything as it is."""
        assert self.prompt is not None
        prompt, probe, chosen = self.prompt, self.probe, list[Selection | None]()
        device = embeddings.device
        rows = list[Tensor]()  # not written into one tensor: what was indexed by it may want gradients later
        least = min(self.method.kept(self.session.layers))
        owned, copies = probe.images(prompt.counts)
        acting = list[bool]()
        for sample, own in enumerate(owned):
            sizes = probe.sizes[own.start : own.stop]
            if sample % copies == 0:  # another answer to the same prompt otherwise
                acting = self._acting_on(len(own))
            self.session.flops[-1][sample] += probe.bill(own)
            among = torch.tensor([a for a, n in zip(acting, sizes, strict=True) for _ in range(n)], dtype=torch.bool)
            offered = [n for a, n in zip(acting, sizes, strict=True) if a]
            if prompt.visual[sample, -1] and acting[-1]:  # what comes next is read off the last position: it stays
                among[-1], offered[-1] = False, offered[-1] - 1
            rows.append(prompt.visual[sample].masked_scatter(prompt.visual[sample], among.to(device)))
            prompt.total.append(sum(offered))
            self.session.expected += max(0.0, sum(offered) * (1 - least) - len(offered))
            if not offered:
                chosen.append(None)
                continue
            features = embeddings[sample, rows[sample]]
            where = sum(probe.sizes[: own.start]) + among.nonzero()[:, 0].to(device)
            received, keys = (None if x is None else x[where] for x in (probe.received, probe.keys))
            with counted(self.flops, key := ("vision", *offered)), torch.autocast(device.type, enabled=False):
                selection = self.method.vision(VisionContext(features, tuple(offered), self.session.layers, received, keys))
            self.session.flops[-1][sample] += self.flops[key]
            if selection is not None:
                check_selection(selection, features, self.method.name)
            if selection is not None and selection.others == "pass":
                raise CompressionError(f"{self.method.name}: before the decoder there is no layer to pass by")
            whole = selection is None or (len(selection.keep) == len(features) and selection.values is None)
            chosen.append(None if whole else selection)
        prompt.offered = torch.stack(rows)
        return chosen

    def _shortened(self, kwargs: dict[str, Any], embeddings: Tensor, chosen: list[Selection | None]) -> dict[str, Any]:
        """The decoder's inputs without what left."""
        assert self.prompt is not None
        self.shortened = True
        before, embeddings = self.prompt, embeddings.clone()
        keep, stay = [], []
        for sample, selection in enumerate(chosen):
            places = before.offered[sample].nonzero()[:, 0]
            kept = places if selection is None else places[selection.keep]
            if selection is not None and selection.values is not None:
                embeddings[sample, kept] = selection.values.to(embeddings.dtype)
            left = before.valid[sample] & ~before.offered[sample]
            left[kept] = True
            keep.append(left.nonzero()[:, 0])
            stay.append(left[before.visual[sample]])
        self.prompt, source = before.without(keep)
        kwargs["inputs_embeds"] = gathered(embeddings, source, self.prompt.valid)
        position_ids = kwargs["position_ids"]
        self.following = position_ids[-3:].amax((0, 2)) + 1
        rows = position_ids.gather(2, source.expand(position_ids.shape[0], -1, -1))
        if position_ids.shape[0] == 4:  # text positions: gaps in them would read as packed sequences
            rows[0] = self.prompt.positions
        if self.method.positions == "renumber":
            rows[-3:] = self.prompt.positions
        kwargs["position_ids"] = rows
        mask = kwargs.get("attention_mask")
        if torch.is_tensor(mask):
            kwargs["attention_mask"] = self.prompt.valid.to(mask.dtype)
        elif not self.prompt.full:
            kwargs["attention_mask"] = self.prompt.valid.long()
        if kwargs.get("visual_pos_masks") is not None:
            kwargs["visual_pos_masks"] = self.prompt.visual
            every = torch.cat(stay)
            kwargs["deepstack_visual_embeds"] = [d[every] for d in kwargs["deepstack_visual_embeds"]]
        return kwargs

    # ------------------------------------------------------------------------------------------- within the decoder

    def _before_attention(self, layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if self.mine and not self.decoding and self.prompt is not None:
                hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                cosine, sine = (merged(x, self.decoder.config) for x in kwargs["position_embeddings"])
                self.seen[layer] = self.prompt, hidden, cosine, sine

        return hook

    def _before_layer(self, layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if not self.mine or self.prompt is None or self.entered is None:
                return None
            kwargs = dict(kwargs)
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.decoding:
                if (read := self.by_layer.get(layer)) is not None:
                    if hidden.shape[1] != 1:
                        raise CompressionError("several tokens at once behind a prompt that tokens have left")
                    # behind the prompt; the first layer has the new token in its cache already
                    said = int(kwargs["past_key_values"].get_seq_length()) - self.entered.valid.shape[1]
                    kwargs["attention_mask"] = read.mask_of_next(said, self._implementation, hidden.dtype)
                    if self.method.positions == "renumber":
                        kwargs["position_embeddings"] = self._rotary(hidden, read.valid.sum(1, keepdim=True) + said - 1)
                return args, kwargs
            if module.training and getattr(module, "gradient_checkpointing", False):
                # some versions call the hooks again in the backward pass
                raise CompressionError("compression and gradient checkpointing do not go together: see prepare")
            if layer == 0 and kwargs.get("past_key_values") is not None:
                self.cache = weakref.ref(kwargs["past_key_values"])
            if layer in self.at:
                hidden = self._select(layer, hidden)
            self.session.tokens[-1].append(self.prompt.counts)
            if self.prompt is not self.entered:
                self.by_layer[layer] = self.prompt
                if self.made is None or self.made[0] is not self.prompt:  # the same for every layer until more leaves
                    rotary = self._embedded(hidden, kwargs["position_embeddings"])
                    self.made = self.prompt, rotary, self.prompt.mask(self._implementation, hidden.dtype)
                _, kwargs["position_embeddings"], kwargs["attention_mask"] = self.made
                if kwargs.get("position_ids") is not None:
                    kwargs["position_ids"] = self.prompt.positions
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return hook

    def _behind_layer(self, _module: Any, _args: Any, output: Tensor) -> Tensor | None:
        """Those that passed the layer by come back."""
        if not self.mine or self.passed is None:
            return None
        hidden, prompt, source = self.passed
        assert self.prompt is not None
        through = torch.zeros_like(hidden).scatter(1, source[..., None].expand_as(output), output)
        sample, place = self.prompt.valid.nonzero(as_tuple=True)
        gone = torch.zeros_like(prompt.valid)
        gone[sample, source[sample, place]] = True
        self.prompt, self.passed = prompt, None
        return torch.where(gone[..., None], through, hidden)

    def _embedded(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Cosine and sine of the positions that are left."""
        assert self.prompt is not None and self.entered is not None
        if self.method.positions == "renumber":
            return self._rotary(hidden, self.prompt.positions)
        at = self.prompt.places_in(self.entered)
        return tuple(gathered(x, at) if x.ndim == 3 else torch.stack([gathered(axis, at) for axis in x]) for x in rotary)

    def _rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of positions [batch, length] that are the same along time, height and width."""
        cosine, sine = self.decoder.rotary_emb(hidden, positions.expand(3, *positions.shape))
        return cosine, sine

    def _select(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states of what enters the layer."""
        assert self.prompt is not None
        before, keep, changed, passing, values = self.prompt, list[Tensor](), False, False, hidden
        for sample in range(len(hidden)):
            offered = before.offered[sample, before.valid[sample]]
            stay = torch.ones_like(offered)
            selection = self._selected(layer, sample, hidden) if offered.any() else None
            places = offered.nonzero()[:, 0]
            if selection is not None and (len(selection.keep) < len(places) or selection.values is not None):
                changed, passing = True, passing or selection.others == "pass"
                stay[places] = False
                stay[places[selection.keep]] = True
                if selection.values is not None:
                    values = values.clone() if values is hidden else values
                    where = before.valid[sample].nonzero()[:, 0][places[selection.keep]]
                    values[sample, where] = selection.values.to(hidden.dtype)
            keep.append(before.valid[sample].nonzero()[:, 0][stay])
        self.seen.pop(layer - 1)
        if not changed:
            return hidden
        self.prompt, source = before.without(keep)
        if passing:
            self.passed = hidden, before, source
        return gathered(values, source, self.prompt.valid)

    def _selected(self, layer: int, sample: int, hidden: Tensor) -> Selection | None:
        """What the method keeps of a sample at the entry of a layer."""
        assert self.prompt is not None and self.entered is not None and self.embeddings is not None
        prompt, layers = self.prompt, self.session.layers
        valid = prompt.valid[sample]
        visual, offered = prompt.visual[sample, valid], prompt.offered[sample, valid]
        rows = rows_of(self.at[layer], visual, offered)
        attended, given, cosine, sine = self.seen[layer - 1]
        if attended is not prompt:
            raise OptionError(
                f"{self.method.name}: layer {layer}: tokens passed the layer before by, so that it has no attention"
            )
        given, cosine, sine = given[sample, valid], cosine[sample, valid], sine[sample, valid]
        embedded = self.embeddings[sample, prompt.places_in(self.entered)[sample, valid]]
        module, averaged = self.decoder.layers[layer - 1].self_attn, self.at[layer] == "visual"
        with counted(self.flops, key := (layer, len(given), len(rows), int(offered.sum()), prompt.total[sample])):
            with torch.no_grad():
                attention, keys = decoder_attention(module, given, cosine, sine, rows, averaged=averaged)
            context = LayerContext(
                layer,
                layers,
                hidden[sample, valid],
                offered,
                embedded,
                attention,
                rows,
                keys,
                prompt.total[sample],
                (cosine, sine),
            )
            with torch.autocast(hidden.device.type, enabled=False):
                selection = self.method.select(context)
        if selection is not None:
            check_selection(selection, context.hidden[offered], self.method.name)
        self.session.flops[-1][sample] += self.flops[key]
        return selection
