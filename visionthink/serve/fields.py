"""Fields that requests of both APIs have, and how a body becomes a model of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, from_json

from visionthink.serve.conversation import Detail, Rule
from visionthink.serve.errors import INVALID, UNSUPPORTED, ApiError, of_validation

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mM8ISfHQG3AxEADMGroqKGj"
    "ho4aOmroqKGjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
)
"""An image of 28x28 px, for examples of requests."""


_MOST_BRACKETS, _MOST_COMMAS = 100_000, 500_000
"""In a body, those in texts included: each may become a value, which takes memory, or a part, which takes time."""


class Body(BaseModel):
    """A part of a request. Nothing is converted; fields that are not declared are dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


def parsed(model: type[B], body: bytes) -> B:
    """A body as a request.

    Raises:
        ApiError: it is not JSON, has too many values, or a field is missing, of another type, out of range or not supported; the
            message names it.
    """
    if body.count(b"{") + body.count(b"[") > _MOST_BRACKETS or body.count(b",") > _MOST_COMMAS:
        words = f"the body has more than {_MOST_BRACKETS} opening brackets or {_MOST_COMMAS} commas"
        raise ApiError(400, words, code="too_many_values")
    try:
        record = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise of_validation(error) from None


def invalid(words: str) -> PydanticCustomError:
    """A value that no request may have."""
    return PydanticCustomError(INVALID, words)


def unsupported(words: str) -> PydanticCustomError:
    """A value that is known, and that we cannot honour."""
    return PydanticCustomError(UNSUPPORTED, words)


@dataclass(frozen=True, eq=False)  # 0 equals false, and `Annotated` takes what is equal for the same
class Only:
    """A known field that cannot be honoured: the only values it may have are null and those that change nothing."""

    harmless: tuple[Any, ...] = ()
    remedy: str = ""

    def check(self, value: Any) -> Any:
        if value is None or any(type(value) is type(one) and value == one for one in self.harmless):
            return value
        rest = f"; {self.remedy}" if self.remedy else ""
        if not self.harmless:
            raise unsupported(f"is not supported{rest}")
        allowed = " or ".join(one if isinstance(one, str) else json.dumps(one) for one in self.harmless)
        raise unsupported(f"only {allowed} is supported{rest}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.harmless]} if self.harmless else {"type": "null"}


@dataclass(frozen=True, kw_only=True)
class Variants:
    """Tells which variant of a union an object is, by a field of it; the tags are `#name`."""

    field: str
    names: tuple[str, ...]
    others: tuple[str, ...] = ()
    """Values that are known, and refused by name."""
    absent: str | None = None
    """What an object without the field is."""

    def tag(self, value: Any) -> str | None:
        return f"#{value.get(self.field) or self.absent}" if isinstance(value, dict) else f"#{getattr(value, self.field, None)}"

    def check(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise invalid("must be an object")
        name = value.get(self.field) or self.absent
        if isinstance(name, str) and name in self.others:
            raise unsupported(f"{self.field} {name} is not supported; use {_listed(self.names)}")
        if not isinstance(name, str) or name not in self.names:
            raise invalid(f"{self.field} must be {_listed(self.names)}")
        return value


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def text_or_list(value: Any) -> Any:
    """A check that comes before a union of the two."""
    if not isinstance(value, str | list):
        raise invalid("must be a string or a list")
    return value


TEXT_OR_LIST = Discriminator(lambda value: "#text" if isinstance(value, str) else "#list")

# ------------------------------------------------------------------------------------------------ of both APIs

Text = Annotated[str, Field(examples=["What is the total?"])]
Model = Annotated[str, Field(min_length=1, max_length=256, examples=["visionthink"])]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$", examples=["look_up"])]
SpeakerName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s<|\\/>]+$", examples=["ada"])]
CallId = Annotated[str, Field(min_length=1, max_length=256, examples=["call_1"])]
Temperature = Annotated[float, Field(ge=0, le=2, examples=[0.0])]
TopP = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1, examples=[256])]
Address = Annotated[
    str,
    Field(
        min_length=1,
        description="A data URL (base64; PNG, JPEG, WebP or GIF), or an http(s) address where the server allows those.",
        examples=[PIXEL],
        json_schema_extra={"format": "uri"},
    ),
]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Schema = Annotated[dict[str, Any], Field(examples=[{"type": "object", "properties": {"key": {"type": "string"}}}])]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ToolMode = Literal["none", "auto", "required"]
MOST_PARTS, MOST_MESSAGES, MOST_TOOLS = 1024, 4096, 128
Never = Annotated[Any, Only()]

P = TypeVar("P")
_Text = Annotated[Text, Tag("#text")]
_Parts = Annotated[list[P], Field(min_length=1, max_length=MOST_PARTS), Tag("#list")]
TextOr = Annotated[_Text | _Parts[P], TEXT_OR_LIST, BeforeValidator(text_or_list)]
"""A text, or parts of a message."""
ModeOr = Annotated[Annotated[ToolMode, Tag("#text")] | Annotated[P, Tag("#list")], TEXT_OR_LIST]
"""How tools are chosen, or the tool that must be called."""


class VisionThinkOptions(Body):
    """What a request changes of the server's defaults. A field that is not known is a mistake: it is for this server alone."""

    model_config = ConfigDict(extra="forbid")

    mode: Detail | None = Field(None, description="How every image is shown, whatever its own detail says.")
    rule: Rule | None = Field(None, description="Who decides whether to look again.")
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Of the gate: confidence below which the images are shown again, at full."
    )
    events: bool | None = Field(None, description="Whether what was looked at, and why, is told as well.")


class FunctionDefinition(Body):
    """A function of the client's that the model may call."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class PlainFormat(Body):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class JsonSchema(Body):
    """A schema that the answer follows."""

    name: Name
    description: str | None = None
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


_FORMATS = Variants(field="type", names=("text", "json_object", "json_schema"), others=("grammar", "regex"))
PlainOr = Annotated[
    Annotated[PlainFormat, Tag("#plain")] | Annotated[P, Tag("#json_schema")],
    Discriminator(lambda value: "#json_schema" if _FORMATS.tag(value) == "#json_schema" else "#plain"),
    BeforeValidator(_FORMATS.check),
]
"""The form of the answer: without a schema, or with one."""


class StreamOptions(Body):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Only((False,))] = None


class Request(Body):
    """What requests of both APIs have."""

    model: Model
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    user: str | None = None
    store: Annotated[bool, Field(description="Nothing is stored, whatever this says.")] | None = None
    visionthink: VisionThinkOptions | None = None
    # known, and refused where they would change something
    top_logprobs: Annotated[Any, Only((0,))] = None
    service_tier: Annotated[Any, Only(("auto", "default"))] = None
    moderation: Never = None
