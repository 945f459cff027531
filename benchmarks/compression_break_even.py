"""Operations of a prompt on Qwen2.5-VL-7B by formula: how rarely adaptive resolution must ask, to be cheaper than a method.

Prefill only, 60 text tokens. A method's cost leaves out what choosing tokens takes, and takes the shares that it aims at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compression_prompts import TEXT, config_7b

from visionthink.compress.names import parse
from visionthink.errors import OptionError
from visionthink.evals.break_even import break_even, cheaper
from visionthink.evals.flops import Architecture, decoder_flops, vision_flops
from visionthink.resolution import QWEN2_5_VL, ResolutionLadder

IMAGES = ((448, 448), (1024, 1024), (2048, 1024))


def table(families: Sequence[str], keeps: Sequence[float]) -> list[dict[str, Any]]:
    """By image: costs in shares of the plain full view, and for each method the request rate at which adaptive costs as much,
    where the second round reads everything again (`rate`), and where it finds the first in a cache (`rate_cached`)."""
    architecture = Architecture.of(config_7b())
    return [_of_image(architecture, *size, [f"{f}:{keep:g}" for f in families for keep in keeps]) for size in IMAGES]


def _of_image(architecture: Architecture, width: int, height: int, names: Sequence[str]) -> dict[str, Any]:
    decoder = architecture.decoder
    size = QWEN2_5_VL.fit(width, height)
    low, full = (ResolutionLadder().size(level, *size, QWEN2_5_VL) for level in (0.25, 1.0))
    small, tokens = QWEN2_5_VL.visual_tokens(*low), QWEN2_5_VL.visual_tokens(*full)
    tower_low, tower = (vision_flops(architecture.vision, *size, decoder.hidden) for size in (low, full))
    plain = tower + decoder_flops(decoder, TEXT + tokens)
    direct = tower_low + decoder_flops(decoder, TEXT + small)
    again = direct + tower_low + tower + decoder_flops(decoder, TEXT + small + tokens)
    cached = direct + tower + decoder_flops(decoder, tokens, TEXT + small)

    def row(name: str) -> dict[str, Any]:
        try:
            kept = parse(name).kept(decoder.layers)
        except OptionError as error:
            return {"method": name, "reason": str(error)}
        cost = tower + decoder_flops(decoder, [TEXT + max(1, round(share * tokens)) for share in kept])
        found: dict[str, Any] = {"method": name, "flops": cost / plain}
        for key, request in (("rate", again), ("rate_cached", cached)):
            rate = break_even(direct, request, cost)
            found |= {key: rate, f"cheaper{key.removeprefix('rate')}": None if rate is None else cheaper(rate)}
        return found

    return {
        "image": f"{width}x{height}",
        "visual_tokens": tokens,
        "plain_tflop": plain / 1e12,
        "tower_share": tower / plain,
        "direct": direct / plain,
        "request": again / plain,
        "request_cached": cached / plain,
        "full_rate": break_even(direct, again, plain),
        "full_rate_cached": break_even(direct, cached, plain),
        "methods": [row(name) for name in names],
    }
