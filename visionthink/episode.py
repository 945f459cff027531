"""Whose turn it is. One state machine, two short drivers; no file, no model, no tokens, no await in the machine itself.

Everything that talks to a model in several turns (inference, training, evaluation, curation, the gateway) drives this
`Episode`. What is said is the `Protocol`'s business, what can be seen the `Menu`'s; who speaks is a `Policy`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol
from typing import TypeAlias

from visionthink.action_space import ActionSpace, Offer
from visionthink.certainty import scores_of
from visionthink.errors import DataError, VisionThinkError
from visionthink.menu import Menu
from visionthink.picture import Picture
from visionthink.protocol import IMAGE_MARK, Answer, Malformed, Protocol, Request, extract_answer
from visionthink.resolution import QWEN2_5_VL, SizeRule
from visionthink.transcript import Transcript, Turn, Usage
from visionthink.types import (
    ActionKind,
    CallError,
    Completion,
    Example,
    History,
    ImageView,
    Look,
    Message,
    Shown,
    StopReason,
)


class Policy(TypingProtocol):
    """Who speaks. Histories in, one completion each out, in order; a failed call is a completion, not an exception."""

    def complete(self, histories: Sequence[History]) -> list[Completion]: ...


class Speaker(TypingProtocol):
    """Who speaks to one listener: a policy whose replies are heard while they are said."""

    def speak(self, history: History, until: Callable[[str], bool] | None = None) -> AsyncGenerator[str | Completion]:
        """Pieces of text as they are said; then the completion, that of a failed call too. Closing the generator ends the reply
        within one token.

        Args:
            until: is given all that was said so far, after each piece; where it is true, the reply ends there.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a completion led to: the messages to send next, or the end."""

    action: ActionKind
    new_messages: tuple[Message, ...] = ()
    looks: tuple[Look, ...] = ()
    stop_reason: StopReason | None = None
    note: str | None = None
    canonical: str | None = None
    """The words that the next prompt holds in place of the completion, where it does not go on from that."""

    @property
    def done(self) -> bool:
        return self.stop_reason is not None


class Episode:
    """One live run over one example.

    The model first sees every image at the menu's lowest level; a request shows it what it asked for, as far as that is on offer;
    a call that cannot be followed is answered with an error message. Either uses up a turn. Where the protocol is `canonical`,
    the next prompt is the one before the request and the request in canonical words; the transcript keeps what was said.

    Args:
        pictures: the example's images, opened, in order; episodes of the same example share them.
        budget: of the model's image processor.
        fixed: for each image the level that it is shown at for good, or None; see `view_sizes.ViewSizes`.

    Raises:
        DataError: as many images or `<image>` marks as the example or its conversation has are wanted, or the dialect cannot ask
            for a part of one of several images.
    """

    def __init__(
        self,
        example: Example,
        pictures: Sequence[Picture],
        menu: Menu | None = None,
        protocol: Protocol | None = None,
        *,
        budget: SizeRule = QWEN2_5_VL,
        fixed: Sequence[float | None] = (),
    ):
        self.example, self.pictures, self.protocol = example, tuple(pictures), protocol or Protocol()
        if len(pictures) != len(example.images):
            raise DataError(f"example {example.id}: has {len(example.images)} image(s), but {len(pictures)} were opened")
        if not pictures:
            raise DataError(f"example {example.id}: has no image")
        self.space = ActionSpace(menu or Menu(), [picture.size for picture in pictures], budget, fixed)
        if len(pictures) > 1 and self.space.menu.beyond_levels and not self.protocol.asks_of_any_image:
            raise DataError(
                f"example {example.id}: the dialect {self.protocol.dialect} cannot say which of several images a part is of"
            )
        self._opening_offers = self.space.offers()
        self._turns: list[Turn] = []
        self._stop: StopReason | None = None
        self._pending_views = self.space.shown(self.space.opening)
        self._opening = tuple(self._opened())
        self._pending = self._opening
        self._restarted = False
        self._known = 0
        """Ids that the pending prompt shares with the context before it."""
        self.history: History = list(self._opening)

    def _opened(self) -> list[Message]:
        views = self.space.render(self.space.opening, self.pictures)
        levels = [offer.level for offer in self._opening_offers if offer.level is not None]
        example = self.example
        try:
            return self.protocol.opening(
                example.question, views, can_request=self.can_request, earlier=example.earlier, levels=levels
            )
        except DataError as error:
            raise DataError(f"example {example.id}: {error}") from None

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What can be asked for in the next turn."""
        return self.space.offers(self._shown, turns=len(self._turns))

    @property
    def can_request(self) -> bool:
        """Whether the tool is advertised: there is something to ask for, and the dialect has a way to ask."""
        return bool(self._opening_offers and self.space.menu.asks & self.protocol.asks)

    @property
    def done(self) -> bool:
        return self._stop is not None

    @property
    def _shown(self) -> tuple[Shown, ...]:
        """Every view that the model was shown, those of the turn that is pending included."""
        return (*(view for turn in self._turns for view in turn.views), *self._pending_views)

    def opening(self) -> list[Message]:
        """The messages of the first turn."""
        return list(self._opening)

    def step(self, completion: Completion | str) -> Step:
        """Take the model's turn and say what follows."""
        if self._stop is not None:
            raise VisionThinkError(f"example {self.example.id}: the episode has ended ({self._stop})")
        if isinstance(completion, str):
            completion = Completion(completion)
        step = self._decide(completion)
        self._record(completion, step)
        self._known = len(completion.prompt_ids) or self._known
        self._restarted = step.canonical is not None
        if step.canonical is None:
            self._known += len(completion.token_ids)
            self._pending = step.new_messages
            self.history.append(Message("assistant", (completion.text,), completion))
        else:
            said = Completion(step.canonical, prompt_ids=completion.prompt_ids)
            self._pending = (Message("assistant", (said.text,), said), *step.new_messages)
        self.history += self._pending
        self._pending_views, self._stop = self.space.shown(step.looks), step.stop_reason
        return step

    def _decide(self, completion: Completion) -> Step:
        ended = {"length": StopReason.LENGTH, "refused": StopReason.REFUSED, "error": StopReason.POLICY_ERROR}
        if completion.finish_reason in ended:
            why = completion.error.text if completion.error else None
            return Step(action="none", stop_reason=ended[completion.finish_reason], note=why)
        if not completion.text.strip() and not completion.calls:
            return Step(action="none", stop_reason=StopReason.EMPTY)
        # calls of functions that are not ours are for whoever offered these: the episode ends with them
        reply = (
            Answer(completion.text) if completion.calls else self.protocol.parse(completion.text, can_request=self.can_request)
        )
        if isinstance(reply, Answer):
            asked = any(turn.looks for turn in self._turns)
            return Step(action="answer", stop_reason=StopReason.ANSWERED_AFTER_REQUEST if asked else StopReason.ANSWERED)
        if isinstance(reply, Malformed):
            return self._refused(reply.reason)
        return self._asked(reply)

    def _asked(self, request: Request) -> Step:
        shown, turns = self._shown, len(self._turns)
        resolved = self.space.resolve(request.calls, shown, turns=turns)
        if resolved == CallError.NOT_ON_OFFER and not self.space.offers(shown, turns=turns):
            limited = self.space.is_limited(shown, turns=turns)
            return Step(action="request", stop_reason=StopReason.OVER_LIMIT if limited else StopReason.ASKED_ON_LAST_LEVEL)
        if isinstance(resolved, CallError):
            return self._refused(resolved)
        views = self.space.render(resolved.looks, self.pictures)
        # the first turn shows one view of each image
        message = self.protocol.observation(views, before=len(shown) - len(self.pictures))
        canonical = self.protocol.request(*request.calls) if self.protocol.canonical else None
        return Step(action="request", new_messages=(message,), looks=resolved.looks, note=resolved.note, canonical=canonical)

    def _refused(self, reason: CallError) -> Step:
        if self.space.turn_left(len(self._turns)):
            return Step(action="malformed", new_messages=(self.protocol.tool_error(reason),), note=reason.value)
        return Step(action="malformed", stop_reason=StopReason.MALFORMED_CALL, note=reason.value)

    def _record(self, completion: Completion, step: Step) -> None:
        views = self._pending_views
        before = sum(t.usage.visual_tokens for t in self._turns)
        shown = sum(v.visual_tokens for v in views)
        if views and completion.visual_tokens is not None:  # a server counts the whole context; where its counts fall, ours stand
            shown = completion.visual_tokens - before if completion.visual_tokens > before else shown
        context = len(completion.prompt_ids) if completion.prompt_tokens is None else completion.prompt_tokens
        usage = Usage(
            visual_tokens=shown,
            text_tokens=max(0, context - shown - before),
            output_tokens=len(completion.token_ids) if completion.output_tokens is None else completion.output_tokens,
            seconds=completion.seconds,
            first_token_seconds=completion.first_token_seconds,
            visual_by_layer=completion.visual_by_layer,
            selection_flops=completion.selection_flops,
        )
        turn = Turn(
            prompt="\n".join("".join(IMAGE_MARK if isinstance(p, ImageView) else p for p in m.content) for m in self._pending),
            text=completion.text,
            action=step.action,
            usage=usage,
            views=views,
            looks=step.looks,
            by=completion.by,
            token_ids=completion.token_ids,
            prompt_ids=completion.prompt_ids[self._known :],
            logprobs=completion.logprobs,
            scores=scores_of(completion),
            note=step.note or completion.note,
            failure=completion.error.kind if completion.error else None,
            restarted=self._restarted,
        )
        self._turns.append(turn)

    def transcript(self) -> Transcript:
        """The record so far; meant to be read once the episode is done.

        Raises:
            VisionThinkError: the episode is still running.
        """
        if self._stop is None:
            raise VisionThinkError(f"example {self.example.id}: the episode has not ended")
        answered = self._stop in (StopReason.ANSWERED, StopReason.ANSWERED_AFTER_REQUEST)
        example = self.example
        return Transcript(
            example_id=example.id,
            question=example.question,
            sizes=self.space.sizes,
            offers=tuple((offer.name, offer.visual_tokens) for offer in self._opening_offers),
            visual_tokens_full=self.space.full_tokens,
            turns=tuple(self._turns),
            stop_reason=self._stop,
            answer=extract_answer(self._turns[-1].text) if answered else None,
            reference=example.answer,
            aliases=example.aliases,
            need=example.need,
            family=example.family,
            evidence=example.evidence,
            notes=(*(note for picture in self.pictures for note in picture.notes), *self.space.notes),
            metadata=example.metadata,
        )


