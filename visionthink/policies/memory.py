"""How many prompts a model can read at once within the memory there is.

An estimate from above, of what lives at the same time while a batch is read: keys and values of all layers, one layer's
activations of decoder and vision tower. It errs on the safe side; a GPU that runs out all the same says so, and the batch is
halved (`halving`). A CPU does not say so: its process is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from visionthink.types import Completion

_SHARE = 0.6
"""Share of the free memory that is used; the rest is left to fragmentation and to other processes."""
MOST = 64
"""More at once gains little and holds up the first to finish."""


def values_per_token(config: Any) -> tuple[int, int, int]:
    """Numbers that one token takes: keys and values of all layers, a layer of the decoder, and, of a visual token, a layer of the
    vision tower and its pixels."""
    text, vision = config.get_text_config(), config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head
    decoder = 8 * text.hidden_size + 3 * text.intermediate_size
    patches = vision.spatial_merge_size**2
    if hasattr(vision, "embed_dim"):  # Qwen2-VL, whose hidden_size there is the decoder's
        width, inner = vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
    else:
        width, inner = vision.hidden_size, vision.intermediate_size
    tower = patches * (8 * width + 3 * inner + vision.in_channels * 2 * vision.patch_size**2)
    return cache, decoder, tower


def bytes_per_token(config: Any, value_bytes: int) -> int:
    """Memory of one token of the prompt or the answer; a visual token brings its patches along."""
    return value_bytes * sum(values_per_token(config))


def fitting(lengths: Sequence[int], per_token: int, free: int, most: int = MOST) -> int:
    """How many of the first prompts fit, each taken to be as long as the longest of them; at least one."""
    longest = 0
    for count, length in enumerate(lengths[:most], 1):
        longest = max(longest, length)
        if count > 1 and count * longest * per_token > _SHARE * free:
            return count - 1
    return max(1, min(len(lengths), most))


def complete_in_parts(
    prompts: Sequence[int],
    lengths: Sequence[int],
    fitting: Callable[[Sequence[int]], int],
    complete: Callable[[Sequence[int]], list[Completion]],
) -> list[Completion]:
    """One completion per prompt, in order. Prompts of like lengths are completed together, the longest first.

    Args:
        prompts: their indices.
        lengths: of every prompt, by its index.
        fitting: how many of the first prompts of such lengths to complete at once.
        complete: completes all it is given at once.
    """
    completions: dict[int, Completion] = {}
    rest = sorted(prompts, key=lambda i: -lengths[i])
    while rest:
        count = fitting([lengths[i] for i in rest])
        part, rest = rest[:count], rest[count:]
        completions |= zip(part, complete(part), strict=True)
    return [completions[i] for i in prompts]


def halving(complete: Callable[[Sequence[int]], list[Completion]]) -> Callable[[Sequence[int]], list[Completion]]:
    """The same, in halves where memory runs out; a single prompt that does not fit is an error of its own."""

    def halved(prompts: Sequence[int]) -> list[Completion]:
        try:
            return complete(prompts)
        except torch.OutOfMemoryError:
            pass  # outside of the handler, whose traceback keeps the batch alive
        if len(prompts) == 1:
            return [Completion.failed("out_of_memory", "out of memory")]
        torch.cuda.empty_cache()
        middle = len(prompts) // 2
        return halved(prompts[:middle]) + halved(prompts[middle:])

    return halved


def free_bytes(device: torch.device) -> int:
    """Memory that is free for this process: on the GPU, what its allocator holds unused included; on a CPU, within its cgroup."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if not Path("/proc/meminfo").is_file():
        return 4 << 30
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (most := limit.read_text("utf-8").strip()).isdecimal():
        free = min(free, max(0, int(most) - int(used.read_text("utf-8"))))
    return free
