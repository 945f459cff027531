"""What went wrong, as OpenAI's API says it: a status and `{"error": {"message", "type", "param", "code"}}`.

Messages are one line of ours. They name the place in the request and never what stands there: that may be an image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from visionthink.errors import ImageError, InputError, ModelError, OptionError, VisionThinkError, one_line
from visionthink.types import FailureKind

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""Types of errors by status; any other is an `invalid_request_error` below 500 and a `server_error` from there on."""

FAILURES: dict[FailureKind, tuple[int, str]] = {
    "unreachable": (502, "upstream_unreachable"),
    "timeout": (504, "upstream_timeout"),
    "rate_limit": (429, "rate_limit_exceeded"),
    "refused": (400, "content_filter"),
    "bad_request": (400, "upstream_refused_request"),
    "no_access": (502, "upstream_no_access"),
    "context": (400, "context_length_exceeded"),
    "out_of_memory": (503, "out_of_memory"),
    "server": (502, "upstream_error"),
    "cancelled": (499, "cancelled"),
}
"""Status and code of each kind of failure.

An answer that a filter cuts short is an answer and ends with `content_filter`. A model that refuses before it has said
anything gives no answer, so that this is an error: an empty text with status 200 would be taken for one. Its status is 400
because the same request meets the same filter again, and clients repeat a request after any other.
"""

_LONGEST = 300
_DATA = re.compile(r"data:[\w/+.;=-]*,?\S*|https?://\S+|[A-Za-z0-9+/_=-]{80,}")


class ApiError(VisionThinkError):
    """An error that a client is told.

    Args:
        param: the place in the request, as `messages[2].content[1].image_url`.
        code: for programs; stable.
        type: by default that of the status, see `TYPES`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.type = type or TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    def at(self, place: str) -> ApiError:
        """The same error, with a place in the request as its `param`."""
        return ApiError(self.status, self.message, param=place, code=self.code, type=self.type, headers=self.headers)

    def body(self) -> dict[str, Any]:
        """The JSON that a client is sent."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def of_failure(kind: FailureKind, text: str, after: float | None = None) -> ApiError:
    """Why a model gave no answer.

    Args:
        after: seconds until it may be asked again, which the client is told where that may help.
    """
    status, code = FAILURES[kind]
    words = one_line(_DATA.sub("...", text), _LONGEST) or "the model gave no answer"
    later = {"Retry-After": f"{math.ceil(after)}"} if after is not None and (status == 429 or status >= 500) else {}
    return ApiError(status, words, code=code, headers=later)


def of_exception(error: Exception, param: str | None = None) -> ApiError:
    """Any exception. What the client gave us is named; of anything else only that it happened: it may quote a client's data.

    Args:
        param: the place in the request that was being read, if it is known.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return of_validation(error)
    if not isinstance(error, InputError) or isinstance(error, OptionError | ModelError):
        return ApiError(500, "internal error", code="internal_error")
    words = one_line(_DATA.sub("...", str(error)), _LONGEST)
    code = "invalid_image" if isinstance(error, ImageError) else "invalid_value"
    return ApiError(400, f"{param}: {words}" if param else words, param=param, code=code)


# ------------------------------------------------------------------------------------------------ what pydantic finds

_FIELD = re.compile(r"[a-z_]{1,40}")
_OF_THE_CLIENT = ("metadata", "logit_bias")
"""Fields whose keys a client chooses."""
UNSUPPORTED, INVALID = "unsupported_value", "invalid_value"
"""Types of what our own checks find; the message is theirs."""

_FOUND = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "literal_error": "must be {expected}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
}
"""What is wrong, by pydantic's name of it. What fills the braces comes out of the schema, not out of the request."""


def place_of(parts: Sequence[str | int]) -> str:
    """`messages[2].content[1].image_url`, out of names and indices. Names of variants, which begin with `#`, are left out; as
    is what a client may have named itself."""
    place = ""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.startswith("#"):
            continue
        elif not _FIELD.fullmatch(part):
            break
        else:
            place += f".{part}" if place else part
            if part in _OF_THE_CLIENT:
                break
    return place


def of_validation(error: ValidationError, prefix: str = "") -> ApiError:
    """The first thing that pydantic finds wrong with a request. `prefix` comes before the names of its fields."""
    found = error.errors(include_url=False, include_input=False)[0]
    kind, place = found["type"], prefix + place_of(found["loc"])
    ours = kind in (UNSUPPORTED, INVALID)
    words = found["msg"] if ours else _FOUND.get(kind, "is not valid").format_map(found.get("ctx", {}))
    code = {"missing": "missing_required_parameter", UNSUPPORTED: UNSUPPORTED}.get(kind, INVALID)
    return ApiError(400, f"{place or 'the body'}: {words}", param=place or None, code=code)
