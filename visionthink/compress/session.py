"""Forward hooks that remove visual tokens while a stock Qwen2-VL, Qwen2.5-VL or Qwen3-VL reads a prompt. They are on one model,
and are removed at the end of the session.

A method says which of a sample's visual tokens stay: before the decoder (`vision`), at the entry of some of its layers
(`select`), or both. Samples of a batch keep different numbers; they are aligned to the right behind padding that attention does
not see. Kept tokens keep their positions (`positions="renumber"` closes the gaps). Keys and values of removed tokens are not
cached in later layers, and decoding continues with the positions that follow the whole prompt.

    with compress(model, FastV(layer=3, keep=0.5)) as session:
        output = model.generate(**inputs)
    session.report()
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.decoding import Decoding
from visionthink.compress.prompt import Prompt
from visionthink.compress.reading import Reading
from visionthink.compress.record import Session
from visionthink.compress.selection import Method
from visionthink.compress.target import Target
from visionthink.compress.vision import VisionStage
from visionthink.errors import CompressionError


@contextlib.contextmanager
def compress(model: Any, method: Method, *, views: Sequence[Sequence[bool]] | None = None) -> Iterator[Session]:
    """Compress every prompt that this thread lets the model read.

    `views` says, for each sample in the order of reading and for each of its images, whether the method acts on it; None: on all.

    Raises:
        CompressionError: tokens cannot be removed from this model, its cache or a call, or the method removed none.
        OptionError: the method cannot act in this model.
    """
    with Hooks(model, method, views).open() as session:
        yield session


class Hooks:
    """The hooks of one session. They determine whether the model was called with a prompt or with tokens that follow one, and
    pass the call to the object for it.

    For `views` and `flops` see `VisionStage` and `Target`.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        views: Iterable[Sequence[bool]] | None = None,
        flops: dict[Hashable, int] | None = None,
    ):
        self.target = Target(model, method, flops)
        self.session = Session(method=method, layers=self.target.layers)
        self.vision = VisionStage(self.target, self.session, views, self._read_text)
        self.aside = False
        """True while the decoder reads text for the method, which is not a prompt."""
        self.thread = threading.get_ident()
        self.prompt: Prompt | None = None
        """The last prompt that the model was called with."""
        self.reading: Reading | None = None
        """The reading of that prompt; None until it enters the decoder."""
        self.decoding: Decoding | None = None
        """The call with tokens that follow; None while a prompt is read."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Session]:
        """See `compress`."""
        with self.hooked():
            yield self.session
        self.session.drop_unfinished()
        self.session.check()

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """The hooks are on the model within the block.

        Raises:
            CompressionError: another session of this thread is open on the model.
        """
        owners = (getattr(hook, "__self__", None) for hook in self.target.inner._forward_pre_hooks.values())
        if any(isinstance(owner, Hooks) and owner.thread == self.thread for owner in owners):
            raise CompressionError("another session of this thread is open on this model")
        with self.target.method.needs.within(), contextlib.ExitStack() as stack:
            for handle in self._registered():
                stack.callback(handle.remove)
            yield

    def _registered(self) -> Iterator[Any]:
        target = self.target
        yield target.inner.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield target.tower.register_forward_pre_hook(self._before_tower, with_kwargs=True)
        if target.method.needs.attention:
            yield target.tower.blocks[-1].attn.register_forward_pre_hook(self._before_tower_attention, with_kwargs=True)
        for block in target.method.needs.levels:
            yield target.tower.blocks[block].register_forward_hook(self._behind_tower_block(block))
        yield target.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        for number, layer in enumerate(target.decoder.layers):
            yield layer.register_forward_pre_hook(self._before_layer(number), with_kwargs=True)
        for number, rows in target.at.items():
            if rows != "none":
                attention = target.decoder.layers[number - 1].self_attn
                yield attention.register_forward_pre_hook(self._before_attention(number - 1), with_kwargs=True)
            yield target.decoder.layers[number].register_forward_hook(self._behind_layer)

    @property
    def mine(self) -> bool:
        """Whether the call comes from the session's thread and concerns a prompt or the tokens after it."""
        return threading.get_ident() == self.thread and not self.aside

    def _read_text(self, text: Tensor) -> Tensor:
        self.aside = True
        try:
            read: Tensor = self.target.decoder(inputs_embeds=text[None], use_cache=False).last_hidden_state[0]
        finally:
            self.aside = False
        return read

    def _before_model(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if not self.mine:
            return
        if torch.compiler.is_compiling():
            raise CompressionError("tokens cannot be taken out of a compiled model")
        cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        past = cache.get_seq_length() if cache is not None else 0
        if cache is not None and getattr(cache, "is_compileable", False):
            raise CompressionError("tokens cannot be taken out of a static cache")
        self.decoding = Decoding(self.target, self.reading, cache, ids) if past > 0 else None
        if self.decoding is None:
            self.prompt, self.reading = self.vision.prompt_of(ids, kwargs.get("attention_mask")), None

    def _before_tower(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self.mine:
            self.vision.probe.before(args, kwargs)

    def _before_tower_attention(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self.mine:
            self.vision.probe.before_attention(module, args, kwargs)

    def _behind_tower_block(self, block: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            if self.mine:
                self.vision.probe.behind_block(block, output if torch.is_tensor(output) else output[0])

        return hook

    def _before_decoder(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self.mine or self.prompt is None:
            return None
        if self.decoding is not None:
            return args, self.decoding.enter_decoder(kwargs)
        self.reading, kwargs = self.vision.enter(self.prompt, kwargs)
        return args, kwargs

    def _before_layer(self, layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            if not self.mine or self.reading is None:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if self.decoding is not None:
                return args, self.decoding.enter_layer(layer, hidden, kwargs)
            hidden, kwargs = self.reading.enter_layer(layer, hidden, kwargs)
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return hook

    def _before_attention(self, layer: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if self.mine and self.decoding is None and self.reading is not None:
                hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                self.reading.attention_given(layer, hidden, kwargs["position_embeddings"])

        return hook

    def _behind_layer(self, _module: Any, _args: Any, output: Tensor) -> Tensor | None:
        return self.reading.leave_layer(output) if self.mine and self.reading is not None else None
