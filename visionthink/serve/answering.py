"""From a conversation to the events of its answer: the only place where the gateway drives a model.

Images are shown as their details say. Whether those that may be looked at again are is decided by the model, which asks, or by a
gate on the confidence of an answer from the low views.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal, TypeVar

from visionthink.certainty import NEED_SPREADS
from visionthink.episode import Episode, Speaker
from visionthink.picture import Picture
from visionthink.policies.gate import BY_CONFIDENCE, Gate
from visionthink.serve.bill import Bill
from visionthink.serve.conversation import Conversation, Detail, ImageInput, Rule
from visionthink.serve.events import CalledTools, Decided, Ended, Event, Failed, Looked
from visionthink.serve.questions import example_of, texts_of
from visionthink.serve.reply_stream import ReplyStream
from visionthink.serve.savings import SavingsEstimate
from visionthink.serve.sources import Images
from visionthink.serve.stages import stage
from visionthink.serve.upstreams import Upstream
from visionthink.transcript import Transcript
from visionthink.types import Completion, FinishReason, Message, StopReason

T = TypeVar("T")

Levels = Sequence[float | None]
"""For each image the level that it is shown at for good; None where that is decided on the way."""
_REASONS: dict[FinishReason, Literal["stop", "length", "content_filter"]] = {
    "stop": "stop",
    "length": "length",
    "refused": "content_filter",
}
_UNANSWERED = (StopReason.ASKED_ON_LAST_LEVEL, StopReason.OVER_LIMIT, StopReason.MALFORMED_CALL)


class Answering:
    """Answers conversations.

    Args:
        images: opens the images of requests.
        rule: who decides, where a request does not say.
        gate: the gate, where a request does not say; see `Override.threshold`.
        audit: share of the gate's answers, from 0 to 1, that are compared with one from the full views, which the client waits
            for. Whether they agree is written to the log.
        detail: of images whose detail a request does not say.
    """

    def __init__(
        self,
        upstream: Upstream,
        images: Images,
        *,
        rule: Rule = "model",
        gate: Gate = BY_CONFIDENCE,
        audit: float = 0.0,
        detail: Detail = "auto",
    ):
        self.upstream, self.images, self.rule, self.gate, self.audit, self.detail = upstream, images, rule, gate, audit, detail
        self.savings: dict[Rule, SavingsEstimate] = {"model": SavingsEstimate(), "gate": SavingsEstimate()}

    async def answer(self, conversation: Conversation, *, key: str = "") -> AsyncGenerator[Event]:
        """What happens while a conversation is answered; the last event is `Ended` or `Failed`.

        Args:
            key: name of the client's key.

        Raises:
            InputError: the conversation does not fit the model.
            ApiError: an image cannot be used, or it wants what the upstream does not have.
        """
        started = time.perf_counter()
        inputs = [part for message in conversation.messages for part in message.content if isinstance(part, ImageInput)]
        rule = conversation.override.rule or self.rule
        own = conversation.override.threshold
        gate = self.gate if own is None else Gate.of_confidence(own)
        speaker = self.upstream.speaker(conversation, key=key, score=gate.score if rule == "gate" and inputs else "")
        async with self.images.opened(inputs) as pictures:
            answer = _Answer(self, conversation, pictures, speaker, gate, started)
            details = [conversation.override.mode or image.detail or self.detail for image in inputs]
            for picture, detail in zip(pictures, details, strict=True):
                picture.detail = self.upstream.details.get(detail, "")
            events = answer.events(details, rule) if inputs else answer.without_images()
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event


class _Answer:
    """One conversation, answered by one episode or two."""

    def __init__(
        self,
        answering: Answering,
        conversation: Conversation,
        pictures: Sequence[Picture],
        speaker: Speaker,
        gate: Gate,
        started: float,
    ):
        self._answering, self._conversation, self._speaker, self._gate = answering, conversation, speaker, gate
        self._model, self._pictures, self._started = answering.upstream.model, pictures, started
        self._replies = ReplyStream(streamed=conversation.stream)
        self._transcripts: list[Transcript] = []
        self._completions: list[Completion] = []

    # ------------------------------------------------------------------------------------------------ what is decided

    async def events(self, details: Sequence[Detail], rule: Rule) -> AsyncGenerator[Event]:
        """The answer, with images of these details."""
        low = self._model.menu.ladder.levels[0]
        levels: Levels = [{"auto": None, "low": low, "high": 1.0, "original": 1.0}[detail] for detail in details]
        reason = await self._reason_to_skip(levels, rule) if None in levels else ""
        if None not in levels:
            yield Decided("fixed", f"The request says how much is shown: {', '.join(dict.fromkeys(details))}.")
            events = self._episode(levels, "fixed")
        elif reason:
            yield Decided("skipped", reason)
            events = self._episode(_filled(levels, 1.0), "skipped")
        elif rule == "gate":
            events = self._gated(levels, low)
        else:
            events = self._asking(levels)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def _episode(self, levels: Levels, rule: str) -> AsyncGenerator[Event]:
        async for event in self._run_episode(levels):
            yield event
        for event in self._end(rule):
            yield event

    async def _asking(self, levels: Levels) -> AsyncGenerator[Event]:
        """The model decides. Where it asks for what it cannot be shown, the question is put again with the full views."""
        async for event in self._run_episode(levels):
            yield event
        transcript = self._transcripts[-1]
        unanswered = transcript.stop_reason in _UNANSWERED
        if transcript.stop_reason != StopReason.POLICY_ERROR:
            self._answering.savings["model"].record(transcript.requested or unanswered)
        if unanswered:
            yield Decided("model", "The model asked for what it cannot be shown: the question is put again with the full views.")
            async for event in self._run_episode(_filled(levels, 1.0)):
                yield event
        elif transcript.answered and not transcript.requested:
            yield Decided("model", "The model answered without asking for more.")
        for event in self._end("model"):
            yield event

    async def _gated(self, levels: Levels, low: float) -> AsyncGenerator[Event]:
        """The gate decides: an answer from the low views is given out if it is sure enough, else the question is put again."""
        held: list[Event] = []
        async for event in self._run_episode(_filled(levels, low)):
            if isinstance(event, Looked):
                yield event
            else:
                held.append(event)
        said, transcript = self._completions[-1], self._transcripts[-1]
        gate = self._gate
        score = transcript.turns[-1].scores.get(gate.score) if transcript.answered and not said.calls else None
        if said.error is not None:
            held = []
        elif transcript.answered and not said.calls and (missing := _missing(said, gate)):
            yield Failed("bad_request", f"the rule gate needs {missing}, and the upstream gives none; use the rule model")
            return
        elif not said.calls:
            kept = score is not None and score <= gate.threshold
            words = "no answer" if score is None else gate.words(score)
            measured = {"score": gate.score, "value": score, "threshold": min(gate.threshold, sys.float_info.max), "kept": kept}
            audited = random.random() < self._answering.audit
            if self._conversation.override.threshold is None:
                self._answering.savings["gate"].record(not kept)
            if kept:
                yield Decided("gate", f"The answer from the low views is sure enough ({words}).", measured)
                for event in held:
                    yield event
                held = []
                if audited and (agrees := await self._agrees(levels, transcript)) is not None:
                    yield Decided("gate", "The answer was compared with one from the full views.", {"agrees": agrees})
            else:
                held = []
                measured |= {"agrees": True} if audited else {}  # it is the answer from the full views
                yield Decided("gate", f"The low views were not enough ({words}): the full views are shown.", measured)
                self._replies = ReplyStream(streamed=self._conversation.stream)
                async for event in self._run_episode(_filled(levels, 1.0)):
                    yield event
        for event in (*held, *self._end("gate")):
            yield event

    async def _agrees(self, levels: Levels, kept: Transcript) -> bool | None:
        """Whether the answer from the full views is the same text; None where there is none. It is on nobody's bill."""
        held = self._replies, self._transcripts, self._completions
        self._replies, self._transcripts, self._completions = ReplyStream(streamed=False), [], []
        async for _ in self._run_episode(_filled(levels, 1.0)):
            pass
        full = self._transcripts[-1]
        self._replies, self._transcripts, self._completions = held
        return None if full.answer is None else full.answer.strip().casefold() == (kept.answer or "").strip().casefold()

    async def _reason_to_skip(self, levels: Levels, rule: Rule) -> str:
        """Why looking twice cannot pay, or cannot be; empty where it may."""
        model = self._model
        if rule == "model" and not model.protocol.can_ask:
            return "The model has no way to ask for more; the rule gate does without."
        own = self._conversation.override
        if own.rule is not None or own.mode == "auto":  # who asks for a second look by name is not refused one
            return ""
        asking, silent = await self._work(lambda: (self._begun(levels), self._begun(_filled(levels, 1.0))))
        low, full = (episode.space.tokens(episode.space.opening) for episode in (asking, silent))
        overhead = max(0, _characters(asking.opening()) - _characters(silent.opening())) // 4 if rule == "model" else 0
        return self._answering.savings[rule].reason_to_skip(low, full, overhead)

    # ------------------------------------------------------------------------------------------------ how it is done

    async def _run_episode(self, levels: Levels) -> AsyncGenerator[Event]:
        """One episode; its transcript is the last one afterwards."""
        episode = await self._work(lambda: self._begun(levels))
        turns = len(self._completions)
        yield Looked(turns, episode.space.shown(episode.space.opening))
        while not episode.done:
            reader = self._model.protocol.reader(can_request=episode.can_request and bool(episode.offers))
            async with contextlib.aclosing(self._replies.reply(self._speaker, episode.history, reader)) as replies:
                async for event in replies:
                    yield event
            self._completions.append(self._replies.completion)
            step = await self._work(lambda: episode.step(self._replies.completion))
            if step.looks:
                yield Decided("model", "The model asked to see more.")
                yield Looked(len(self._completions), episode.space.shown(step.looks))
        self._transcripts.append(episode.transcript())

    def _begun(self, levels: Levels) -> Episode:
        model = self._model
        example = example_of(self._conversation.messages, self._pictures)
        return Episode(example, self._pictures, model.menu, model.protocol, budget=model.budget, fixed=levels)

    async def without_images(self) -> AsyncGenerator[Event]:
        """The answer to a conversation that has none."""
        protocol = self._model.protocol
        earlier, question = texts_of(self._conversation.messages)
        history = protocol.opening(question, [], can_request=False, earlier=earlier)
        reader = protocol.reader(can_request=False)
        async with contextlib.aclosing(self._replies.reply(self._speaker, history, reader)) as replies:
            async for reply in replies:
                yield reply
        self._completions.append(self._replies.completion)
        for event in self._end("fixed"):
            yield event

    async def _work(self, work: Callable[[], T]) -> T:
        with stage("views"):
            return await self._answering.images.work(work)

    def _end(self, rule: str) -> list[Event]:
        """The last events."""
        last = self._completions[-1]
        if last.error is not None and not (last.finish_reason == "refused" and self._replies.answered):
            return [Failed(last.error.kind, self._answering.upstream.error_prefix + last.error.text, last.error.after)]
        if last.calls:
            return [CalledTools(last.calls), Ended("tool_calls", self._bill(rule))]
        reason = _REASONS[last.finish_reason]
        if reason == "stop" and not self._replies.answered and self._pictures:
            return [Failed("server", "the model ended without an answer")]
        return [Ended(reason, self._bill(rule))]

    def _bill(self, rule: str) -> Bill:
        said = self._completions
        measured = all(completion.prompt_ids or completion.visual_tokens is not None for completion in said)
        return Bill.of(
            self._transcripts,
            said,
            rule=rule,
            measured=measured or not self._pictures,
            seconds=time.perf_counter() - self._started,
            asked="".join(p for message in self._conversation.messages for p in message.content if isinstance(p, str)),
        )


def _missing(said: Completion, gate: Gate) -> str:
    """What a gate needs of an answer and does not have."""
    if said.logprobs is None:
        return "log-probabilities of tokens"
    return "log-probabilities of the likeliest tokens" if gate.score in NEED_SPREADS and not said.spreads else ""


def _filled(levels: Levels, level: float) -> list[float]:
    """The levels with one for all that are not fixed."""
    return [level if fixed is None else fixed for fixed in levels]


def _characters(messages: Sequence[Message]) -> int:
    """The number of characters in the texts of messages and in the functions that are named beside them."""
    texts = sum(len(part) for message in messages for part in message.content if isinstance(part, str))
    return texts + sum(len(json.dumps(tool)) for message in messages for tool in message.tools)
