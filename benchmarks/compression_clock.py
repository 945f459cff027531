"""One prompt read with a clock: by the plain model, under a method, and with the hooks of a method that keeps everything."""

from __future__ import annotations

import contextlib
import copy
import functools
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionthink.compress.baselines import Uniform
from visionthink.compress.selection import Method
from visionthink.compress.session import Hooks, compress

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Reading:
    prefill: float
    """Seconds, the vision tower and the opening of the session included."""
    step: float
    """Seconds for a token, median."""
    cache_bytes: int
    """Keys and values behind the prompt."""
    peak_bytes: int | None
    """Of GPU memory while the prompt was read, weights included."""
    visual: int
    retained: float
    """Of the visual tokens, averaged over the decoder's layers."""
    selection_flops: int
    said: list[int]
    """The likeliest token of every step, or those that were given."""
    logprobs: Tensor
    """[1 + steps, vocabulary] float32: of the token after the prompt, and of those after each of `said`."""


def read(
    model: Any,
    inputs: Inputs,
    steps: int,
    method: Method | None = None,
    said: Sequence[int] | None = None,
    flops: dict[Hashable, int] | None = None,
) -> Reading:
    """Read a prompt, then one token after the other: those of `said`, or the likeliest. `flops`: see `Hooks`."""
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.ExitStack() as stack, torch.inference_mode():
        started = now(model)
        session = stack.enter_context(Hooks(model, method, flops=flops).open()) if method else None
        output = prefilled(model, inputs)
        prefill = now(model) - started
        peak = torch.cuda.max_memory_allocated() if cuda else None
        held = sum(x.nelement() * x.element_size() for layer in output.past_key_values.layers for x in (layer.keys, layer.values))
        logits, tokens, seconds = [output.logits[0, -1]], list[int](), []
        for i in range(steps):
            tokens.append(int(logits[-1].argmax()) if said is None else said[i])
            started = now(model)
            logits.append(stepped(model, inputs, output.past_key_values, i, tokens[-1]))
            seconds.append(now(model) - started)
    return Reading(
        prefill=prefill,
        step=statistics.median(seconds),
        cache_bytes=held,
        peak_bytes=peak,
        visual=int((inputs["input_ids"] == model.config.image_token_id).sum()),
        retained=session.report()["retained"] if session else 1.0,
        selection_flops=session.samples()[0][1] if session else 0,
        said=tokens,
        logprobs=torch.stack(logits).float().log_softmax(-1).cpu(),
    )


def now(model: Any) -> float:
    """The clock, when the device has done what it was told."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def prefilled(model: Any, inputs: Inputs) -> Any:
    return model(**inputs, use_cache=True, logits_to_keep=1)


def stepped(model: Any, inputs: Inputs, cache: Any, said: int, token: int) -> Tensor:
    """Logits [vocabulary] after one token more, which stands `said` tokens behind the prompt, where generation puts it."""
    length = inputs["input_ids"].shape[1] + said
    output = model(
        input_ids=torch.tensor([[token]], device=model.device),
        attention_mask=torch.ones(1, length + 1, dtype=torch.long, device=model.device),
        position_ids=(length + model.model.rope_deltas).expand(3, 1, 1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[0, -1]


def hooks(model: Any) -> int:
    """Hooks on any of its modules."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def hook_cost(model: Any, inputs: Inputs, repeats: int, steps: int) -> dict[str, Any]:
    """Ratios to modules that no session ever touched: after a session was closed, and in one that keeps everything.

    The untouched modules are a copy that shares the weights, so that both can be asked in turn, first the one, then the other.
    """
    untouched = copy.deepcopy(model, {id(p): p for p in (*model.parameters(), *model.buffers())})
    before = hooks(model)
    with compress(model, Uniform(keep=1)):
        read(model, inputs, 1)
    left = hooks(model) - before
    assert not left, f"{left} hooks stayed behind"
    found = {"hooks_left": left, "repeats": repeats, "closed": _compared(untouched, model, inputs, repeats, steps)}
    with compress(model, Uniform(keep=1)):
        found["open"] = _compared(untouched, model, inputs, repeats, steps)
    return found


def _compared(plain: Any, other: Any, inputs: Inputs, repeats: int, steps: int) -> dict[str, Any]:
    """{"prefill", "step"}: the median of other / plain, and where the middle 95 % of its resampled values lie."""
    ratios: dict[str, list[float]] = {"prefill": [], "step": []}

    def pair(kind: str, ask: Callable[[Any], Any]) -> dict[int, Any]:
        results, seconds = {}, {}
        # who comes second finds the weights warm: in turn
        for model in (plain, other) if len(ratios[kind]) % 2 else (other, plain):
            started = now(model)
            results[id(model)] = ask(model)
            seconds[id(model)] = now(model) - started
        ratios[kind].append(seconds[id(other)] / seconds[id(plain)])
        return results

    with torch.inference_mode():
        for model in (plain, other):
            prefilled(model, inputs)  # for warmth
        for _ in range(repeats):
            outputs = pair("prefill", functools.partial(prefilled, inputs=inputs))
            for i in range(steps):
                pair("step", functools.partial(_next, outputs, inputs, i))
    return {kind: _interval(values) for kind, values in ratios.items()}


def _next(outputs: dict[int, Any], inputs: Inputs, said: int, model: Any) -> Tensor:
    # which token it is does not matter to the clock
    return stepped(model, inputs, outputs[id(model)].past_key_values, said, token=7)


def _interval(values: list[float]) -> dict[str, float]:
    x, chance = np.array(values), np.random.default_rng(0)
    low, high = np.quantile(np.median(chance.choice(x, (1000, len(x))), axis=1), (0.025, 0.975))
    return {"median": float(np.median(x)), "low": float(low), "high": float(high)}
