"""Messages of an lmms-eval task to examples, and the lines of the sidecar. Needs no lmms-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visionthink import records
from visionthink.errors import DataError
from visionthink.protocol import IMAGE_MARK
from visionthink.types import Example, Role


@dataclass(frozen=True, kw_only=True)
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
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, or is something else; the message names it.
        """
        failed: Failed = records.read(cls, {"reason" if name == "failed" else name: value for name, value in record.items()})
        return failed


def read_messages(messages: Sequence[Mapping[str, Any]], example_id: str, family: str, metadata: Mapping[str, Any]) -> Example:
    """One question about one image or several, after the messages before it. Text parts are lines; images keep their places.

    Raises:
        DataError: no image, something other than text and images, or an assistant has the last word.
    """
    images: list[Any] = []
    said: list[tuple[Role, list[str]]] = []
    for message in messages:
        lines: list[str] = []
        for part in [{"type": "text", "text": c}] if isinstance(c := message["content"], str) else c:
            if part["type"] == "text":
                lines.append(part["text"])
            elif part["type"] == "image":
                images.append(part["url"])
                lines.append(IMAGE_MARK)
            else:
                raise DataError(f"the request holds {part['type']}; text and images are supported")
        if said and said[-1][0] == message["role"]:  # a task may write one turn as several messages
            said[-1][1].extend(lines)
        else:
            said.append((message["role"], lines))
    if not images:
        raise DataError("the request holds no image")
    *earlier, (role, question) = said
    if role != "user":
        raise DataError(f"the last message is of the {role}; a question is expected")
    marked = any(IMAGE_MARK in line and line != IMAGE_MARK for _, lines in said for line in lines)
    all_first = question[: len(images)] == [IMAGE_MARK] * len(images)
    if marked or all_first:  # our own marks say nothing that the task or the usual order does not
        said = [(role, [line for line in lines if line != IMAGE_MARK]) for role, lines in said]
        *earlier, (_, question) = said
    return Example(
        example_id,
        "\n".join(question),
        tuple(images) if len(images) > 1 else images[0],
        family=family,
        earlier=tuple((role, "\n".join(lines)) for role, lines in earlier),
        metadata=metadata,
    )
