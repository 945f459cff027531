"""What a server says went wrong, whatever form it says it in, and what that means for the next attempt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from visionthink.errors import one_line
from visionthink.types import FailureKind

_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""Status codes after which the same request may succeed."""
_NO_ACCESS = (401, 402, 403, 404)
"""Status codes of a wrong key, no money, no such model."""
_FOR_ALL = (401, 402, 404, 429, 503, 529)
"""Status codes that every other request would meet as well. Others may be due to a question: behind 500, 502 and 504 there may be
one that the server cannot answer, and some firewalls refuse texts with 403."""
_LONGEST = 300
"""Characters of the server's words that are kept."""
Cause = Literal["endpoint", "request", "either"]


class Unanswered(Exception):
    """No reply could be had; the message says why. `final` when trying again cannot help. `parameter` is the field of the request
    that the server does not take, where that is the reason. `cause`: `endpoint` where any other request would have failed
    alike, `request` where the reason lies in this one, `either` where that is not known."""

    def __init__(
        self,
        kind: FailureKind,
        reason: str,
        *,
        final: bool = False,
        after: float | None = None,
        parameter: str | None = None,
        cause: Cause | None = None,
    ):
        super().__init__(reason)
        self.kind, self.final, self.after, self.parameter = kind, final, after, parameter
        self.cause: Cause = cause or ("request" if final else "either")


_REFUSED_CODE = re.compile(
    r"content.?(filter|policy)|responsible.?ai|moderation|data.?inspection|safety|sensitive", re.IGNORECASE
)
_CONTEXT = re.compile(r"context.{0,3}(length|size|window)", re.IGNORECASE)
_NOT_TAKEN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|forbidden|cannot find", re.IGNORECASE
)


def error_of(record: Any) -> Any:
    """What a record says went wrong, in any of the forms in use; None where it says nothing of the kind."""
    for item in record if isinstance(record, list) else [record]:
        if not isinstance(item, dict):
            continue
        for name in ("error", "errors", "detail"):
            found = item.get(name)
            if found and (name == "error" or "choices" not in item) and not (isinstance(found, dict) and not any(found.values())):
                return item if found is True else found
        if "choices" not in item and ("error" in (item.get("object"), item.get("type")) or isinstance(item.get("message"), str)):
            return item
    return None


def failed(error: Any, *, status: int | None = None, after: float | None = None, sent: Iterable[str] = ()) -> Unanswered:
    """An error of the server's as a failure; `sent` names fields of the request, one of which may be the cause."""
    labels = " ".join(_labels(error))
    known = status if status is not None else _status(error)
    said = words_of(error).removesuffix(f" ({status})").strip() or "an error without a word"
    words = short(f"HTTP {status} {said}" if status is not None else said)
    parameter = _not_taken(error, f"{said} {labels}", sent)
    kind: FailureKind = "server"
    if _REFUSED_CODE.search(labels):
        kind = "refused"
    elif _CONTEXT.search(f"{said} {labels}"):
        kind = "context"
    elif known is not None and known < 500:
        kind = "rate_limit" if known == 429 else "no_access" if known in _NO_ACCESS else "bad_request"
    spent = "insufficient_quota" in f"{said} {labels}"
    final = kind in ("refused", "context") or known not in _PASSING or spent
    cause: Cause | None = None
    if kind not in ("refused", "context"):
        cause = "endpoint" if spent or known in _FOR_ALL else "either" if known == 403 else None
    return Unanswered(kind, words, final=final, after=after, parameter=parameter, cause=cause)


def words_of(error: Any, depth: int = 0) -> str:
    """What an error says, without the JSON around it."""
    if isinstance(error, str):
        return error
    if depth > 4 or not isinstance(error, (dict, list)):
        return json.dumps(error)[:_LONGEST]
    if isinstance(error, list):
        return "; ".join(words_of(item, depth + 1) for item in error)
    inner = next((error[name] for name in ("message", "msg", "detail", "error", "reason") if error.get(name)), None)
    words = words_of(inner, depth + 1) if inner is not None else json.dumps(error)[:_LONGEST]
    if isinstance(place := error.get("loc"), list):
        words = f"{'.'.join(map(str, place))}: {words}"
    if isinstance(metadata := error.get("metadata"), dict) and (raw := metadata.get("raw") or metadata.get("reasons")):
        words += f": {words_of(_unpacked(raw), depth + 1)}"  # what the provider behind a router said
    code = error.get("code")
    return f"{words} ({code})" if isinstance(code, (str, int)) and code and str(code) not in words else words


def _unpacked(raw: Any) -> Any:
    """An error that is quoted as JSON text."""
    try:
        quoted = json.loads(raw) if isinstance(raw, str) else raw
    except (ValueError, RecursionError):
        return raw
    return error_of(quoted) or raw


def short(words: str) -> str:
    """The words in one line, and not too long."""
    return one_line(words, _LONGEST)


def _labels(error: Any) -> list[str]:
    """The codes and types of an error, which are meant for programs."""
    if isinstance(error, list):
        return [label for item in error[:8] for label in _labels(item)]
    if not isinstance(error, dict):
        return []
    inner = error.get("innererror")
    records = [error, inner] if isinstance(inner, dict) else [error]
    if isinstance(metadata := error.get("metadata"), dict) and "flagged_input" in metadata:
        return ["moderation"]
    return [str(record[name]) for record in records for name in ("code", "type", "status") if isinstance(record.get(name), str)]


def _status(error: Any) -> int | None:
    """The HTTP status that an error stands for."""
    record = error if isinstance(error, dict) else {}
    for name in ("code", "status", "status_code"):
        if isinstance(value := record.get(name), (int, str)) and re.fullmatch(r"[45]\d\d", str(value), re.ASCII):
            return int(value)
    return None


def _not_taken(error: Any, words: str, sent: Iterable[str]) -> str | None:
    """The field of the request that an error says is not taken."""
    if not _NOT_TAKEN.search(words):
        return None
    items = error if isinstance(error, list) else [error]
    named = [item["param"] for item in items if isinstance(item, dict) and isinstance(item.get("param"), str) and item["param"]]
    fields = list(sent)
    if named:  # then the text is not needed, which may quote the request
        return next((name for name in fields if name in named), None)
    return next((name for name in fields if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words)), None)
