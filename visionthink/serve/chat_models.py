"""A request of `/v1/chat/completions`, as a model that also documents it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from visionthink.serve.conversation import Detail
from visionthink.serve.fields import (
    MOST_MESSAGES,
    MOST_TOOLS,
    PIXEL,
    TEXT_OR_LIST,
    Address,
    Body,
    CallId,
    FunctionDefinition,
    JsonSchema,
    ModeOr,
    Name,
    Never,
    Only,
    PlainOr,
    ReasoningEffort,
    Request,
    Seed,
    SpeakerName,
    Text,
    TextOr,
    Tokens,
    Variants,
    Verbosity,
    text_or_list,
)

# ------------------------------------------------------------------------------------------------ parts of a message


class TextPart(Body):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class RefusalPart(Body):
    """What the assistant said when it refused."""

    type: Literal["refusal"]
    refusal: Text


class ImageAddress(Body):
    """Where an image is, and how it is to be shown."""

    url: Address
    detail: Detail | None = Field(None, description="Absent or `auto`: low first, more where the model asks.")


class ImagePart(Body):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageAddress


_OTHER_PARTS = tuple("input_audio audio file input_text input_image input_file video_url image_embeds image".split())
_TEXTS = Variants(field="type", names=("text",), others=("image_url", "refusal", *_OTHER_PARTS))
_SAID = Variants(field="type", names=("text", "refusal"), others=("image_url", *_OTHER_PARTS))
_SHOWN = Variants(field="type", names=("text", "image_url"), others=("refusal", *_OTHER_PARTS))

OnlyText = Annotated[Annotated[TextPart, Tag("#text")], BeforeValidator(_TEXTS.check)]
Said = Annotated[
    Annotated[TextPart, Tag("#text")] | Annotated[RefusalPart, Tag("#refusal")],
    Discriminator(_SAID.tag),
    BeforeValidator(_SAID.check),
]
TextOrImage = Annotated[
    Annotated[TextPart, Tag("#text")] | Annotated[ImagePart, Tag("#image_url")],
    Discriminator(_SHOWN.tag),
    BeforeValidator(_SHOWN.check),
]

# ------------------------------------------------------------------------------------------------ messages


class SystemMessage(Body):
    """Instructions; `developer` is another name of `system`."""

    role: Literal["system", "developer"]
    content: TextOr[OnlyText]
    name: SpeakerName | None = None


class UserMessage(Body):
    """What a user says and shows."""

    role: Literal["user"]
    content: TextOr[TextOrImage]
    name: SpeakerName | None = None


class CalledFunction(Body):
    """Which function was called, and with what: JSON in a string."""

    name: Name
    arguments: str


class ToolCall(Body):
    """A call of one of the client's own tools."""

    id: CallId
    type: Annotated[Any, Only(("function",))] = "function"
    function: CalledFunction


class AssistantMessage(Body):
    """What a model said earlier."""

    role: Literal["assistant"]
    content: TextOr[Said] | None = None
    refusal: Text | None = None
    name: SpeakerName | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    function_call: Annotated[Any, Only((), "use tool_calls")] = None
    audio: Never = None


class ToolMessage(Body):
    """What one of the client's own tools answered."""

    role: Literal["tool"]
    content: TextOr[TextOrImage]
    tool_call_id: CallId


_ROLES = Variants(field="role", names=("system", "developer", "user", "assistant", "tool"), others=("function",))


def _role(value: Any) -> str | None:
    tag = _ROLES.tag(value)
    return "#system" if tag == "#developer" else tag


Message = Annotated[
    Annotated[SystemMessage, Tag("#system")]
    | Annotated[UserMessage, Tag("#user")]
    | Annotated[AssistantMessage, Tag("#assistant")]
    | Annotated[ToolMessage, Tag("#tool")],
    Discriminator(_role),
    BeforeValidator(_ROLES.check),
]

# ------------------------------------------------------------------------------------------------ tools and formats


class Tool(Body):
    """One of the client's own tools."""

    type: Annotated[Any, Only(("function",))] = "function"
    function: FunctionDefinition


class NamedFunction(Body):
    """A function by name."""

    name: Name


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


_CHOICES = Variants(field="type", names=("function",), others=("allowed_tools", "custom"))

Stop = Annotated[
    Annotated[str, Field(min_length=1), Tag("#text")]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16), Tag("#list")],
    TEXT_OR_LIST,
    BeforeValidator(text_or_list),
]

# ------------------------------------------------------------------------------------------------ the request

EXAMPLE = {
    "model": "visionthink",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Which colour is this?"},
                {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}},
            ],
        }
    ],
    "max_tokens": 64,
}


class ChatRequest(Request, json_schema_extra={"examples": [EXAMPLE]}):
    """A request of chat completions. Fields that are not listed are dropped, ids of caches among them."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = None
    response_format: PlainOr[JsonSchemaFormat] | None = None
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Verbosity | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ModeOr[Annotated[NamedTool, BeforeValidator(_CHOICES.check)]] | None = None
    # known, and refused where they would change something
    n: Annotated[Any, Only((1,), "send one request for each answer")] = None
    logprobs: Annotated[Any, Only((False,))] = None
    modalities: Annotated[Any, Only((["text"],))] = None
    functions: Annotated[Any, Only((), "use tools")] = None
    function_call: Annotated[Any, Only((), "use tool_choice")] = None
    audio: Never = None
    prediction: Never = None
    web_search_options: Never = None
