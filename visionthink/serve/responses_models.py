"""A request of the stateless part of `/v1/responses`, as a model that also documents it."""

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
    Schema,
    Text,
    TextOr,
    Tokens,
    Variants,
    Verbosity,
    text_or_list,
    unsupported,
)

_STORED = "nothing is stored here; send the whole input"

# ------------------------------------------------------------------------------------------------ parts of an item


class InputText(Body):
    """A piece of text."""

    type: Literal["input_text"]
    text: Text


class OutputText(Body):
    """A piece of what a model said earlier."""

    type: Literal["output_text"]
    text: Text


class Refusal(Body):
    """What a model said when it refused."""

    type: Literal["refusal"]
    refusal: Text


class InputImage(Body):
    """An image."""

    type: Literal["input_image"]
    image_url: Address
    detail: Detail | None = Field(None, description="Absent or `auto`: low first, more where the model asks.")
    file_id: Never = None


def _no_file(value: Any) -> Any:
    if isinstance(value, dict) and value.get("file_id") is not None:
        raise unsupported("file_id is not supported: nothing is stored here; send the image as a data URL in image_url")
    return value


_OTHERS = ("input_file", "input_audio", "text", "image_url", "computer_screenshot")
_TEXTS = Variants(field="type", names=("input_text",), others=("input_image", "output_text", "refusal", *_OTHERS))
_SAID = Variants(field="type", names=("output_text", "refusal", "input_text"), others=("input_image", *_OTHERS))
_SHOWN = Variants(field="type", names=("input_text", "input_image"), others=("output_text", "refusal", *_OTHERS))

_Image = Annotated[InputImage, BeforeValidator(_no_file)]
OnlyText = Annotated[InputText, BeforeValidator(_TEXTS.check)]
Said = Annotated[
    Annotated[OutputText, Tag("#output_text")] | Annotated[Refusal, Tag("#refusal")] | Annotated[InputText, Tag("#input_text")],
    Discriminator(_SAID.tag),
    BeforeValidator(_SAID.check),
]
TextOrImage = Annotated[
    Annotated[InputText, Tag("#input_text")] | Annotated[_Image, Tag("#input_image")],
    Discriminator(_SHOWN.tag),
    BeforeValidator(_SHOWN.check),
]

# ------------------------------------------------------------------------------------------------ items


class SystemItem(Body):
    """Instructions."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer"]
    content: TextOr[OnlyText]


class UserItem(Body):
    """What a user says and shows."""

    type: Literal["message"] = "message"
    role: Literal["user"]
    content: TextOr[TextOrImage]


class AssistantItem(Body):
    """What a model said earlier."""

    type: Literal["message"] = "message"
    role: Literal["assistant"]
    content: TextOr[Said]


class FunctionCall(Body):
    """A call of one of the client's own tools."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str
    namespace: Never = None


class FunctionCallOutput(Body):
    """What one of the client's own tools answered."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: TextOr[TextOrImage]


class ReasoningItem(Body):
    """What a model thought earlier. It is not shown again."""

    type: Literal["reasoning"]


_ROLES = Variants(field="role", names=("system", "developer", "user", "assistant"), others=("tool", "function"))
_ITEMS = Variants(
    field="type",
    names=("message", "function_call", "function_call_output", "reasoning"),
    others=tuple(
        "item_reference computer_call computer_call_output file_search_call web_search_call image_generation_call "
        "code_interpreter_call local_shell_call local_shell_call_output shell_call shell_call_output apply_patch_call "
        "apply_patch_call_output mcp_list_tools mcp_approval_request mcp_approval_response mcp_call custom_tool_call "
        "custom_tool_call_output compaction".split()
    ),
    absent="message",
)


def _item(value: Any) -> str | None:
    tag = _ITEMS.tag(value)
    if tag != "#message":
        return tag
    role = _ROLES.tag(value)
    return "#system" if role == "#developer" else role


def _check_item(value: Any) -> Any:
    _ITEMS.check(value)
    return _ROLES.check(value) if _ITEMS.tag(value) == "#message" else value


Item = Annotated[
    Annotated[SystemItem, Tag("#system")]
    | Annotated[UserItem, Tag("#user")]
    | Annotated[AssistantItem, Tag("#assistant")]
    | Annotated[FunctionCall, Tag("#function_call")]
    | Annotated[FunctionCallOutput, Tag("#function_call_output")]
    | Annotated[ReasoningItem, Tag("#reasoning")],
    Discriminator(_item),
    BeforeValidator(_check_item),
]

# ------------------------------------------------------------------------------------------------ tools and formats


class FunctionTool(FunctionDefinition):
    """One of the client's own tools."""

    type: Literal["function"]


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    name: Name


class JsonSchemaFormat(JsonSchema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


_CHOICES = Variants(field="type", names=("function",), others=("allowed_tools", "custom", "mcp", "file_search", "web_search"))
_TOOLS = Variants(
    field="type",
    names=("function",),
    others=tuple(
        "custom file_search web_search web_search_preview computer computer_use_preview mcp shell code_interpreter "
        "image_generation local_shell apply_patch namespace tool_search".split()
    ),
)


class TextOptions(Body):
    """Which form the answer has."""

    format: PlainOr[JsonSchemaFormat] | None = None
    verbosity: Verbosity | None = None


class Reasoning(Body):
    """How much is thought before the answer. Thoughts are sent whole, never as a summary."""

    effort: ReasoningEffort | None = None
    summary: Annotated[Any, Only(("auto",), "thoughts are sent whole")] = None
    generate_summary: Annotated[Any, Only(("auto",), "thoughts are sent whole")] = None


# ------------------------------------------------------------------------------------------------ the request

EXAMPLE = {
    "model": "visionthink",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Which colour is this?"},
                {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
            ],
        }
    ],
    "max_output_tokens": 64,
}


class ResponsesRequest(Request, json_schema_extra={"examples": [EXAMPLE]}):
    """A request of the Responses API. Fields that are not listed are dropped, ids of caches among them."""

    input: Annotated[
        Annotated[Text, Tag("#text")] | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES), Tag("#list")],
        TEXT_OR_LIST,
        BeforeValidator(text_or_list),
    ]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    tools: Annotated[list[Annotated[FunctionTool, BeforeValidator(_TOOLS.check)]], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ModeOr[Annotated[NamedTool, BeforeValidator(_CHOICES.check)]] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, description="Of tools that the server runs; there are none.")] | None = None
    # known, and refused where they would change something
    previous_response_id: Annotated[Any, Only((), _STORED)] = None
    conversation: Annotated[Any, Only((), _STORED)] = None
    prompt: Annotated[Any, Only((), _STORED)] = None
    background: Annotated[Any, Only((False,), "use stream")] = None
    include: Annotated[Any, Only(([],))] = None
    truncation: Annotated[Any, Only(("disabled",), "send a shorter input")] = None
    context_management: Annotated[Any, Only(([],))] = None
