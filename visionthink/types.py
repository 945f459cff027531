"""The nouns everything shares: example, view, message, completion, turn, transcript, group.

Plain records. Nothing here reads a file, runs a model or knows the protocol; what can be derived is a property and is
not stored.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from PIL import Image

ImageSource: TypeAlias = "Image.Image | bytes | str | os.PathLike[str]"
"""An opened image, the bytes of a file, or a path."""

Need = Literal["easy", "hard"]
"""`easy`: a quarter of the pixels suffices. `hard`: it does not. Known for generated and curated data only."""


@dataclass(frozen=True)
class Example:
    """One question about one image.

    A literal `<image>` in the question says where the image stands; without it the image comes first.
    """

    id: str
    question: str
    image: ImageSource = field(repr=False)
    answer: str | None = None
    """The reference answer; None when unknown (the example cannot be scored)."""
    aliases: tuple[str, ...] = ()
    """Other accepted spellings of the reference answer."""
    need: Need | None = None
    family: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


Examples: TypeAlias = Sequence[Example] | Mapping[str, Example]
"""Examples in memory, or by id where a table reads them when they are asked for."""


@dataclass(frozen=True)
class ImageView:
    """An image at one level of the ladder, as the model is shown it."""

    image: Image.Image = field(repr=False, compare=False)
    level: float
    """Share of the full view's pixels, in (0, 1]."""
    width: int
    height: int
    visual_tokens: int


Role = Literal["system", "user", "assistant"]
Content: TypeAlias = "tuple[str | ImageView, ...]"
FinishReason = Literal["stop", "length", "refused", "error"]


@dataclass(frozen=True)
class Completion:
    """What a policy said in one turn.

    `token_ids` are the sampled ids, end-of-turn token included; `prompt_ids` all ids before them. `logprobs` are natural
    logarithms under the sampling distribution at temperature 1, one per sampled id. Policies without tokens leave these empty.
    """

    text: str
    finish_reason: FinishReason = "stop"
    token_ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    seconds: float = 0.0
    """Wall time of the call; a batch's time is shared equally among its members."""
    first_token_seconds: float | None = None
    """Of these, until the first token was there; None where the policy does not say."""
    error: str | None = None
    """Why `finish_reason` is "error"; never shown to the model."""
    prompt_tokens: int | None = None
    """Of the whole context with its images, where the policy has no ids; None where it does not say."""
    output_tokens: int | None = None
    """Likewise, of what was said."""
    visual_tokens: int | None = None
    """Likewise, of all images in the context."""
    visual_by_layer: tuple[int, ...] | None = None
    """Visual tokens of the context that entered each layer of the decoder, where the policy takes some out."""
    selection_flops: int = 0
    """Operations of finding out which ones."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation. An assistant message carries the completion it came from, so that its tokens are
    never tokenised again."""

    role: Role
    content: Content
    completion: Completion | None = field(default=None, compare=False, repr=False)


History: TypeAlias = "list[Message]"


class StopReason(enum.StrEnum):
    """How an episode ended. Every ending has a name; none is a silent wrong answer."""

    ANSWERED = "answered"
    """A direct answer, no request was made."""
    ANSWERED_AFTER_REQUEST = "answered_after_request"
    """The model asked for more resolution, got it and answered."""
    ASKED_ON_LAST_LEVEL = "asked_on_last_level"
    """A request when no higher level (or no further turn) was left."""
    MALFORMED_CALL = "malformed_call"
    """The last turn was a call that cannot be read, and no turn was left to repair it."""
    EMPTY = "empty"
    """The model ended its turn without saying anything."""
    LENGTH = "length"
    """The model reached the token limit before it ended its turn."""
    REFUSED = "refused"
    """The policy declined to answer (content filter)."""
    POLICY_ERROR = "policy_error"
    """The model could not be called; the reason is in the last turn."""


ActionKind = Literal["answer", "request", "malformed", "none"]


@dataclass(frozen=True)
class Usage:
    """The bill of one turn, written where it happened."""

    visual_tokens: int
    """Visual tokens of the view first shown in this turn (0 when no new view was shown)."""
    text_tokens: int
    """Prompt tokens of this turn's context that are not visual."""
    output_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    visual_by_layer: tuple[int, ...] | None = None
    """Visual tokens of the whole context that entered each layer of the decoder, where the policy takes some out."""
    selection_flops: int = 0
    """Floating-point operations that finding out which ones took."""

    @property
    def retained_tokens(self) -> float | None:
        """`visual_by_layer`, averaged over the layers."""
        return None if self.visual_by_layer is None else sum(self.visual_by_layer) / len(self.visual_by_layer)


@dataclass(frozen=True)
class Turn:
    """One prompt-completion exchange. `prompt_ids` are the ids added since the previous turn: opening or bridge."""

    level: float
    prompt: str = field(repr=False)
    """The text added since the previous turn, views written as `<image>`."""
    text: str
    action: ActionKind
    usage: Usage
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    note: str | None = None
    """Why a call is malformed, or why the policy failed."""
    view_size: tuple[int, int] | None = None
    """Width and height, in px, of the view first shown in this turn."""


