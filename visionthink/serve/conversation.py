"""What a client asked, in one form for both APIs. Plain records: nothing here reads a request or an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Detail = Literal["auto", "low", "high", "original"]
"""How an image is shown. `auto`: low first, more where the model asks; `low`: low only; `high`: full within the model's pixel
budget; `original`: as the client sent it."""
Rule = Literal["model", "gate"]
"""Who decides whether to look again: the model, by asking, or a threshold on its confidence in an answer from the low views."""
ClientRole = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """An image as a client sent it."""

    source: bytes | str = field(repr=False)
    """The bytes of a decoded data URL, or an http(s) address where those are allowed."""
    detail: Detail | None = None
    """None where the client does not say."""
    place: str = field(default="", compare=False)
    """Where it stands in the request, as `messages[2].content[1].image_url`."""


@dataclass(frozen=True, kw_only=True)
class ClientMessage:
    """One message of a client; `developer` is read as `system`. Texts are disarmed: no image mark or control token is left."""

    role: ClientRole
    content: tuple[str | ImageInput, ...] = field(default=(), repr=False)
    wire: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """`tool_calls`, `tool_call_id` and `name` as the client sent them; an endpoint is sent them again."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How an answer is sampled; None where the client leaves it to the server."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other known fields, which only an endpoint understands: `presence_penalty`, `response_format` and the like."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """What a request changes of the server's defaults; None where it leaves them."""

    mode: Detail | None = None
    rule: Rule | None = None
    threshold: float | None = None
    """For the gate: the confidence, from 0 to 1, below which the images are shown again in full."""
    events: bool = False
    """Whether a stream tells what was looked at and why."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One request."""

    messages: tuple[ClientMessage, ...]
    model: str
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    tools: tuple[Mapping[str, Any], ...] = ()
    """The client's own, in the form of chat completions."""
    tool_choice: Any = None
    override: Override = field(default_factory=Override)
    stream: bool = False
    stream_usage: bool = False
