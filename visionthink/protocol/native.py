"""Functions that are named beside the text: what is said in place of a turn that calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.protocol.dialects import prompt
from visionthink.protocol.replies import split_calls
from visionthink.types import History, Message


def functions_of(history: History) -> list[Mapping[str, Any]]:
    """The protocol's functions that can be called, in OpenAI's form."""
    return [function for message in history for function in message.tools]


def names_of(tools: Any) -> list[str]:
    """Names of functions in OpenAI's form; what has none is left out."""
    records = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, Sequence) else []
    return [r["name"] for r in records if isinstance(r, Mapping) and isinstance(r.get("name"), str)]


def call_of(name: str, arguments: str, known_as: str) -> dict[str, Any]:
    """A call in OpenAI's form."""
    return {"id": known_as, "type": "function", "function": {"name": name, "arguments": arguments}}


def with_calls(history: History) -> History:
    """A history in which turns that call a function beside the text do so in `wire`; as it is where there is none.

    Each call is answered in a word: what was asked for follows in the user's turn, since the answer to a call can hold no image
    everywhere. Names of calls are the same in every round.
    """
    functions = functions_of(history)
    if not functions:
        return history
    said: History = []
    for message in history:
        text, calls = split_calls(message.completion.text) if message.completion is not None else ("", [])
        said += _called(text, calls, names_of(functions)[0], len(said)) if calls else [message]
    return said


def _called(text: str, calls: Sequence[tuple[str, str]], usual: str, place: int) -> History:
    """A turn with calls, and an answer to each; `usual` is the function that is meant where a call names none."""
    made = [call_of(name or usual, arguments, f"look{place:03d}{n:02d}") for n, (name, arguments) in enumerate(calls)]
    turn = Message("assistant", (text,) if text else (), wire={"tool_calls": made})
    return [turn, *(Message("tool", (prompt("native_result"),), wire={"tool_call_id": call["id"]}) for call in made)]
