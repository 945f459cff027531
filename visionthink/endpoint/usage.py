"""Numbers that a server says beside its words: what a reply cost, and how probable its tokens were. Not said is None."""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class TokenSaid(NamedTuple):
    """A token of a reply."""

    text: str
    """The text that this piece added."""
    logprob: float
    """Natural logarithm of its probability."""
    others: tuple[float, ...] | None = None
    """Those of the likeliest other tokens; None where the server does not say."""


def usage_of(record: Mapping[str, Any]) -> dict[str, int | None]:
    """Counts of tokens, by their names in `Completed`."""
    usage = record.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    by_kind = details.get("multimodal_tokens")  # of vLLM
    cached = _count(details, "cached_tokens")
    return {
        "prompt_tokens": _count(usage, "prompt_tokens", "input_tokens"),
        "completion_tokens": _count(usage, "completion_tokens", "output_tokens"),
        "image_tokens": _count(by_kind, "image") if isinstance(by_kind, dict) else _count(details, "image_tokens"),
        "cached_tokens": _count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens") if cached is None else cached,
    }


def logprobs_of(choice: Mapping[str, Any], decode: Callable[[bytes], str] | None = None) -> tuple[TokenSaid, ...]:
    """Every token of a reply; nothing where the text or the probability of one is not known.

    A character whose bytes are spread over several tokens is added by the last of them.

    Args:
        decode: decodes their bytes in order, where earlier tokens of the same reply were read with it.
    """
    said = choice.get("logprobs")
    tokens = said.get("content") if isinstance(said, dict) else None
    found: list[TokenSaid] = []
    decode = decode or codecs.getincrementaldecoder("utf-8")("replace").decode
    for token in tokens if isinstance(tokens, list) else []:
        text, value = _token(token)
        if text is None or value is None:
            return ()
        spelled = token.get("bytes")
        whole = isinstance(spelled, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in spelled)
        likeliest = [_token(other) for other in token["top_logprobs"]] if isinstance(token.get("top_logprobs"), list) else []
        others = tuple(logprob for other, logprob in likeliest if other != text and logprob is not None) if likeliest else None
        found.append(TokenSaid(decode(bytes(spelled)) if whole else text, value, others))
    return tuple(found)


def _token(said: Any) -> tuple[str | None, float | None]:
    """Text and log-probability, each None where it is not said."""
    text, value = (said.get("token"), said.get("logprob")) if isinstance(said, dict) else (None, None)
    # above 0 by more than rounding it is no log-probability
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    known = float(number) if -sys.float_info.max <= number <= 1e-3 else None
    return text if isinstance(text, str) else None, known


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    found = next((usage[name] for name in names if usage.get(name) is not None), None)
    whole = int(found) if isinstance(found, float) and found.is_integer() else found
    return whole if isinstance(whole, int) and not isinstance(whole, bool) and 0 <= whole < 1 << 53 else None
