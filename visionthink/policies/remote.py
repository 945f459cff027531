"""A policy behind an endpoint that speaks OpenAI's chat completions: vLLM, SGLang, `transformers serve`, or a vendor.

In prompt mode: the tool stands in the text, and a request comes back as text or, where the server parses it, as a call that is
written out again; so any server will do. A reply without an answer and without a request is a failure with the server's words,
never an empty answer. A view is sent as the same PNG bytes in every round, so that a prefix cache finds it.
What the server says about tokens is written down as it says it; where it does not count image tokens, those that the model's own
rule gives are.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.endpoint import Client, Completed, Connection, Endpoint, Unanswered
from visionthink.errors import OptionError, one_line
from visionthink.protocol import Protocol, written_out
from visionthink.types import Completion, Failure, History, ImageView, Message


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
        self._sampling = {name: value for name, value in fields.items() if name not in omit}
        self._client, self._model = Client(endpoint), endpoint.model

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history, in order; an error where the endpoint gave none.

        Raises:
            OptionError: the endpoint serves several models and none was named, or it does not say which.
        """
        return self._client.run(lambda connection: self._complete(connection, histories))

    def close(self) -> None:
        """Close connections; a policy that is used again opens new ones."""
        self._client.close()

    async def _complete(self, connection: Connection, histories: Sequence[History]) -> list[Completion]:
        if not self._model:
            self._model = await connection.only_model()
        return await asyncio.gather(*(self._ask(connection, history, i) for i, history in enumerate(histories)))

    async def _ask(self, connection: Connection, history: History, number: int) -> Completion:
        body = {"model": self._model, "messages": [self._message(m) for m in history], **self._sampling}
        if body.get("seed") is not None and body.get("temperature"):
            body["seed"] += number  # members of a group have one prompt, and must not be one sample
        async with connection.slots:
            await connection.turn()
            started = time.monotonic()
            try:
                completed = await connection.complete(body, started + connection.endpoint.deadline)
            except Unanswered as failure:
                return _failed(failure, time.monotonic() - started)
            return self._completion(completed, time.monotonic() - started)

    def _completion(self, completed: Completed, seconds: float) -> Completion:
        text, error = written_out(completed.text, completed.reasoning, completed.calls), None
        reason, note = completed.finish_reason, completed.note
        if reason == "refused":
            error = Failure("refused", completed.note)
        elif reason != "length":
            heard = self.protocol.turn_text(completed.text, completed.reasoning, completed.calls)
            if heard is None:
                error = Failure("server", completed.why_no_answer)
            elif reason == "unknown" and not self.protocol.is_whole(heard):
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
        )

    def _message(self, message: Message) -> dict[str, Any]:
        if all(isinstance(part, str) for part in message.content):
            return {"role": message.role, "content": "".join(map(str, message.content))}
        return {"role": message.role, "content": [self._part(part) for part in message.content if part]}

    def _part(self, part: str | ImageView) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        buffer = io.BytesIO()
        part.image.save(buffer, "PNG", compress_level=1)
        url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


def _failed(failure: Unanswered, seconds: float) -> Completion:
    words = str(failure)
    if failure.parameter:
        words += f'; leave it out (--omit {failure.parameter}, or omit=["{failure.parameter}"] in Python)'
    if failure.kind == "refused":
        return Completion("", "refused", error=Failure("refused", words), seconds=seconds)
    return Completion.failed(failure.kind, words, seconds=seconds)
