"""What an episode cost, from the usage its turns wrote down and the shape of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.evals.flops import Architecture, cache_bytes, decoder_flops, generation_flops, vision_flops
from visionthink.evals.paper_flops import paper_flops
from visionthink.types import Transcript


@dataclass(frozen=True)
class Cost:
    """Of one episode, all rounds together.

    `flops` is what runs when every round reads its whole context again, as `LocalPolicy` does; `flops_cached` when a round finds
    the one before in a prefix cache. `prefill_tokens` likewise. `flops_paper` is the papers' formula on the last context.
    """

    flops: int
    flops_cached: int
    flops_paper: int
    vision_flops: int
    """The part of `flops_cached` that is the vision tower's."""
    prefill_tokens: int
    prefill_tokens_cached: int
    kv_bytes: int
    """Of the last context with its answer: the most that the episode held."""


def episode_cost(transcript: Transcript, architecture: Architecture) -> Cost | None:
    """None where the transcript does not say what its views or its tokens were, or where tokens left within the decoder."""
    decoder, vision = architecture.decoder, architecture.vision
    flops = cached = encoded = prefilled = prefilled_cached = visual = known = context = 0
    for turn in transcript.turns:
        usage = turn.usage
        if usage.retained_tokens is not None:
            return None
        if usage.visual_tokens:
            if turn.view_size is None:
                return None
            view = vision_flops(vision, *turn.view_size, decoder.hidden)
            encoded += view
            cached += view
        visual += usage.visual_tokens
        prompt = usage.text_tokens + visual
        if usage.text_tokens == 0 and usage.output_tokens == 0:
            continue  # the policy failed before it read anything
        said = generation_flops(decoder, prompt, usage.output_tokens)
        flops += encoded + decoder_flops(decoder, prompt) + said
        cached += decoder_flops(decoder, prompt - known, known) + said
        prefilled += prompt
        prefilled_cached += prompt - known
        context = prompt + usage.output_tokens
        known = max(0, context - 1)  # the last token was sampled and never read
    if not context:
        return None
    last = context - transcript.turns[-1].usage.output_tokens
    return Cost(
        flops, cached, paper_flops(decoder, last), encoded, prefilled, prefilled_cached, cache_bytes(architecture, context)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """With linear interpolation between the two nearest; `share` from 0 to 1."""
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
