"""Whose turn it is. One state machine, two short drivers; no model, no tokens, no await in the machine itself.

The constructor opens the example's image; after that the machine does no I/O: messages in, messages out.

Everything that talks to a model in several turns (inference, training, evaluation, curation, the gateway) drives this
`Episode`. What is said is the `Protocol`'s business; who says it is a `Policy`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol

from visionthink.errors import ImageError, VisionThinkError
from visionthink.images import MAX_IMAGE_PIXELS, open_image
from visionthink.protocol import IMAGE_MARK, Answer, Malformed, Protocol, RequestResolution, extract_answer
from visionthink.resolution import QWEN2_5_VL, PixelBudget, ResolutionLadder
from visionthink.types import ActionKind, Completion, Example, History, ImageView, Message, StopReason, Transcript, Turn, Usage


class Policy(TypingProtocol):
    """Who speaks. Histories in, one completion each out, in order; a failed call is a completion, not an exception."""

    def complete(self, histories: Sequence[History]) -> list[Completion]: ...


@dataclass(frozen=True)
class Step:
    """What a completion led to: the messages to send next, or the end."""

    new_messages: tuple[Message, ...] = ()
    done: bool = False
    stop_reason: StopReason | None = None
    action: ActionKind = "answer"


class Episode:
    """One live run over one example.

    The model starts on the lowest level of the ladder; a request takes it one level up; a call that cannot be read is
    answered with an error message. Either uses up a turn, and there are as many turns as levels (`max_turns` may allow
    more).

    Raises:
        ImageError: the example's image cannot be used.
    """

    def __init__(
        self,
        example: Example,
        ladder: ResolutionLadder | None = None,
        protocol: Protocol | None = None,
        *,
        budget: PixelBudget = QWEN2_5_VL,
        max_turns: int | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        ladder = ladder or ResolutionLadder()
        self.example = example
        self.protocol = protocol or Protocol()
        name = os.fspath(example.image) if isinstance(example.image, (str, os.PathLike)) else f"example {example.id}"
        loaded = open_image(example.image, name=name, max_pixels=max_image_pixels)
        notes = list(loaded.notes)
        try:
            sizes = ladder.sizes(loaded.image.width, loaded.image.height, budget)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from None
        if len(sizes) < len(ladder.levels):
            notes.append(f"ladder collapsed to {','.join(f'{s[0]:g}' for s in sizes)}: a lower level would save no tokens")
        self._image, self._ladder, self._budget, self._notes = loaded.image, ladder, budget, notes
        self._levels = tuple(level for level, _, _ in sizes)
        self._full_tokens = self.view(1.0).visual_tokens
        self._max_turns = len(self._levels) if max_turns is None else max_turns
        self._level = 0
        self._turns: list[Turn] = []
        self._stop: StopReason | None = None
        self._opening = tuple(
            self.protocol.opening(example.question, self.view(self._levels[self._level]), can_request=self.can_request)
        )
        self._pending = self._opening
        self.history: History = list(self._opening)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels on offer, after collapsing."""
        return self._levels

    @property
    def can_request(self) -> bool:
        """Whether the tool is advertised: there is a higher level and the dialect has a way to ask for it."""
        return len(self._levels) > 1 and self.protocol.can_ask

    @property
    def visual_tokens_full(self) -> int:
        """What the full view alone costs."""
        return self._full_tokens

    @property
    def done(self) -> bool:
        return self._stop is not None

    def view(self, level: float) -> ImageView:
        """The example's image at a level, whether the model was shown it or not."""
        return self._ladder.view(self._image, level, self._budget)

    def opening(self) -> list[Message]:
        """The messages of the first turn."""
        return list(self._opening)

    def step(self, completion: Completion | str) -> Step:
        """Take the model's turn and say what follows."""
        if self._stop is not None:
            raise VisionThinkError(f"example {self.example.id}: the episode has ended ({self._stop})")
        if isinstance(completion, str):
            completion = Completion(completion)
        step, note = self._decide(completion)
        self._record(completion, step, note)
        self.history.append(Message("assistant", (completion.text,), completion))
        self.history += step.new_messages
        self._pending, self._stop = step.new_messages, step.stop_reason
        return step

    def _decide(self, completion: Completion) -> tuple[Step, str | None]:
        ended = {"length": StopReason.LENGTH, "refused": StopReason.REFUSED, "error": StopReason.POLICY_ERROR}
        if completion.finish_reason in ended:
            return Step(done=True, stop_reason=ended[completion.finish_reason], action="none"), completion.error
        if not completion.text.strip():
            return Step(done=True, stop_reason=StopReason.EMPTY, action="none"), None
        reply = self.protocol.parse(completion.text, can_request=self.can_request)
        last_turn = len(self._turns) + 1 >= self._max_turns
        if isinstance(reply, Answer):
            reason = StopReason.ANSWERED_AFTER_REQUEST if self._level else StopReason.ANSWERED
            return Step(done=True, stop_reason=reason), None
        if isinstance(reply, RequestResolution):
            if last_turn or self._level + 1 == len(self._levels):
                return Step(done=True, stop_reason=StopReason.ASKED_ON_LAST_LEVEL, action="request"), None
            self._level += 1
            return Step((self.protocol.tool_result(self.view(self._levels[self._level])),), action="request"), None
        assert isinstance(reply, Malformed)
        if last_turn:
            return Step(done=True, stop_reason=StopReason.MALFORMED_CALL, action="malformed"), reply.reason.value
        return Step((self.protocol.tool_error(reply.reason),), action="malformed"), reply.reason.value

    def _record(self, completion: Completion, step: Step, note: str | None) -> None:
        views = [part for message in self._pending for part in message.content if isinstance(part, ImageView)]
        known = sum(len(t.prompt_ids) + len(t.token_ids) for t in self._turns)
        level = views[-1].level if views else self._turns[-1].level
        before = sum(t.usage.visual_tokens for t in self._turns)
        shown = sum(v.visual_tokens for v in views) if completion.visual_tokens is None else completion.visual_tokens - before
        context = len(completion.prompt_ids) if completion.prompt_tokens is None else completion.prompt_tokens
        output = len(completion.token_ids) if completion.output_tokens is None else completion.output_tokens
        text_tokens = max(0, context - shown - before)
        usage = Usage(
            shown,
            text_tokens,
            output,
            completion.seconds,
            completion.first_token_seconds,
            completion.visual_by_layer,
            completion.selection_flops,
        )
        prompt = "\n".join("".join(IMAGE_MARK if isinstance(p, ImageView) else p for p in m.content) for m in self._pending)
        added = completion.prompt_ids[known:]
        self._turns.append(
            Turn(
                level,
                prompt,
                completion.text,
                step.action,
                usage,
                completion.token_ids,
                added,
                completion.logprobs,
                note,
                (views[-1].width, views[-1].height) if views else None,
            )
        )

    def transcript(self) -> Transcript:
        """The record so far; meant to be read once the episode is done.

        Raises:
            VisionThinkError: the episode is still running.
        """
        if self._stop is None:
            raise VisionThinkError(f"example {self.example.id}: the episode has not ended")
        answered = self._stop in (StopReason.ANSWERED, StopReason.ANSWERED_AFTER_REQUEST)
        return Transcript(
            example_id=self.example.id,
            question=self.example.question,
            levels=self._levels,
            visual_tokens_full=self._full_tokens,
            turns=tuple(self._turns),
            stop_reason=self._stop,
            answer=extract_answer(self._turns[-1].text) if answered else None,
            reference=self.example.answer,
            aliases=self.example.aliases,
            need=self.example.need,
            family=self.example.family,
            notes=tuple(self._notes),
            metadata=self.example.metadata,
        )


def run_batch(episodes: Sequence[Episode], policy: Policy) -> list[Transcript]:
    """All live episodes take their next turn together, until every one has ended."""
    while live := [episode for episode in episodes if not episode.done]:
        completions = policy.complete([episode.history for episode in live])
        for episode, completion in zip(live, completions, strict=True):
            episode.step(completion)
    return [episode.transcript() for episode in episodes]


async def run_async(episode: Episode, policy: Policy, on_text: Callable[[str], None] | None = None) -> Transcript:
    """One episode in an event loop: the policy runs in a worker thread, `on_text` sees every turn's text as it ends."""
    while not episode.done:
        [completion] = await asyncio.to_thread(policy.complete, [list(episode.history)])
        if on_text is not None:
            on_text(completion.text)
        episode.step(completion)
    return episode.transcript()
