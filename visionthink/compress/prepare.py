"""Compressed model inputs as plain tensors, for training and export without hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from visionthink.compress.selection import Method
from visionthink.compress.session import Hooks
from visionthink.errors import OptionError


def prepare(model: Any, inputs: Mapping[str, Tensor], method: Method) -> dict[str, Any]:
    """The inputs of the decoder without the tokens that a method removes before it.

    `inputs` are those of the model: input_ids, attention_mask and mm_token_type_ids [batch, length], pixel_values,
    image_grid_thw, and labels [batch, length] where there are any. Returns, for the L' remaining positions, with padding on the
    left:

        inputs_embeds [batch, L', D]   position_ids [3 or 4, batch, L']   attention_mask [batch, L']   labels [batch, L']

    which are inputs of `model(...)` and `model.generate(...)`. Gradients flow into the embeddings and the vision tower. For
    Qwen3-VL the result also has visual_pos_masks [batch, L'] and deepstack_visual_embeds. Without its labels it is then an input
    of `model.model.language_model`; head and loss have to be applied to its `last_hidden_state`.

    Raises:
        OptionError: the method acts within the decoder.
        CompressionError: tokens cannot be removed from this model or these inputs, or the method removed none.
    """
    hooks, caught = Hooks(model, method), dict[str, Any]()
    if hooks.target.at:
        raise OptionError(f"{method.name}: takes tokens out within the decoder, which only `compress` can do")
    with hooks.hooked():
        # the model reads the prompt under the session's own hooks, as far as the decoder
        stop = hooks.target.decoder.register_forward_pre_hook(_stop_with(hooks, caught), with_kwargs=True)
        try:
            hooks.target.inner(**{name: x for name, x in inputs.items() if name != "labels"}, use_cache=False)
        except _Stopped:
            pass
        finally:
            stop.remove()
    assert hooks.reading is not None
    prompt = hooks.reading.prompt
    hooks.session.tokens[-1] = [prompt.counts] * hooks.session.layers
    hooks.session.check()
    names = ("inputs_embeds", "position_ids", "visual_pos_masks", "deepstack_visual_embeds")
    batch = {name: caught[name] for name in names if caught.get(name) is not None}
    batch["attention_mask"] = prompt.valid.long()
    if "labels" in inputs:
        batch["labels"] = hooks.session.aligned(inputs["labels"])
    return batch


class _Stopped(Exception):
    pass


def _stop_with(hooks: Hooks, caught: dict[str, Any]) -> Any:
    def hook(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if hooks.mine:
            caught.update(kwargs)
            raise _Stopped

    return hook
