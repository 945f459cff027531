"""The nouns everything shares: example, box, look, view, message, completion.

Plain records. Nothing here reads a file, runs a model or knows the protocol; what can be derived is a property and is
not stored. What an episode leaves behind is in `transcript`.
"""

from __future__ import annotations

import enum
import functools
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from PIL import Image

ImageSource: TypeAlias = "Image.Image | bytes | str | os.PathLike[str]"
"""An opened image, the bytes of a file, or a path."""

Need = Literal["easy", "hard"]
"""`easy`: a quarter of the pixels suffices. `hard`: it does not. Known for generated and curated data only."""

Role = Literal["system", "user", "assistant", "tool"]
"""Who speaks; a `tool` gives what a function returned, to models behind an endpoint."""


class Box(NamedTuple):
    """A rectangle in px of the upright original; right and bottom are exclusive. The only frame that is stored anywhere."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def area(self) -> int:
        """The area in square px; 0 if the box is empty."""
        return max(0, self.width) * max(0, self.height)

    def within(self, other: Box) -> Box:
        """The part of this box that lies inside another one; it may be empty."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def covered_by(self, boxes: Iterable[Box]) -> float:
        """Share of this box's area that lies in the union of others, from 0 to 1."""
        parts = [part for box in boxes if (part := self.within(box)).area]
        columns = sorted({x for part in parts for x in (part.left, part.right)})
        covered = 0
        for left, right in itertools.pairwise(columns):  # within a strip, the parts are intervals
            end = self.top
            for top, bottom in sorted((p.top, p.bottom) for p in parts if p.left <= left and right <= p.right):
                covered += (right - left) * max(0, bottom - max(end, top))
                end = max(end, bottom)
        return covered / self.area if self.area else 0.0


def whole(width: int, height: int) -> Box:
    """The box of a whole image."""
    return Box(0, 0, width, height)


@dataclass(frozen=True)
class Look:
    """What is shown after a request: parts of one image at a share of the full view's pixel density.

    VisionThink's request (arXiv 2507.13348) is `Look((whole image,), next level)`.
    """

    boxes: tuple[Box, ...]
    level: float
    """Share of the full view's pixel density, in (0, 1]."""
    image: int = 0
    """Which of the example's images, from 0."""
    _: KW_ONLY
    edit: str = ""
    """What is done to the pixels, by the name of one of the menu's edits."""


Evidence: TypeAlias = "tuple[tuple[Box, float], ...]"
"""What an answer depends on: boxes, each with the level at which it can be read."""


class Earlier(NamedTuple):
    """A message before the question."""

    role: Role
    text: str
    wire: Mapping[str, Any] = {}
    """See `Message.wire`."""


@dataclass(frozen=True)
class Example:
    """One question about one image or several, after an earlier conversation or none.

    A literal `<image>` in the conversation or the question says where an image stands; without any, images come first.

        Example("42", "What is the total?", "receipt.png", answer="12.50")
        Example("43", "Which is larger, <image> or <image>?", ("a.png", "b.png"))
    """

    id: str
    question: str
    image: ImageSource | tuple[ImageSource, ...] = field(repr=False)
    _: KW_ONLY
    answer: str | None = None
    """The reference answer; None when unknown (the example cannot be scored)."""
    aliases: tuple[str, ...] = ()
    """Other accepted spellings of the reference answer."""
    need: Need | None = None
    family: str | None = None
    earlier: tuple[Earlier | tuple[Role, str], ...] = ()
    """Messages before the question, oldest first: who spoke, and the text."""
    evidence: Evidence = ()
    """What the answer depends on, in the first image; empty where it is not known."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conversation(self) -> tuple[Earlier, ...]:
        """The messages before the question."""
        return tuple(Earlier(*message) for message in self.earlier)

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """All of them, in the order in which the conversation shows them."""
        return self.image if isinstance(self.image, tuple) else (self.image,)


Examples: TypeAlias = Sequence[Example] | Mapping[str, Example]
"""Examples in memory, or by id where a table reads them when they are asked for."""


def reason(examples: Examples, key: str | int, error: Exception) -> str:
    """Why an example cannot be used. Where a table holds it, the table and the row are named, as the table names rows."""
    where: Callable[[str | int], str] | None = getattr(examples, "where", None)
    why = str(error)
    if where is None or why.startswith(place := f"{where(key)}: "):
        return why
    return place + why.removeprefix(f"example {key}").lstrip(":, ")


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """A part of an image as the model is shown it."""

    image: Image.Image = field(repr=False, compare=False)
    box: Box
    level: float
    """Share of the full view's pixel density, in (0, 1]."""
    width: int
    height: int
    visual_tokens: int
    given: tuple[str, bytes] | None = field(default=None, repr=False, compare=False)
    """Media type and bytes of a file that holds exactly these pixels, where there is one."""
    detail: str = field(default="", compare=False)
    """`detail` that an endpoint is sent beside it; see `Picture`."""

    @functools.cached_property
    def encoded(self) -> tuple[str, bytes]:
        """Media type and bytes of a file, the same whenever it is sent: the one that was given, else a PNG."""
        if self.given is not None:
            return self.given
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", compress_level=1)
        return "image/png", buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A view as a transcript records it: everything but the pixels."""

    box: Box
    level: float
    width: int
    """Width in px, as `height` is; 0 in transcripts of earlier versions that did not say it."""
    height: int
    visual_tokens: int
    image: int = 0
    """Which of the example's images, from 0."""
    edit: str = ""
    """What was done to the pixels."""


