"""Fields of a request that an endpoint does not take, as it says when it refuses one.

An error may quote what a client wrote, so that any field may be named in it; and a field may be refused beside another one only,
as streams beside functions. What is learnt from a refusal is therefore kept where a request that was changed by it has been
answered, and only for requests that have the same fields.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from visionthink.endpoint.failures import Unanswered

log = logging.getLogger(__name__)

STREAMED = {"stream_options": {"include_usage": True}, "stream": True}
"""Fields that ask for a stream."""
Names = dict[str, str | None]
"""Names that fields are sent under; None: not at all."""


class Fields:
    """What is known of an endpoint."""

    def __init__(self, url: str):
        self._url = url
        self._known: dict[frozenset[str], Names] = {}

    def known(self, body: Mapping[str, Any]) -> Names:
        """What is known for requests with the fields of this one."""
        return dict(self._known.get(frozenset(body), {}))

    def keep(self, body: Mapping[str, Any], learned: Names) -> None:
        """A request has been answered under these names."""
        new = learned.keys() - self.known(body).keys()
        if not new:
            return
        self._known.setdefault(frozenset(body), {}).update(learned)
        if "max_tokens" in new:
            log.warning("%s: max_tokens is sent as max_completion_tokens, as the server asks for", self._url)
        if refused := next((name for name in ("logprobs", "top_logprobs") if name in new), None):
            log.warning("%s: %s are not asked for any more, as the server refuses them", self._url, refused)


def lesson_of(failure: Unanswered) -> Names:
    """What a refusal says of fields that may be sent under another name, or left out."""
    name = failure.parameter if failure.final else None
    if name == "max_tokens" and "max_completion_tokens" in str(failure):
        return {name: "max_completion_tokens"}
    if name in STREAMED:
        return {name: None, "stream_options": None}  # without a stream it is refused, too
    if name in ("logprobs", "top_logprobs"):
        return {name: None, "top_logprobs": None}  # these are refused without the others
    return {}


def adapted(body: Mapping[str, Any], names: Names) -> Mapping[str, Any]:
    """A request body with its fields under these names."""
    if not names:
        return body
    sent = ((names.get(name, name), value) for name, value in body.items())
    return {name: value for name, value in sent if name is not None}