@dataclass(frozen=True)
class Transcript:
    """The record of one episode; the only thing scoring, training and reports look at.

    Token ids of prompts stay in memory and are left out of JSON: they are long and can be rendered again.
    """

    example_id: str
    question: str
    levels: tuple[float, ...]
    """Levels of the ladder that was offered, after collapsing."""
    visual_tokens_full: int
    """What the full view alone costs."""
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None
    """The extracted answer; None when the episode ended without one."""
    reference: str | None = None
    aliases: tuple[str, ...] = ()
    need: Need | None = None
    family: str | None = None
    notes: tuple[str, ...] = ()
    """What was done to the image or the ladder: orientation applied, first frame taken, ladder collapsed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The example's."""

    @property
    def requested(self) -> bool:
        """Whether the episode was shown a higher level (the action of Eq. 5, arXiv 2507.13348)."""
        return len(self.levels_seen) > 1

    @property
    def levels_seen(self) -> tuple[float, ...]:
        return tuple(t.level for i, t in enumerate(self.turns) if i == 0 or t.level != self.turns[i - 1].level)

    @property
    def answered(self) -> bool:
        return self.stop_reason in (StopReason.ANSWERED, StopReason.ANSWERED_AFTER_REQUEST)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of every view that was fed."""
        return sum(t.usage.visual_tokens for t in self.turns)

    @property
    def visual_tokens_final(self) -> int:
        """Visual tokens of the last view only."""
        return next((t.usage.visual_tokens for t in reversed(self.turns) if t.usage.visual_tokens), 0)

    @property
    def retain_cumulative(self) -> float:
        """Every view fed, relative to the full view alone; above 1 when a request was made."""
        return self.visual_tokens / self.visual_tokens_full

    @property
    def retain_final(self) -> float:
        """The last view relative to the full view (the paper's likely reading of its 51.3 %)."""
        return self.visual_tokens_final / self.visual_tokens_full

    @property
    def retain_layers(self) -> float:
        """Visual tokens of every view, averaged over the decoder's layers, relative to the full view alone; `retain_cumulative`
        where nothing was taken out. The last context holds every view."""
        left = self.turns[-1].usage.retained_tokens if self.turns else None
        return self.retain_cumulative if left is None else left / self.visual_tokens_full

    @property
    def text_tokens(self) -> int:
        """Text tokens of the last context, which holds every turn before it."""
        return self.turns[-1].usage.text_tokens if self.turns else 0

    @property
    def output_tokens(self) -> int:
        return sum(t.usage.output_tokens for t in self.turns)

    @property
    def seconds(self) -> float:
        return sum(t.usage.seconds for t in self.turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The whole sequence: opening P1, completion C1, bridge E1, completion C2.

        Raises:
            ValueError: the transcript was read from JSON, which does not keep prompt ids.
        """
        self._need_prompt_ids()
        return tuple(i for t in self.turns for i in (*t.prompt_ids, *t.token_ids))

    @property
    def loss_mask(self) -> tuple[int, ...]:
        """1 for ids the model sampled, 0 for all others (the indicator I of Eq. 3); P1 C1 E1 C2 gives 0 1 0 1."""
        self._need_prompt_ids()
        return tuple(m for t in self.turns for m in (*[0] * len(t.prompt_ids), *[1] * len(t.token_ids)))

    def _need_prompt_ids(self) -> None:
        if any(t.token_ids and not t.prompt_ids for t in self.turns):
            raise ValueError(f"transcript {self.example_id}: its prompt ids were not kept")

    def usage(self) -> dict[str, float]:
        """The bill of the whole episode, as the command line prints it."""
        return {
            "visual_tokens": self.visual_tokens,
            "visual_tokens_full": self.visual_tokens_full,
            "retain_final": round(self.retain_final, 4),
            "retain_cumulative": round(self.retain_cumulative, 4),
            "text_tokens": self.text_tokens,
            "output_tokens": self.output_tokens,
            "seconds": round(self.seconds, 4),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; prompt ids are left out."""
        record = dataclasses.asdict(self)
        for turn in record["turns"]:
            del turn["prompt_ids"]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Transcript:
        """Inverse of `to_dict`."""
        fields = dict(record)
        fields["turns"] = tuple(_turn(t) for t in fields["turns"])
        fields["stop_reason"] = StopReason(fields["stop_reason"])
        for name in ("levels", "aliases", "notes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def _turn(record: Mapping[str, Any]) -> Turn:
    fields = dict(record)
    usage = dict(fields["usage"])
    if usage.get("visual_by_layer") is not None:
        usage["visual_by_layer"] = tuple(usage["visual_by_layer"])
    fields["usage"] = Usage(**usage)
    fields["token_ids"] = tuple(fields["token_ids"])
    fields["view_size"] = tuple(fields["view_size"]) if fields.get("view_size") else None
    fields["logprobs"] = None if fields["logprobs"] is None else tuple(fields["logprobs"])
    return Turn(**fields)


RolloutGroup: TypeAlias = "list[Transcript]"
"""Transcripts of the same example, sampled under the same weights."""