Content: TypeAlias = "tuple[str | ImageView, ...]"

# ------------------------------------------------------------------------------------------------ what a reply asks for

Unit = Literal["px", "permille", "fraction", "cell"]
"""Unit of the coordinates in a call. A `cell` is the square of one visual token of the full view."""
Frame = Literal["opening", "original", "named", "user"]
"""What the coordinates in a call are relative to. `opening`: the first view of the image; `original`: the upright original;
`named`: the view that the call names; `user`: the image that the call names."""


Asked = Literal["level", "region", "box", "edit"]
"""Kinds of what can be asked for: a level of a whole image, a region by its id, any box, an operation on the pixels."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One thing that a reply asks for, as it was said: numbers and names, nothing of which is resolved.

    Without a box, regions, a level or an edit it asks for the next level of all images, as VisionThink's call does.

        Call(box=(0.5, 0.5, 1, 1), source=1, unit="fraction", frame="named")  # the lower right quarter of the second view
    """

    box: tuple[float, float, float, float] | None = None
    regions: tuple[str, ...] = ()
    """Ids of parts on offer."""
    level: float | None = None
    edit: str = ""
    """An operation on the pixels, by name."""
    source: int | None = None
    """Which image (frame `user`) or which view, in the order of showing (frame `named`), from 0; None where it is not said."""
    unit: Unit = "px"
    frame: Frame = "original"


class CallError(enum.StrEnum):
    """Why a call cannot be followed. The value is what the model is told; no exception text ever reaches it."""

    UNCLOSED = "the tool call is not closed"
    NOT_JSON = "the tool call is not valid JSON"
    UNKNOWN_FUNCTION = "there is no function of this name"
    WRONG_ARGUMENTS = "the arguments must be exactly one action, which must be resize"
    WRONG_LEVEL_ARGUMENTS = "the arguments must be the action resize and, if wanted, a level"
    OTHER_ARGUMENTS = "the arguments are not those of the function"
    REPEATED = "only one tool call is allowed per step"
    NOT_A_BOX = "a box must be four finite numbers"
    EMPTY_BOX = "the box is empty or lies outside of the image"
    TOO_LONG = "the box is more than 200 times as long as it is wide"
    UNKNOWN_VIEW = "there is no such image"
    UNKNOWN_REGION = "there is no region of this name"
    UNKNOWN_EDIT = "there is no operation of this name"
    NOT_ON_OFFER = "this view is not on offer"


# ------------------------------------------------------------------------------------------------ who said what

FinishReason = Literal["stop", "length", "refused", "error"]


class Spread(NamedTuple):
    """The distribution that a token was drawn from, at temperature 1 and before any ban, in a few numbers."""

    entropy: float
    """Entropy in nats; a lower bound if only the likeliest tokens are known."""
    rival: float
    """Probability of the likeliest other token."""
    banned: float = 0.0
    """Probability of all tokens that may not be said."""


Decider = Literal["model", "forced", "gate"]
"""Who decided what to say: the model, or whoever took its decision from it."""
FailureKind = Literal[
    "unreachable",
    "timeout",
    "rate_limit",
    "refused",
    "bad_request",
    "no_access",
    "context",
    "out_of_memory",
    "server",
    "cancelled",
]
"""`no_access`: the endpoint takes no request of ours, since the key, the name of the model or the money is missing."""


