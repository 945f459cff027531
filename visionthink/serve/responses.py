"""The stateless part of the Responses API: a request to a `Conversation`, and what happens while it is answered to a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionthink.protocol import disarmed
from visionthink.serve.conversation import ClientMessage, Conversation, ImageInput, SamplingOptions
from visionthink.serve.errors import ApiError
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
from visionthink.serve.responses_models import (
    AssistantItem,
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    JsonSchemaFormat,
    NamedTool,
    ReasoningItem,
    Refusal,
    ResponsesRequest,
    SystemItem,
    UserItem,
)


def read_responses(
    body: bytes, *, read: ReadImage, headers: Mapping[str, str] | None = None
) -> tuple[Conversation, dict[str, Any]]:
    """A request's body as what is asked, and the part of it that the response says again.

    Args:
        headers: by names in lower case, or without regard to case.

    Raises:
        ApiError: it cannot be answered as it is; the message names the place.
    """
    request = parsed(ResponsesRequest, body)
    check_stream(request)
    override = override_of(headers or {}, request)
    tools = tuple(
        tool_definition(tool.model_dump(exclude_none=True, exclude={"type"}), f"tools[{i}]")
        for i, tool in enumerate(request.tools or ())
    )
    choice: Any = request.tool_choice
    if isinstance(choice, NamedTool):
        choice = {"type": "function", "function": {"name": choice.name}}
    check_tools(tools, choice)
    conversation = Conversation(
        messages=tuple(_messages(request, read)),
        model=request.model,
        sampling=_sampling(request),
        tools=tools,
        tool_choice=choice,
        override=override,
        stream=bool(request.stream),
        stream_usage=True,
    )
    return conversation, _said_again(request)


def _messages(request: ResponsesRequest, read: ReadImage) -> list[ClientMessage]:
    if isinstance(request.input, str):
        messages = [ClientMessage(role="user", content=(disarmed(request.input),))]
    else:
        placed: list[tuple[str, ClientMessage]] = []
        for i, item in enumerate(request.input):
            if isinstance(item, FunctionCall) and placed and placed[-1][1].role == "assistant":
                placed[-1] = (placed[-1][0], _with_call(placed[-1][1], item))
            elif not isinstance(item, ReasoningItem):
                placed.append((f"input[{i}].call_id", _message(item, f"input[{i}]", read)))
        check_answers(placed)
        messages = [message for _, message in placed]
    if request.instructions:
        messages.insert(0, ClientMessage(role="system", content=(disarmed(request.instructions),)))
    if not messages:
        raise ApiError(400, "input: has no message", param="input", code="invalid_value")
    return messages


def _with_call(message: ClientMessage, call: FunctionCall) -> ClientMessage:
    """A message of the assistant's and a call that it goes on with."""
    calls = [*message.wire.get("tool_calls", ()), tool_call(call.call_id, call.name, call.arguments)]
    return ClientMessage(role="assistant", content=message.content, wire={"tool_calls": calls})


def _message(
    item: SystemItem | UserItem | AssistantItem | FunctionCall | FunctionCallOutput, place: str, read: ReadImage
) -> ClientMessage:
    if isinstance(item, FunctionCall):
        return _with_call(ClientMessage(role="assistant"), item)
    if isinstance(item, FunctionCallOutput):
        content = _content(item.output, f"{place}.output", read)
        return ClientMessage(role="tool", content=content, wire={"tool_call_id": disarmed(item.call_id)})
    role = "system" if item.role == "developer" else item.role
    return ClientMessage(role=role, content=_content(item.content, f"{place}.content", read))


def _content(content: Any, place: str, read: ReadImage) -> tuple[str | ImageInput, ...]:
    if isinstance(content, str):
        return (disarmed(content),)
    parts: list[str | ImageInput] = []
    for i, part in enumerate(content):
        if isinstance(part, InputImage):
            parts.append(image_input(part.image_url, part.detail, f"{place}[{i}].image_url", read))
        else:
            parts.append(disarmed(part.refusal if isinstance(part, Refusal) else part.text))
    return tuple(parts)


def _sampling(request: ResponsesRequest) -> SamplingOptions:
    wanted, text = request.text.format if request.text else None, request.text
    more: dict[str, Any] = {
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "verbosity": text.verbosity if text else None,
        "parallel_tool_calls": None if request.parallel_tool_calls else request.parallel_tool_calls,
    }
    if isinstance(wanted, JsonSchemaFormat):
        schema = finite(wanted.model_dump(by_alias=True, exclude_none=True, exclude={"type"}), "text.format")
        more["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted is not None and wanted.type != "text":
        more["response_format"] = {"type": wanted.type}
    return SamplingOptions(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_output_tokens,
        more={name: value for name, value in more.items() if value is not None},
    )


def _said_again(request: ResponsesRequest) -> dict[str, Any]:
    """What of a request its response says again. `store` is always false."""
    choice, wanted = request.tool_choice, request.text.format if request.text else None
    tools = [{"strict": None, "parameters": None} | tool.model_dump(exclude_none=True) for tool in request.tools or ()]
    form = wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {"format": form},
        "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        "tools": finite(tools, "tools"),
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }
