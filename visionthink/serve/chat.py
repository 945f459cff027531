"""Chat completions: a request to a `Conversation`, and what happens while it is answered to chunks or one object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from visionthink.protocol import disarmed
from visionthink.serve.chat_models import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    JsonSchemaFormat,
    Message,
    NamedTool,
    TextPart,
    ToolMessage,
)
from visionthink.serve.conversation import ClientMessage, Conversation, ImageInput, SamplingOptions
from visionthink.serve.errors import ApiError
from visionthink.serve.events import CalledTools, Decided, Ended, Event, Looked, Text, Thought
from visionthink.serve.fields import parsed
from visionthink.serve.reading import (
    ReadImage,
    check_answers,
    check_stream,
    check_tools,
    finite,
    image_input,
    override_of,
    tool_call,
    tool_definition,
)
from visionthink.serve.streaming import DONE, Envelope, collected, complete, data, told

# ------------------------------------------------------------------------------------------------ what is asked


def read_chat(body: bytes, *, read: ReadImage, headers: Mapping[str, str] | None = None) -> Conversation:
    """A request's body as what is asked. It may take long where images are decoded, and does not wait.

    Args:
        headers: by names in lower case, or without regard to case.

    Raises:
        ApiError: it cannot be answered as it is; the message names the place.
    """
    request = parsed(ChatRequest, body)
    check_stream(request)
    override = override_of(headers or {}, request)
    tools = tuple(
        tool_definition(tool.function.model_dump(exclude_none=True), f"tools[{i}]") for i, tool in enumerate(request.tools or ())
    )
    choice = request.tool_choice.model_dump() if isinstance(request.tool_choice, NamedTool) else request.tool_choice
    check_tools(tools, choice)
    messages = [_message(message, f"messages[{i}]", read) for i, message in enumerate(request.messages)]
    check_answers((f"messages[{i}].tool_call_id", message) for i, message in enumerate(messages))
    return Conversation(
        messages=tuple(messages),
        model=request.model,
        sampling=_sampling(request),
        tools=tools,
        tool_choice=choice,
        override=override,
        stream=bool(request.stream),
        stream_usage=bool(request.stream_options and request.stream_options.include_usage),
    )


def _message(message: Message, place: str, read: ReadImage) -> ClientMessage:
    content: list[str | ImageInput] = []
    if isinstance(message.content, str):
        content = [disarmed(message.content)]
    for i, part in enumerate(message.content or () if not isinstance(message.content, str) else ()):
        if isinstance(part, ImagePart):
            there = f"{place}.content[{i}].image_url"
            content.append(image_input(part.image_url.url, part.image_url.detail, there, read))
        else:
            content.append(disarmed(part.text if isinstance(part, TextPart) else part.refusal))
    wire: dict[str, Any] = {}
    if isinstance(message, ToolMessage):
        wire["tool_call_id"] = disarmed(message.tool_call_id)
    elif message.name is not None:
        wire["name"] = message.name
    if isinstance(message, AssistantMessage):
        content += [disarmed(message.refusal)] if message.refusal else []
        if message.tool_calls:
            wire["tool_calls"] = [tool_call(c.id, c.function.name, c.function.arguments) for c in message.tool_calls]
        elif not content:
            raise ApiError(400, f"{place}: has neither content nor tool_calls", param=place, code="invalid_value")
    role = "system" if message.role == "developer" else message.role
    return ClientMessage(role=role, content=tuple(content), wire=wire)


def _sampling(request: ChatRequest) -> SamplingOptions:
    limits = {limit for limit in (request.max_tokens, request.max_completion_tokens) if limit is not None}
    if len(limits) > 1:
        words = "max_tokens: differs from max_completion_tokens, which is its newer name; send one"
        raise ApiError(400, words, param="max_tokens", code="invalid_value")
    stop = request.stop or ()
    more: dict[str, Any] = {
        "presence_penalty": request.presence_penalty or None,
        "frequency_penalty": request.frequency_penalty or None,
        "logit_bias": request.logit_bias or None,
        "reasoning_effort": request.reasoning_effort,
        "verbosity": request.verbosity,
        "parallel_tool_calls": None if request.parallel_tool_calls else request.parallel_tool_calls,
    }
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat) or (wanted and wanted.type != "text"):
        more["response_format"] = finite(wanted.model_dump(by_alias=True, exclude_none=True), "response_format")
    return SamplingOptions(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=max(limits, default=None),
        seed=request.seed,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        more={name: value for name, value in more.items() if value is not None},
    )


# ------------------------------------------------------------------------------------------------ what is answered


async def completion(events: AsyncGenerator[Event], envelope: Envelope) -> tuple[dict[str, Any], dict[str, str]]:
    """An answer as one `chat.completion`, and the headers that go with it.

    Raises:
        ApiError: there is none; what was said of it is dropped.
    """
    answer = await collected(events)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message |= {"content": answer.text or None, "tool_calls": [dict(call) for call in answer.calls]}
    bill = answer.ended.bill
    record = {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.ended.finish_reason}],
        "usage": bill.chat_usage(thought=bool(answer.thoughts)),
        "visionthink": bill.record() | ({"events": answer.told} if envelope.events else {}),
    }
    return record, bill.headers()


async def chunks(events: AsyncGenerator[Event], envelope: Envelope) -> AsyncGenerator[bytes]:
    """An answer as server-sent events, for an `EventStream`. Nothing is sent before there is something to say, so that a failure
    before that still has a status of its own.

    Raises:
        ApiError: see `complete`.
    """
    begun = thought = False
    async with aclosing(complete(events)) as whole:
        async for event in whole:
            if isinstance(event, Looked | Decided) and not envelope.events:
                continue
            if not begun:
                begun = True
                yield _chunk(envelope, {"role": "assistant", "content": ""})
            if isinstance(event, Thought):
                thought = True
                yield _chunk(envelope, {"reasoning_content": event.text})
            elif isinstance(event, Text):
                yield _chunk(envelope, {"content": event.text})
            elif isinstance(event, CalledTools):
                yield _chunk(envelope, {"tool_calls": [{"index": i, **call} for i, call in enumerate(event.calls)]})
            elif isinstance(event, Ended):
                yield _chunk(envelope, {}, event.finish_reason, visionthink=event.bill.record())
                if envelope.usage:
                    yield data(_head(envelope) | {"choices": [], "usage": event.bill.chat_usage(thought=thought)})
                yield DONE
            elif isinstance(event, Looked | Decided):
                yield _chunk(envelope, {}, visionthink=told(event))


def late(error: ApiError) -> bytes:
    """An error of which the status can no longer tell."""
    return data(error.body()) + DONE


def _head(envelope: Envelope) -> dict[str, Any]:
    return {"id": envelope.id, "object": "chat.completion.chunk", "created": envelope.created, "model": envelope.model}


def _chunk(envelope: Envelope, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    record = _head(envelope) | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]} | more
    return data(record | {"usage": None} if envelope.usage else record)