@dataclass(frozen=True)
class Failure:
    """Why a policy gave no completion. The text is never shown to the model."""

    kind: FailureKind
    text: str
    after: float | None = None
    """Seconds until the endpoint wants to be asked again, where it says so."""


@dataclass(frozen=True)
class Completion:
    """What a policy said in one turn.

    `token_ids` are the sampled ids, end-of-turn token included; `prompt_ids` all ids before them. `logprobs` are natural
    logarithms under the sampling distribution at temperature 1, one per sampled id. Policies without tokens leave these empty.
    """

    text: str
    finish_reason: FinishReason = "stop"
    _: KW_ONLY
    token_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    token_texts: tuple[str, ...] = field(default=(), repr=False)
    """The text that each sampled token added, together the whole text; of a local policy where it was listened to, of an endpoint
    where it was asked for log-probabilities. There is one of `logprobs` for each."""
    spreads: tuple[Spread, ...] = field(default=(), repr=False)
    """One spread for each sampled token, where the policy was asked for them (`with_spreads`)."""
    seconds: float = 0.0
    """Wall time of the call; a batch's time is shared equally among its members."""
    first_token_seconds: float | None = None
    """Seconds until the first token, out of `seconds`; None where the policy does not say."""
    error: Failure | None = None
    """Why `finish_reason` is "error", or what the policy said when it refused."""
    note: str | None = None
    """What is uncertain about the completion, or was repaired."""
    by: Decider = "model"
    prompt_tokens: int | None = None
    """Tokens of the whole context, images included, for policies that have no ids; None where unknown."""
    output_tokens: int | None = None
    """Tokens of the reply, for policies that have no ids."""
    visual_tokens: int | None = None
    """Visual tokens of all images in the context, for policies that have no ids."""
    visual_by_layer: tuple[int, ...] | None = None
    """Visual tokens of the context that entered each layer of the decoder, where the policy removes some."""
    cached_tokens: int | None = None
    """How many of the `prompt_tokens` an endpoint had computed before; None where it does not say."""
    calls: tuple[Mapping[str, Any], ...] = ()
    """Calls of functions that are not the protocol's, in the form of OpenAI's `tool_calls`: whoever offered them is to answer."""
    selection_flops: int = 0
    """Floating-point operations spent on choosing which visual tokens stay."""

    @classmethod
    def failed(cls, kind: FailureKind, text: str, *, seconds: float = 0.0, after: float | None = None) -> Completion:
        """The completion of a call that failed."""
        return cls("", "error", error=Failure(kind, text, after), seconds=seconds)


@dataclass(frozen=True)
class Message:
    """One message of a conversation. An assistant message of this episode carries the completion it came from, so that its
    tokens are never tokenised again; one of an earlier conversation has none."""

    role: Role
    content: Content
    completion: Completion | None = field(default=None, compare=False, repr=False)
    _: KW_ONLY
    wire: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What else the message has in chat completions: `tool_calls`, `tool_call_id`, `name`. Only an endpoint can be sent it."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    """Functions of the protocol that can be called from here on, in OpenAI's form, where it is not the text that names them."""


History: TypeAlias = "list[Message]"


def turns_taken(history: History) -> int:
    """How many turns of the episode the model has taken."""
    return sum(message.completion is not None for message in history)


class StopReason(enum.StrEnum):
    """How an episode ended. Every ending has a name; none is a silent wrong answer."""

    ANSWERED = "answered"
    """A direct answer, no request was made."""
    ANSWERED_AFTER_REQUEST = "answered_after_request"
    """The model asked to see more, was shown it and answered."""
    ASKED_ON_LAST_LEVEL = "asked_on_last_level"
    """The model asked for what is not on offer: there is nothing more to be shown."""
    OVER_LIMIT = "over_limit"
    """The model asked to see more when a stated limit of turns, views or visual tokens was reached."""
    MALFORMED_CALL = "malformed_call"
    """The last turn was a call that cannot be followed, and no turn was left to repair it."""
    EMPTY = "empty"
    """The model ended its turn without saying anything. Behind an endpoint that is a policy error."""
    LENGTH = "length"
    """The model reached the token limit before it ended its turn."""
    REFUSED = "refused"
    """The policy declined to answer (content filter)."""
    POLICY_ERROR = "policy_error"
    """The model could not be called; the reason is in the last turn."""


ActionKind = Literal["answer", "request", "malformed", "none"]
