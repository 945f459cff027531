"""The record of one episode: the only thing scoring, training and reports look at.

Plain records; what can be derived is a property and is not stored. Transcripts of earlier versions, which knew one image and
one view a turn, are read as well.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from visionthink import records
from visionthink.types import ActionKind, Box, Decider, Evidence, FailureKind, Look, Need, Shown, StopReason, whole

COVERED = 0.95
"""A box counts as seen when this share of its area was shown."""
FULL_DENSITY = 0.99
"""Views of at least this level count as seen at full density."""
_MOST, _MOST_PX = 10**15, 10**6
"""Above any count or time of an episode, and above any side of an image."""


def seen(views: Iterable[Shown], level: float, image: int = 0) -> tuple[Box, ...]:
    """Boxes of an image that were shown at a density of at least `level`."""
    return tuple(view.box for view in views if view.image == image and view.level >= level)


def covers(views: Sequence[Shown], evidence: Evidence, image: int = 0) -> bool:
    """Whether at least 95 % of each box is shown at its level, by all views together."""
    return all(box.covered_by(seen(views, min(level, FULL_DENSITY), image)) >= COVERED for box, level in evidence)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The bill of one turn, written where it happened."""

    visual_tokens: int
    """Visual tokens of the views first shown in this turn (0 when no new view was shown)."""
    text_tokens: int
    """Prompt tokens of this turn's context that are not visual."""
    output_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    visual_by_layer: tuple[int, ...] | None = None
    """Visual tokens of the whole context that entered each layer of the decoder, where the policy removes some."""
    selection_flops: int = 0
    """Floating-point operations of choosing which ones."""

    @property
    def retained_tokens(self) -> float | None:
        """`visual_by_layer`, averaged over the layers."""
        return None if self.visual_by_layer is None else sum(self.visual_by_layer) / len(self.visual_by_layer)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One prompt-completion exchange. `prompt_ids` are the ids added since the previous turn: opening or bridge. Where a turn has
    `restarted`, they and `prompt` are what was added to the prompt of the previous turn: the request in canonical words, and the
    bridge."""

    prompt: str = field(repr=False)
    """The text added since the previous turn, views written as `<image>`."""
    text: str
    action: ActionKind
    usage: Usage
    views: tuple[Shown, ...] = ()
    """Views first shown in this turn, in the order of the prompt."""
    looks: tuple[Look, ...] = ()
    """What the turn's request was resolved to, in the order of asking; the next turn shows it."""
    by: Decider = "model"
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    scores: Mapping[str, float] = field(default_factory=dict, repr=False)
    """How unsure the model was of what it said, by the names of `certainty.SCORES`; empty where that was not measured."""
    note: str | None = None
    """Why a call cannot be followed, what was made of it, why the policy failed, or what is uncertain about its reply."""
    failure: FailureKind | None = None
    """What kind of failure, where the policy failed."""
    restarted: bool = False
    """Whether the prompt goes on from the one of the previous turn, and not from what was said then (`Protocol.canonical`)."""
    anew: bool = False
    """Whether the conversation was begun again, so that the context holds nothing of the turns before."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The record of one episode.

    Token ids of prompts stay in memory and are left out of JSON: they are long and can be rendered again.
    """

    example_id: str
    question: str
    sizes: tuple[tuple[int, int], ...]
    """(width, height) in px of each image, upright."""
    offers: tuple[tuple[str, int], ...] = ()
    """What could be asked for at the opening: names, and visual tokens of each."""
    visual_tokens_full: int
    """What the full views of all images cost."""
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None
    """The extracted answer; None when the episode ended without one."""
    reference: str | None = None
    aliases: tuple[str, ...] = ()
    need: Need | None = None
    family: str | None = None
    evidence: Evidence = ()
    """What the answer depends on, in the first image; empty where it is not known."""
    notes: tuple[str, ...] = ()
    """What was done to an image or the menu: orientation applied, first frame taken, ladder collapsed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The example's."""

    @property
    def views(self) -> tuple[Shown, ...]:
        """Every view that was fed, in order."""
        return tuple(view for turn in self.turns for view in turn.views)

    @property
    def looks(self) -> int:
        """How many views were shown after the first turn."""
        return sum(len(turn.views) for turn in self.turns[1:])

    @property
    def requested(self) -> bool:
        """Whether the episode was shown more than its opening (the action of Eq. 5, arXiv 2507.13348)."""
        return self.looks > 0

    @property
    def levels_seen(self) -> tuple[float, ...]:
        """The level of every view, in order."""
        return tuple(view.level for view in self.views)

    @property
    def answered(self) -> bool:
        return self.stop_reason in (StopReason.ANSWERED, StopReason.ANSWERED_AFTER_REQUEST)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of every view that was fed."""
        return sum(t.usage.visual_tokens for t in self.turns)

    @property
    def visual_tokens_final(self) -> int:
        """Visual tokens of the last turn that showed a view."""
        return next((t.usage.visual_tokens for t in reversed(self.turns) if t.views), 0)

    @property
    def retain_cumulative(self) -> float:
        """Every view fed, relative to the full views alone; above 1 when VisionThink's request was made."""
        return self.visual_tokens / self.visual_tokens_full

    @property
    def retain_final(self) -> float:
        """The last turn's views relative to the full views (the paper's likely reading of its 51.3 %)."""
        return self.visual_tokens_final / self.visual_tokens_full

    @property
    def retain_layers(self) -> float:
        """Visual tokens of every view, averaged over the decoder's layers, relative to the full views alone;
        `retain_cumulative` where nothing was removed. The last context holds every view."""
        left = self.turns[-1].usage.retained_tokens if self.turns else None
        return self.retain_cumulative if left is None else left / self.visual_tokens_full

    @property
    def density_area(self) -> float:
        """Share of all images' area that was shown at full density."""
        boxes = [whole(*size) for size in self.sizes]
        shown = sum(box.area * box.covered_by(seen(self.views, FULL_DENSITY, i)) for i, box in enumerate(boxes))
        return shown / sum(box.area for box in boxes) if boxes else 0.0

    def is_whole(self, view: Shown) -> bool:
        """Whether a view shows all of its image."""
        return view.box == whole(*self.sizes[view.image])

    def covers(self, evidence: Evidence, image: int = 0) -> bool:
        """Whether the views together show what an answer depends on, see `covers`."""
        return covers(self.views, evidence, image)

    @property
    def text_tokens(self) -> int:
        """Text tokens of the last context. It holds every turn before it, or a request in canonical words in place of one."""
        return self.turns[-1].usage.text_tokens if self.turns else 0

    @property
    def output_tokens(self) -> int:
        return sum(t.usage.output_tokens for t in self.turns)

    @property
    def seconds(self) -> float:
        return sum(t.usage.seconds for t in self.turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of all turns in order: opening P1, completion C1, bridge E1, completion C2. That is the sequence that was read,
        unless a turn has `restarted`: these are then what a trainer takes, and `train.sequences` says what was read.

        Raises:
            ValueError: the transcript was read from JSON, which does not keep prompt ids.
        """
        self._need_prompt_ids()
        return tuple(itertools.chain.from_iterable(ids for t in self.turns for ids in (t.prompt_ids, t.token_ids)))

    @property
    def loss_mask(self) -> tuple[int, ...]:
        """1 for ids the model sampled, 0 for all others (the indicator I of Eq. 3); P1 C1 E1 C2 gives 0 1 0 1."""
        self._need_prompt_ids()
        spans = ((sampled, len(ids)) for t in self.turns for sampled, ids in enumerate((t.prompt_ids, t.token_ids)))
        return tuple(itertools.chain.from_iterable((sampled,) * length for sampled, length in spans))

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
        """Inverse of `to_dict`; reads what earlier versions wrote, too.

        Raises:
            ValueError: a field is missing, is of another type, or cannot be; the message names it.
        """
        try:
            fields = _of_one_view_a_turn(dict(record)) if "levels" in record else dict(record)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError):
            raise ValueError("not a transcript of an earlier version") from None
        transcript: Transcript = records.read(cls, fields)
        _check(transcript)
        return transcript


def _check(t: Transcript) -> None:
    """What types alone do not say, where a sum or a ratio would come out as if nothing were wrong."""
    numbers = [("sizes", side, 1, _MOST_PX) for size in t.sizes for side in size]
    numbers += [("evidence", side, 0, _MOST_PX) for box, _ in t.evidence for side in box]
    numbers += [("visual_tokens_full", t.visual_tokens_full, 1, _MOST), *(("offers", n, 0, _MOST) for _, n in t.offers)]
    for i, turn in enumerate(t.turns):
        where, usage = f"turns[{i}].usage", dataclasses.asdict(turn.usage)
        layers = usage.pop("visual_by_layer")
        if layers == ():
            raise ValueError(f"{where}.visual_by_layer: is empty")
        numbers += [(f"{where}.{name}", value, 0, _MOST) for name, value in usage.items() if value is not None]
        numbers += [(f"{where}.visual_by_layer", value, 0, _MOST) for value in layers or ()]
        for j, view in enumerate(turn.views):
            where = f"turns[{i}].views[{j}]"
            numbers += [(f"{where}.{name}", getattr(view, name), 0, _MOST_PX) for name in ("level", "width", "height")]
            numbers += [(f"{where}.box", side, 0, _MOST_PX) for side in view.box]
            numbers += [(f"{where}.visual_tokens", view.visual_tokens, 0, _MOST), (f"{where}.image", view.image, 0, len(t.sizes))]
    if t.answered and t.answer is None:
        raise ValueError(f"ended as {t.stop_reason}, without an answer")
    for where, number, least, most in numbers:
        if not least <= number < most:
            raise ValueError(f"{where}: {number}: must be at least {least} and below {most}")


def _of_one_view_a_turn(record: dict[str, Any]) -> dict[str, Any]:
    """A transcript of an earlier version in today's fields. It knew levels, and at most the size of the view that a turn showed
    (0 where it did not); the size of the image is that of its largest view, brought to level 1."""
    levels, turns = record.pop("levels"), [dict(turn) for turn in record["turns"]]
    shown = [(turn["level"], turn["view_size"]) for turn in turns if turn.get("view_size")]
    level, size = max(shown, default=(1.0, (1, 1)))
    width, height = (max(1, round(side / math.sqrt(level))) for side in size)
    seen = None
    for turn in turns:
        level, size, tokens = turn.pop("level"), turn.pop("view_size", None), turn["usage"]["visual_tokens"]
        new = size is not None or level != seen
        w, h = size or (0, 0)
        view = {"box": whole(width, height), "level": level, "width": w, "height": h, "visual_tokens": tokens}
        turn |= {"views": [view] if new else [], "looks": []}
        seen = level
    offers = [(f"{level:g}", 0) for level in levels[1:]]
    return record | {"turns": turns, "sizes": [(width, height)], "offers": offers}


RolloutGroup: TypeAlias = "list[Transcript]"
"""Transcripts of the same example, sampled under the same weights."""
