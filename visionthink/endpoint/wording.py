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


def taken_apart(text: str) -> tuple[str, str]:
    """Thinking, and what was said behind it, without marks of its end; empty where nothing can be seen.

    Another spelling is thinking where the text begins with it, or where thinking that began in the prompt is closed by it.
    """
    text = _without_ends(text)
    opened = _OPENS.match(text.lstrip())
    *_, closed = [None, *_CLOSES.finditer(text)]
    thinking, said = "", text
    if opened or (closed and not _OPENS.search(text)):
        thinking, said = (text[: closed.start()], text[closed.end() :]) if closed else (text, "")
        thinking = _OPENS.sub("", thinking, count=1)
    return thinking, "" if is_blank(said) else said


def _without_ends(text: str) -> str:
    end = len(text.rstrip())
    while mark := next((mark for mark in _ENDS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
        while end and text[end - 1].isspace():
            end -= 1
    return text if end == len(text.rstrip()) else text[:end]