OnEnd: TypeAlias = Callable[[list[Transcript]], None]
"""Is given the transcripts of the episodes that a turn has ended."""


def run_batch(episodes: Sequence[Episode], policy: Policy, on_end: OnEnd | None = None) -> list[Transcript]:
    """All live episodes take their next turn together, until every one has ended; `on_end` sees those that a turn has ended."""
    while live := [episode for episode in episodes if not episode.done]:
        completions = policy.complete([episode.history for episode in live])
        for episode, completion in zip(live, completions, strict=True):
            episode.step(completion)
        if on_end is not None:
            on_end([episode.transcript() for episode in live if episode.done])
    return [episode.transcript() for episode in episodes]


class RunBatch(TypingProtocol):
    """`run_batch`, or what takes its place."""

    def __call__(self, episodes: Sequence[Episode], policy: Policy, on_end: OnEnd | None = None) -> list[Transcript]: ...


async def run_async(episode: Episode, speaker: Speaker, on_text: Callable[[str], None] | None = None) -> Transcript:
    """One episode in an event loop; `on_text` sees every piece of text as it is said."""
    while not episode.done:
        async with contextlib.aclosing(speaker.speak(episode.history)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    episode.step(piece)
                elif on_text is not None:
                    on_text(piece)
    return episode.transcript()
