"""What requests of both APIs have in common on their way to a `Conversation`: texts, images, tools and overrides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from pydantic import ValidationError

from visionthink.errors import InputError
from visionthink.protocol import disarmed, disarmed_json
from visionthink.serve.conversation import ClientMessage, Detail, ImageInput, Override
from visionthink.serve.errors import ApiError, of_exception, of_validation
from visionthink.serve.fields import Request, VisionThinkOptions

ReadImage: TypeAlias = Callable[[str], bytes | str]
"""What stands in `image_url` to the bytes of a data URL, or to an address that is allowed. It raises an `InputError`."""


def disarmed_record(value: Any, place: str) -> Any:
    """A client's JSON with all of its texts disarmed, keys included.

    Raises:
        ApiError: a number in it is too large to be one.
    """
    if isinstance(value, str):
        return disarmed(value)
    if isinstance(value, Mapping):
        return {disarmed(key): disarmed_record(one, place) for key, one in value.items()}
    if isinstance(value, list):
        return [disarmed_record(one, place) for one in value]
    return finite(value, place)


def finite(value: Any, place: str) -> Any:
    """JSON as it is.

    Raises:
        ApiError: a number in it is too large to be one.
    """
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        finite(one, place)
    if isinstance(value, float) and not math.isfinite(value):
        raise ApiError(400, f"{place}: has a number that is too large", param=place, code="invalid_value")
    return value


def image_input(url: str, detail: Detail | None, place: str, read: ReadImage) -> ImageInput:
    """An image of a request.

    Raises:
        ApiError: it cannot be read; the message names the place.
    """
    try:
        return ImageInput(source=read(url), detail=detail, place=place)
    except ApiError as error:
        raise ApiError(
            error.status, f"{place}: {error.message}", param=place, code=error.code, type=error.type, headers=error.headers
        ) from None
    except InputError as error:
        raise of_exception(error, place) from None


def check_answers(messages: Iterable[tuple[str, ClientMessage]]) -> None:
    """Every answer of a tool belongs to a call of the assistant's that stands right before it.

    Args:
        messages: each with the place of what answers.

    Raises:
        ApiError: one does not.
    """
    waiting: set[str] = set()
    for place, message in messages:
        if message.role != "tool":
            waiting = {call["id"] for call in message.wire.get("tool_calls", ())}
        elif (answered := message.wire["tool_call_id"]) in waiting:
            waiting.remove(answered)
        else:
            raise ApiError(400, f"{place}: answers no call of the assistant right before it", param=place, code="invalid_value")


def check_stream(request: Request) -> None:
    """How a stream is sent is said of streams only.

    Raises:
        ApiError: it is not.
    """
    if request.stream_options and not request.stream:
        raise ApiError(400, "stream_options: is for streams only; set stream", param="stream_options", code="invalid_value")


def check_tools(tools: Iterable[Mapping[str, Any]], choice: Any) -> None:
    """Tools have different names, and a choice is one of them.

    Raises:
        ApiError: they have not, or it is not.
    """
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "tools: two of them have the same name", param="tools", code="invalid_value")
    wanted = choice["function"]["name"] if isinstance(choice, Mapping) else None
    if (wanted is not None and wanted not in names) or (choice == "required" and not names):
        raise ApiError(400, "tool_choice: there is no such tool in tools", param="tool_choice", code="invalid_value")


def tool_call(id: str, name: str, arguments: str) -> Mapping[str, Any]:
    """A call of one of the client's own tools, in the form of chat completions."""
    return {"id": disarmed(id), "type": "function", "function": {"name": name, "arguments": disarmed_json(arguments)}}


def tool_definition(function: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """One of the client's own tools, in the form of chat completions."""
    return {"type": "function", "function": disarmed_record(function, place)}


# ------------------------------------------------------------------------------------------------ overrides

HEADER = "x-visionthink-"


def override_of(headers: Mapping[str, str], request: Request) -> Override:
    """What a request changes of the server's defaults: a header comes before the field in the body.

    Args:
        headers: by names in lower case.

    Raises:
        ApiError: a header has a value that is none of its own; the message names it.
    """
    named = [(name.lower().removeprefix(HEADER), value) for name, value in headers.items() if name.lower().startswith(HEADER)]
    said = {name: value.strip().lower() for name, value in named}
    if len(said) < len(named):
        raise ApiError(400, f"{HEADER}...: one of these headers is sent twice", param=HEADER, code="invalid_value")
    try:
        own = VisionThinkOptions.model_validate_strings(said, strict=False)
    except ValidationError as error:
        raise of_validation(error, HEADER) from None
    given = request.visionthink.model_dump(exclude_none=True) if request.visionthink else {}
    return Override(**given | own.model_dump(exclude_none=True))
