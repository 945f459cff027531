"""What an episode cost, from the usage its turns wrote down and the shape of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.evals.flops import Architecture, cache_bytes, decoder_flops, generation_flops, vision_flops
from visionthink.evals.paper_flops import paper_flops
from visionthink.rewards.costs import readings
from visionthink.transcript import Transcript
from visionthink.types import Shown


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one episode costs, all rounds together.

    `flops` is what runs when every round reads its whole context again, as `generate` of transformers does; `flops_cached` when a
    round finds the one before in a prefix cache, as with `LocalPolicy` and vLLM. `prefill_tokens` likewise. `flops_paper` is the
    papers' formula on the last context. What a round finds says `rewards.costs.readings`.

    Where visual tokens are taken out, nothing of an earlier round is found but what the vision tower made of the views.
    `prefill_tokens` then counts what entered the first layer: a method that takes tokens out further up reads them first, and
    what it saves shows in `flops` and `kv_bytes`, which go by layers.
    """

    flops: int
    flops_cached: int
    flops_paper: int
    vision_flops: int
    """The part of `flops_cached` that is the vision tower's."""
    selection_flops: int
    """The part of `flops` and of `flops_cached` that chose which visual tokens stay."""
    prefill_tokens: int
    prefill_tokens_cached: int
    kv_bytes: int
    """Bytes of the key-value cache of the last context with its answer, which is the most that the episode held."""


def episode_cost(transcript: Transcript, architecture: Architecture) -> Cost | None:
    """None where the transcript does not say what its views or its tokens were, or where it is of a model with other layers."""
    decoder, vision = architecture.decoder, architecture.vision
    if any(turn.usage.visual_tokens and not (turn.views and all(v.width for v in turn.views)) for turn in transcript.turns):
        return None

    def encoded(views: Sequence[Shown]) -> int:
        return sum(vision_flops(vision, view.width, view.height, decoder.hidden) for view in views)

    tower = cached = encoded(transcript.views)
    flops = selected = prefilled = prefilled_cached = output = 0
    prompt: list[int] = []
    for reading in readings(transcript):
        usage, known = reading.turn.usage, reading.known
        left = usage.visual_by_layer or (reading.visual,) * decoder.layers
        if len(left) != decoder.layers:
            return None
        prompt, output = [usage.text_tokens + n for n in left], usage.output_tokens
        behind = generation_flops(decoder, prompt, output) + usage.selection_flops
        flops += encoded(reading.views) + decoder_flops(decoder, prompt) + behind
        cached += decoder_flops(decoder, [n - known for n in prompt], known) + behind
        selected += usage.selection_flops
        prefilled += reading.context
        prefilled_cached += reading.context - known
    if not prompt:
        return None
    return Cost(
        flops=flops,
        flops_cached=cached,
        flops_paper=paper_flops(decoder, prompt),
        vision_flops=tower,
        selection_flops=selected,
        prefill_tokens=prefilled,
        prefill_tokens_cached=prefilled_cached,
        kv_bytes=cache_bytes(architecture, [n + output for n in prompt]),
    )


def flops_of(config: Any) -> Callable[[Transcript], float | None]:
    """Counts the operations of an episode (`flops_cached`) of the model with this configuration of transformers."""
    architecture = Architecture.of(config)

    def flops(transcript: Transcript) -> float | None:
        cost = episode_cost(transcript, architecture)
        return None if cost is None else float(cost.flops_cached)

    return flops


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile at `share`, from 0 to 1, by linear interpolation between the two nearest values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def bill(transcripts: Sequence[Transcript], architecture: Architecture | None) -> dict[str, Any]:
    """Means per episode, and percentiles of the seconds; None where it is not known."""
    n = len(transcripts)
    seconds = [t.seconds for t in transcripts]
    first = [t.turns[0].usage.first_token_seconds for t in transcripts if t.turns]
    waits = [s for s in first if s is not None]
    costs = [episode_cost(t, architecture) for t in transcripts] if architecture else []
    whole = [c for c in costs if c is not None]
    means = {name: sum(getattr(c, name) for c in whole) / len(whole) if whole else None for name in Cost.__dataclass_fields__}
    return {
        "visual_tokens": sum(t.visual_tokens for t in transcripts) / n,
        "text_tokens": sum(t.text_tokens for t in transcripts) / n,
        "output_tokens": sum(t.output_tokens for t in transcripts) / n,
        **means,
        "cost_unknown": n - len(whole),
        "seconds": sum(seconds) / n,
        "seconds_p50": percentile(seconds, 0.5),
        "seconds_p95": percentile(seconds, 0.95),
        "first_token_seconds": sum(waits) / len(waits) if waits else None,
    }
