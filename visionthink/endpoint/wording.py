"""What a server left in a text that is no part of what was said: marks of the end of a turn, and thinking in other spellings."""

from __future__ import annotations

import re

from visionthink.errors import is_blank

_ENDS = (
    *(f"<|{name}|>" for name in ("im_end", "endoftext", "end_of_text", "eot_id", "eom_id", "eot", "end", "return")),
    *("</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
)
_NAMES = "thinking|thought|reasoning|seed:think"
_OPENS = re.compile(rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>")
_CLOSES = re.compile(
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
)


def plainly(text: str) -> str:
    """A text without marks of its end, its thinking within `<think>`; empty where nothing in it can be seen.

    Another spelling is thinking where the text begins with it, or where thinking that began in the prompt is closed by it.
    """
    text = _without_ends(text)
    opened = _OPENS.match(text.lstrip())
    if opened or (_CLOSES.search(text) and not _OPENS.search(text)):
        text = _CLOSES.sub("</think>", _OPENS.sub("<think>", text))
    return "" if is_blank(text) else text


def _without_ends(text: str) -> str:
    end = len(text.rstrip())
    while mark := next((mark for mark in _ENDS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
    return text if end == len(text.rstrip()) else text[:end]


def thinks_only(text: str) -> bool:
    """Whether nothing stands behind the thinking."""
    _, closed, behind = text.rpartition("</think>")
    return is_blank(behind) if closed else "<think>" in text
