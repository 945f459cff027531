"""A client's messages as an example: a question about images after an earlier conversation."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.picture import Picture
from visionthink.protocol import IMAGE_MARK
from visionthink.serve.conversation import ClientMessage, ImageInput
from visionthink.types import Earlier, Example


def example_of(messages: Sequence[ClientMessage], pictures: Sequence[Picture]) -> Example:
    """The example that an episode is run over; the pictures are opened already."""
    earlier, question = texts_of(messages)
    return Example("request", question, tuple(picture.image for picture in pictures), earlier=earlier)


def texts_of(messages: Sequence[ClientMessage]) -> tuple[tuple[Earlier, ...], str]:
    """The messages before the question, and the question; `<image>` stands for each image.

    The question is the last message if it is the user's; after the result of a function, say, it is empty, and the conversation
    goes on as it is.
    """
    *before, last = messages
    asked = last.role == "user"
    earlier = tuple(Earlier(message.role, _text(message), message.wire) for message in (before if asked else messages))
    return earlier, _text(last) if asked else ""


def _text(message: ClientMessage) -> str:
    """The text of a message. Images that all stand before or behind its text come first, as in training; parts of text that
    follow each other are lines."""
    texts = [part for part in message.content if not isinstance(part, ImageInput)]
    images = len(message.content) - len(texts)
    kinds = [isinstance(part, ImageInput) for part in message.content]
    if kinds in (sorted(kinds), sorted(kinds, reverse=True)):
        return IMAGE_MARK * images + "\n".join(texts)
    text = ""
    for before, part in zip([None, *message.content], message.content, strict=False):
        text += IMAGE_MARK if isinstance(part, ImageInput) else ("\n" if isinstance(before, str) else "") + part
    return text
