"""A policy behind an endpoint that speaks OpenAI's chat completions: vLLM, SGLang, `transformers serve`, or a vendor.

The tool stands in the text (prompt mode), or beside it where the dialect says so (`native`). A request comes back as text or,
where the server parses it, as a call that is written out again; so any server will do. A reply without an answer and without a
request is a failure with the server's words, never an empty answer.
What the server says about tokens is written down as it says it; where it does not count image tokens, those that the model's own
rule gives are.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Self

from visionthink.certainty import LIKELIEST
from visionthink.endpoint import Client, Completed, Connection, Endpoint, Unanswered
from visionthink.endpoint.usage import TokenSaid
from visionthink.errors import DataError, OptionError, one_line
from visionthink.policies.wire import align_logprobs, messages_of
from visionthink.protocol import (
    Answer,
    IncrementalText,
    Protocol,
    Reply,
    Request,
    call_of,
    functions_of,
    names_of,
    written_out,
)
from visionthink.types import Completion, Failure, History, ImageView

log = logging.getLogger(__name__)

_NO_MODEL = "the endpoint does not serve exactly one model, and none was named; whoever runs this server names it as URL#MODEL"


class RemotePolicy:
    """Asks an endpoint, many histories at once.

    Args:
        config: configuration of the model that is served, as transformers has it, where it is known: costs are counted with it.
        protocol: the dialect of the replies, which says whether one holds an answer or a request.
        extra: further fields of the request body.
        omit: names of fields that the endpoint does not take: `temperature`, `max_tokens`, `seed`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        seed: int = 0,
        config: Any = None,
        protocol: Protocol | None = None,
        extra: Mapping[str, Any] | None = None,
        omit: Sequence[str] = (),
    ):
        if max_new_tokens < 1:
            raise OptionError(f"max_new_tokens {max_new_tokens}: must be at least 1")
        self.config, self.protocol = config, protocol or Protocol()
        fields = {"temperature": temperature, "max_tokens": max_new_tokens, "seed": seed, **(extra or {})}
        for name in omit:
            if name not in fields:
                raise OptionError(f"omit {name!r}: is no field of the request; it has {', '.join(fields)}")
        self._omitted, self.max_new_tokens = frozenset(omit), max_new_tokens
        self._sampling = {name: value for name, value in fields.items() if name not in omit}
        self._client, self._model = Client(endpoint), endpoint.model

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history, in order; an error where the endpoint gave none.

        Raises:
            OptionError: the endpoint serves several models and none was named, or it does not say which.
        """
        return self._client.run(lambda connection: self._complete(connection, histories))

    async def speak(self, history: History, until: Callable[[str], bool] | None = None) -> AsyncGenerator[str | Completion]:
        """Pieces of the text as they are said, then the completion, which counts: it is what `complete` gives for the same reply,
        and what a server took apart wrongly is put right only there.

        Closing the generator closes the connection to the endpoint. The event loop's own connection is used, see `aclose`.

        Args:
            until: is asked with the whole text so far after each piece; where it is true the reply ends there.
        """
        connection, started = self._client.here(), time.monotonic()
        try:
            model = self._model or await connection.only_model()
        except OptionError as error:
            log.warning("%s", error)  # the address and the names of models are nothing for clients
            cause, seconds = error.__cause__, time.monotonic() - started
            yield _failed(cause, seconds) if isinstance(cause, Unanswered) else Completion.failed("bad_request", _NO_MODEL)
            return
        end = time.monotonic() + connection.endpoint.deadline
        completion: Completion | None = None
        first: float | None = None
        writing, tokens = IncrementalText(), list[TokenSaid]()
        try:
            async with connection.slot(end):
                started = time.monotonic()
                body = await self._body(model, history)
                async with contextlib.aclosing(connection.stream(body, end)) as reply:
                    async for item in reply:
                        if isinstance(item, Completed):
                            completion = self._completion(item, time.monotonic() - started)
                            piece = "" if completion.error else writing.finish(completion.text)
                        else:
                            tokens += item.logprobs
                            piece = writing.add(item.text, item.reasoning)
                        if piece:
                            first = time.monotonic() - started if first is None else first
                            yield piece
                            if until is not None and until(writing.text):
                                break
        except Unanswered as failure:
            completion = _failed(failure, time.monotonic() - started)
        if completion is None:  # the server was not heard out, and has counted nothing
            completion = Completion(writing.text, seconds=time.monotonic() - started, **align_logprobs(tokens, writing.text))
        if completion.finish_reason == "length" and until is not None and until(writing.text):
            completion = dataclasses.replace(completion, finish_reason="stop")
        seconds = max(completion.seconds, first or 0.0)  # all may have come at once
        yield dataclasses.replace(completion, first_token_seconds=first, seconds=seconds)

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """The same policy with other fields of the request body, over the same connections. None, or an empty list,
        leaves a field out; those that the endpoint does not take (`omit`) stay out.

        Raises:
            DataError: one of the `tools` has the name of the protocol's own function, which is named beside them.
        """
        for name in names_of(fields.get("tools")):
            if name in self.protocol.function_names:
                raise DataError(f"tools: the model is offered a function {name!r} by this server; give yours another name")
        other = copy.copy(self)
        chosen = {name: value for name, value in {**self._sampling, **fields}.items() if value not in (None, [], ())}
        other._sampling = {name: value for name, value in chosen.items() if name not in self._omitted}
        return other

    @property
    def identity(self) -> str:
        """What the endpoint calls its model, or its address where none was named. Its weights are not known."""
        return self._model or self._client.endpoint.url

    def with_spreads(self) -> Self:
        """The same policy, whose completions have `logprobs` and `spreads` as far as the endpoint tells the likeliest tokens."""
        return self.with_fields({"logprobs": True, "top_logprobs": LIKELIEST})

    def sampling_as(self, *, temperature: float) -> Self:
        """The same policy at another temperature."""
        return self.with_fields({"temperature": temperature})

    async def models(self) -> list[str]:
        """Names of what the endpoint serves.

        Raises:
            Unanswered: it does not say.
        """
        return await self._client.here().models()

    def close(self) -> None:
        """Close connections; a policy that is used again opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connection that `speak` has opened in the event loop that is running."""
        await self._client.aclose()

    async def _complete(self, connection: Connection, histories: Sequence[History]) -> list[Completion]:
        model = self._model or await connection.only_model()
        return await asyncio.gather(*(self._ask(connection, model, history, i) for i, history in enumerate(histories)))

    async def _ask(self, connection: Connection, model: str, history: History, number: int) -> Completion:
        async with connection.slots:  # for as long as it takes: the deadline is that of a request
            body = await self._body(model, history)
            if body.get("seed") is not None and body.get("temperature"):
                body["seed"] += number  # members of a group have one prompt, and must not be one sample
            await connection.turn()
            started = time.monotonic()
            try:
                completed = await connection.complete(body, started + connection.endpoint.deadline)
            except Unanswered as failure:
                return _failed(failure, time.monotonic() - started)
            return self._completion(completed, time.monotonic() - started)

    async def _body(self, model: str, history: History) -> dict[str, Any]:
        """The request body. Where it holds images, they are encoded in a thread, and as JSON at once."""
        images = any(isinstance(part, ImageView) for message in history for part in message.content)
        messages = await asyncio.to_thread(_encoded, history) if images else _encoded(history)
        body = {"model": model, "messages": messages, **self._sampling}
        if ours := functions_of(history):
            theirs = list(body.get("tools") or ())
            if body.get("tool_choice") == "none":  # which is said of theirs
                theirs = []
                del body["tool_choice"]
            body["tools"] = [*theirs, *ours]
        return body

    def _completion(self, completed: Completed, seconds: float) -> Completion:
        ours, theirs = self._calls(completed)
        text, error = written_out(completed.text, completed.reasoning, ours), None
        reason, note = completed.finish_reason, completed.note
        if reason == "refused":
            error = Failure("refused", completed.note)
        elif reason != "length":
            heard = text if theirs else self.protocol.turn_text(completed.text, completed.reasoning, ours)
            whole = all(_is_json(call["function"]["arguments"]) for call in theirs)
            if heard is None:
                error = Failure("server", completed.why_no_answer)
            elif reason == "unknown" and not (whole if theirs else self.protocol.is_whole(heard)):
                error = Failure(
                    "server", f"{completed.note}, and the reply may have been cut off: {one_line(heard, 120, end=True)}"
                )
            else:
                text, note = heard, f"{note}; taken as the end" if reason == "unknown" else note
        return Completion(
            text,
            "error" if error and reason != "refused" else "stop" if reason == "unknown" else reason,
            error=error,
            note=note or None,
            seconds=seconds,
            prompt_tokens=completed.prompt_tokens,
            output_tokens=completed.completion_tokens,
            visual_tokens=completed.image_tokens,
            cached_tokens=completed.cached_tokens,
            calls=theirs if reason in ("stop", "unknown") and not error else (),
            **align_logprobs(completed.logprobs, text),
        )

    def _calls(self, completed: Completed) -> tuple[list[tuple[str, str]], tuple[dict[str, Any], ...]]:
        """Calls to be written out, and those of functions that the caller offered. One that asks to see more does only that."""
        if not completed.calls:
            return [], ()
        offered = names_of(self._sampling.get("tools"))
        known = list(zip(completed.calls, completed.call_ids, strict=True))
        ours = [call for call, _ in known if call[0] not in offered or isinstance(self._heard("", "", [call]), Request)]
        if not isinstance(self._heard(completed.text, completed.reasoning, ours), Answer):
            return ours, ()
        return ours, tuple(call_of(*call, known_as or f"call_{uuid.uuid4().hex}") for call, known_as in known if call not in ours)

    def _heard(self, text: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> Reply:
        return self.protocol.parse(written_out(text, reasoning, calls))


def _encoded(history: History) -> bytes:
    return json.dumps(messages_of(history)).encode()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _failed(failure: Unanswered, seconds: float) -> Completion:
    words = str(failure)
    if failure.parameter:
        words += f'; leave it out (--omit {failure.parameter}, or omit=["{failure.parameter}"] in Python)'
    if failure.kind == "refused":
        return Completion("", "refused", error=Failure("refused", words), seconds=seconds)
    return Completion.failed(failure.kind, words, seconds=seconds, after=failure.after)
