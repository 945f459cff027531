"""Messages to the wire text of ChatML, the chat markup of the Qwen models. Pure text: no tokenizer, no model.

A piece of text is *markup* (control tokens of ours) or *plain* (prompt and question, in which a control token is only
characters), so that nothing in a question can open a turn or stand for an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources

from visionthink.errors import DataError
from visionthink.protocol import Boundary
from visionthink.types import ImageView, Message

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"

CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
NEVER_SAMPLED = (TURN_START, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD, "<|vision_pad|>")
"""Tokens a policy must not be able to say: a sampled image token corrupts the batch (arXiv 2507.13348's released code
met this)."""


@dataclass(frozen=True)
class Markup:
    """A control token."""

    token: str


Piece = str | Markup | ImageView


def _message(message: Message) -> Iterator[Piece]:
    _check(message)
    yield Markup(TURN_START)
    yield f"{message.role}\n"
    for part in message.content:
        if isinstance(part, ImageView):
            yield Markup(VISION_START)
            yield part
            yield Markup(VISION_END)
        else:
            yield part
    yield Markup(TURN_END)


def _check(message: Message) -> None:
    """
    Raises:
        DataError: the message holds what no text can say.
    """
    if message.role == "tool" or message.wire:
        held = ", ".join(message.wire) or "what a function gave"
        raise DataError(
            f"a message of the {message.role} holds {held}, which only an endpoint can be sent; leave messages with tools out, "
            "or ask the model behind an endpoint (--model http://host/v1)"
        )
    if message.tools:
        raise DataError(
            "the dialect names its function beside the text, which only an endpoint can be sent; choose another one (--dialect), "
            "or ask the model behind an endpoint (--model http://host/v1)"
        )


def _merge(pieces: Iterable[Piece]) -> list[Piece]:
    """Adjacent plain texts become one, as a tokenizer would see them."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and merged and isinstance(merged[-1], str):
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _open_reply() -> Iterator[Piece]:
    yield Markup(TURN_START)
    yield "assistant\n"


def opening(messages: Iterable[Message], boundary: Boundary) -> list[Piece]:
    """The first prompt: the messages, those of an earlier conversation among them, then the header of the reply."""
    pieces: list[Piece] = []
    for message in messages:
        separate = message.role != "assistant" or boundary == "chatml"
        pieces += [*_message(message), *(["\n"] if separate else [])]
    return _merge([*pieces, *_open_reply()])


def bridge(messages: Iterable[Message], boundary: Boundary) -> list[Piece]:
    """From the end of a sampled turn (its end token was sampled) to the header of the next reply."""
    pieces: list[Piece] = ["\n"] if boundary == "chatml" else []
    for message in messages:
        pieces += [*_message(message), "\n"]
    return _merge([*pieces, *_open_reply()])


def template() -> str:
    """The same rules as a Jinja chat template, for tokenizers and trainers. It takes the variable `boundary`."""
    return (resources.files("visionthink") / "prompts" / "chatml.jinja").read_text("utf-8")
