"""Messages of an lmms-eval task to examples, and the lines of the sidecar. Needs no lmms-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visionthink.errors import DataError
from visionthink.protocol import IMAGE_MARK
from visionthink.types import Example


@dataclass(frozen=True)
class Failed:
    """A request that no episode could be begun for."""

    example_id: str
    family: str
    reason: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"example_id": self.example_id, "failed": self.reason, "family": self.family, "metadata": self.metadata}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Failed:
        """Inverse of `to_dict`."""
        return cls(record["example_id"], record["family"], record["failed"], record["metadata"])


def read_messages(messages: Sequence[Mapping[str, Any]], example_id: str, family: str, metadata: Mapping[str, Any]) -> Example:
    """One question about one image. Several text parts are lines; the image keeps its place among them.

    Raises:
        DataError: not exactly one image, something other than text and images, or turns of an assistant.
    """
    if any(message["role"] == "assistant" for message in messages):
        raise DataError("the task's messages hold turns of an assistant; questions of one turn are supported")
    before: list[str] = []
    after: list[str] = []
    images: list[Any] = []
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                (after if images else before).append(part["text"])
            elif part["type"] == "image":
                images.append(part["url"])
            else:
                raise DataError(f"the request holds {part['type']}; one image is supported")
    if len(images) != 1:
        raise DataError(f"the request holds {len(images) or 'no'} image{'s' * (len(images) > 1)}; one image is supported")
    marked = any(IMAGE_MARK in text for text in before + after)  # then the task says itself where the image stands
    if any(before) and not marked:
        before.append(IMAGE_MARK)
    return Example(example_id, "\n".join(before + after), images[0], family=family, metadata=metadata)
