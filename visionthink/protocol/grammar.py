"""Ways to ask: how a call is written, and how a reply is read. A reply that is understood only in part is malformed."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from visionthink.protocol.replies import TAGGED_ANSWER, Answer, Malformed, Reply, Request
from visionthink.types import Asked, Call, CallError, Frame, Unit

Calls = tuple[Call, ...]
RepeatedCalls = Literal["refuse", "last", "all"]
"""What is done with several calls in one reply: refuse them, follow the last, follow all."""


def _without(*tags: str) -> str:
    return rf"(?:(?!</?(?:{'|'.join(tags)})>).)*"


_TAGS = ("think", "answer", "tool_call", "tool_response", "resize")
PLAIN = _without(*_TAGS)
"""Regular expression for text without a tag of VisionThink's protocol."""
_PLAIN_TOO = _without(*_TAGS, "grounding", "look")


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How calls are written in a dialect, and how they are read."""

    read: Callable[[str], Reply]
    write: Callable[[Calls], str]
    opens: str
    """The string that every call begins with; a reply without it is an answer."""
    closes: str
    """The string that ends a call; empty where the one that opens it is all of it."""
    several: bool = False
    """Whether another call may follow in the same reply."""
    asks: frozenset[Asked]
    """Kinds of what a call can ask for. For `level` there is a call without arguments, which asks for the next one."""
    form: str
    """Regular expression for a turn that asks, its thinking left out."""
    plain: str = PLAIN
    """Regular expression for text without a tag, in thinking and answers."""
    unit: Unit = "px"
    frame: Frame = "original"
    """What coordinates in a call are relative to."""
    images: Literal["any", "one"] = "any"
    """Whether a call can name, or means, any of several images."""
    names_levels: bool = False
    """Whether a call can name a level, and not only ask for the next one."""
    lists_regions: bool = False
    """Whether one call can list several regions by id."""


def _bodies(text: str, tag: str) -> list[str] | CallError:
    """What stands between the tags, in order."""
    opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
    found = re.findall(rf"<{tag}>((?:(?!<{tag}>).)*?)</{tag}>", text, re.DOTALL)
    return found if opened == closed == len(found) else CallError.UNCLOSED


def _read_json(body: str, *, keys_once: bool = True) -> Any:
    """The value, or NOT_JSON; also where a key stands twice, since one of its values would be dropped."""
    try:
        return json.loads(body, object_pairs_hook=_once if keys_once else None)
    except (ValueError, RecursionError):
        return CallError.NOT_JSON


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


# ------------------------------------------------------------------------------------------------ the next level

_RESIZE = {"name": "resize_image", "arguments": {"action": "resize"}}


def _tool_call(call: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def _read_resize(text: str) -> Reply:
    def understand(arguments: Any) -> Call | CallError:
        return Call() if arguments == _RESIZE["arguments"] else CallError.WRONG_ARGUMENTS

    # as the released checkpoints were trained, the last of two equal keys counts
    return _read_tool(text, "resize_image", understand, keys_once=False)


def _read_level(text: str) -> Reply:
    """Ours: `{"action": "resize", "level": 0.25}`; `full` is level 1, and without a level the next one is meant."""
    return _read_tool(text, "resize_image", _level)


def _level(arguments: Any) -> Call | CallError:
    if not isinstance(arguments, dict) or not {"action"} <= set(arguments) <= {"action", "level"}:
        return CallError.WRONG_LEVEL_ARGUMENTS
    if arguments["action"] != "resize":
        return CallError.WRONG_LEVEL_ARGUMENTS
    level = arguments.get("level")
    if level is None:
        return CallError.WRONG_LEVEL_ARGUMENTS if "level" in arguments else Call()
    number = 1.0 if level == "full" else _number(level)
    return Call(level=float(number)) if number is not None and 0 < number <= 1 else CallError.NOT_ON_OFFER


def _write_level(calls: Calls) -> str:
    level = calls[0].level
    arguments = {"action": "resize"} if level is None else {"action": "resize", "level": level}
    return _tool_call({"name": "resize_image", "arguments": arguments})


def _read_tool(
    text: str,
    name: str,
    understand: Callable[[Any], Call | CallError],
    several: RepeatedCalls = "refuse",
    *,
    keys_once: bool = True,
) -> Reply:
    """Calls of one function within `<tool_call>` tags. `understand` reads the arguments, None where the call has other parts."""
    if "<tool_call>" not in text:
        return Answer(text)
    if several == "refuse" and text.count("<tool_call>") > 1:
        return Malformed(CallError.REPEATED)
    bodies = _bodies(text, "tool_call")
    if isinstance(bodies, CallError):
        return Malformed(bodies)
    calls = []
    for body in bodies[-1:] if several == "last" else bodies:
        said = _read_json(body, keys_once=keys_once)
        if isinstance(said, CallError):
            return Malformed(said)
        if not isinstance(said, dict) or said.get("name") != name:
            return Malformed(CallError.UNKNOWN_FUNCTION)
        call = understand(said["arguments"] if set(said) == {"name", "arguments"} else None)
        if isinstance(call, CallError):
            return Malformed(call)
        calls.append(call)
    return Request(tuple(calls))


def _read_resize_pair(text: str) -> Reply:
    count = text.count("<resize>")
    if not count:
        return Answer(text)
    if count > 1:
        return Malformed(CallError.REPEATED)
    return Request() if "<resize></resize>" in text else Malformed(CallError.UNCLOSED)


def _read_resize_mark(text: str) -> Reply:
    count = text.count("<resize>")
    if not count:
        return Answer(text)
    return Request() if count == 1 else Malformed(CallError.REPEATED)


# ------------------------------------------------------------------------------------------------ any box


def _number(value: Any) -> float | int | None:
    """A finite number; booleans are none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer of more than 308 digits
        return None


def _coordinates(value: Any) -> tuple[float, float, float, float] | None:
    numbers = [_number(v) for v in value] if isinstance(value, list) else []
    if len(numbers) != 4 or any(n is None for n in numbers):
        return None
    return tuple(numbers)  # type: ignore[return-value]


def _box_tool(
    name: str, optional: Sequence[str], several: RepeatedCalls, unit: Unit, frame: Frame, *, answer_wins: bool
) -> Grammar:
    """A function whose argument `bbox_2d` is a box; `optional` names what may stand beside it."""

    def understand(arguments: Any) -> Call | CallError:
        if not isinstance(arguments, dict) or not {"bbox_2d"} <= set(arguments) <= {"bbox_2d", *optional}:
            return CallError.OTHER_ARGUMENTS
        if not isinstance(arguments.get("label", ""), str):
            return CallError.OTHER_ARGUMENTS
        box = _coordinates(arguments["bbox_2d"])
        if box is None:
            return CallError.NOT_A_BOX
        index = _number(arguments.get("img_idx", 0))
        if index is None or index != int(index) or index < 0:
            return CallError.UNKNOWN_VIEW
        return Call(box=box, source=int(index) if "img_idx" in arguments else None, unit=unit, frame=frame)

    def read(text: str) -> Reply:
        if answer_wins and re.search(TAGGED_ANSWER, text, re.DOTALL):
            return Answer(text)
        return _read_tool(text, name, understand, several)

    def write(calls: Calls) -> str:
        said = []
        for call in calls:
            arguments: dict[str, Any] = {"bbox_2d": list(call.box or ())}
            if "img_idx" in optional:
                arguments |= {"label": "region", "img_idx": call.source or 0}
            said.append(_tool_call({"name": name, "arguments": arguments}))
        return "\n".join(said)

    one = rf"<tool_call>{PLAIN}</tool_call>"
    return Grammar(
        read=read,
        write=write,
        opens="<tool_call>",
        closes="</tool_call>",
        several=several != "refuse",
        form=one if several != "all" else rf"{one}(?:\s*{one})*",
        asks=frozenset({"box"}),
        unit=unit,
        frame=frame,
        images="any" if frame == "user" else "one",
    )


def _read_grounding(text: str) -> Reply:
    """Mini-o3: the last `<grounding>` counts."""
    if "<grounding>" not in text:
        return Answer(text)
    bodies = _bodies(text, "grounding")
    if isinstance(bodies, CallError):
        return Malformed(bodies)
    said = _read_json(bodies[-1])
    if isinstance(said, CallError):
        return Malformed(said)
    if not isinstance(said, dict) or set(said) != {"bbox_2d", "source"}:
        return Malformed(CallError.OTHER_ARGUMENTS)
    box = _coordinates(said["bbox_2d"])
    if box is None:
        return Malformed(CallError.NOT_A_BOX)
    # views are numbered in the order of showing, the original image first
    source = said["source"]
    named = re.fullmatch(r"original_image|observation_([1-9]\d{0,3})", source, re.ASCII) if isinstance(source, str) else None
    if named is None:
        return Malformed(CallError.UNKNOWN_VIEW)
    return Request((Call(box=box, source=int(named[1] or 0), unit="fraction", frame="named"),))


def _write_grounding(calls: Calls) -> str:
    source = f"observation_{calls[0].source}" if calls[0].source else "original_image"
    return f"<grounding>{json.dumps({'bbox_2d': list(calls[0].box or ()), 'source': source})}</grounding>"


# ------------------------------------------------------------------------------------------------ regions by id


def _read_crops(text: str) -> Reply:
    """AwaRes: `GET_CROPS: ['0', '5']`; one list, with or without colon and quotes."""
    if "GET_CROPS" not in text:
        return Answer(text)
    if text.count("GET_CROPS") > 1:
        return Malformed(CallError.REPEATED)
    found = re.search(r"GET_CROPS\s*(?::\s*)?\[(.*?)\](\s*[,\[])?", text, re.DOTALL)
    if found is None:
        return Malformed(CallError.UNCLOSED)
    if found[2]:  # a list that goes on behind its end
        return Malformed(CallError.REPEATED)
    names = [re.sub(r"^(['\"])(.*)\1$", r"\2", name.strip(), flags=re.DOTALL).strip() for name in found[1].split(",")]
    if not all(names):
        return Malformed(CallError.UNKNOWN_REGION)
    return Request((Call(regions=tuple(names)),))


def _read_crops_as_released(text: str) -> Reply:
    """As AwaRes' evaluation code reads it: the call opens the reply and has no space, each *character* of the list is an id, and
    whatever is not understood means the whole image."""
    if "GET_CROPS" not in text:
        return Answer(text)
    found = re.match(r"GET_CROPS:?\[(.+?)\]", text)
    characters = found[1].strip().strip("'") if found else ""
    known = bool(characters) and all(c in "012345678" for c in characters)
    return Request((Call(regions=tuple(characters) if known else ("all",)),))


def _write_crops(calls: Calls) -> str:
    quoted = ", ".join(f"'{name}'" for name in calls[0].regions)
    return f"GET_CROPS: [{quoted}]"


def _read_looks(text: str, *, unit: Literal["id", "cell"]) -> Reply:
    """Ours, for small models: `<look>3</look>`, or `<look>2 1 3 2</look>` in visual tokens of the full view. Each region is
    written in a tag of its own, so that it can be one token; several ids in a tag are read as well."""
    if "<look>" not in text:
        return Answer(text)
    bodies = _bodies(text, "look")
    if isinstance(bodies, CallError):
        return Malformed(bodies)
    calls = list[Call]()
    for body in bodies:
        if unit == "id":
            calls += [Call(regions=(name,)) for name in body.split() or ("",)]
            continue
        numbers = [int(part) if re.fullmatch(r"\d{1,4}", part, re.ASCII) else None for part in body.split()]
        if len(numbers) != 4 or None in numbers:
            return Malformed(CallError.NOT_A_BOX)
        calls.append(Call(box=tuple(numbers), unit="cell", frame="original"))  # type: ignore[arg-type]
    return Request(tuple(calls))


def _write_looks(calls: Calls) -> str:
    said = (name for c in calls for name in (c.regions if c.box is None else [" ".join(map(str, c.box))]))
    return "".join(f"<look>{each}</look>" for each in said)


GRAMMARS = {
    "tool_call": Grammar(
        read=_read_resize,
        write=lambda calls: _tool_call(_RESIZE),
        opens="<tool_call>",
        closes="</tool_call>",
        form=rf"<tool_call>{PLAIN}</tool_call>",
        asks=frozenset({"level"}),
    ),
    "level_call": Grammar(
        read=_read_level,
        write=_write_level,
        opens="<tool_call>",
        closes="</tool_call>",
        form=rf"<tool_call>{PLAIN}</tool_call>",
        asks=frozenset({"level"}),
        names_levels=True,
    ),
    # these two ask in running text
    "resize_pair": Grammar(
        read=_read_resize_pair,
        write=lambda calls: "<resize></resize>",
        opens="<resize>",
        closes="</resize>",
        form=rf"{PLAIN}<resize></resize>",
        asks=frozenset({"level"}),
    ),
    "resize_mark": Grammar(
        read=_read_resize_mark,
        write=lambda calls: "<resize>",
        opens="<resize>",
        closes="",
        form=rf"{PLAIN}<resize>",
        asks=frozenset({"level"}),
    ),
    "local_region": _box_tool("request_local_region", (), "refuse", "px", "opening", answer_wins=False),
    "zoom_last": _box_tool("image_zoom_in_tool", ("label",), "last", "px", "original", answer_wins=True),
    "zoom_all": _box_tool("image_zoom_in_tool", ("label",), "all", "px", "original", answer_wins=True),
    "zoom_image": _box_tool("image_zoom_in_tool", ("label", "img_idx"), "all", "permille", "user", answer_wins=False),
    "grounding": Grammar(
        read=_read_grounding,
        write=_write_grounding,
        opens="<grounding>",
        closes="</grounding>",
        several=True,
        form=rf"<grounding>{_PLAIN_TOO}</grounding>",
        plain=_PLAIN_TOO,
        asks=frozenset({"box"}),
        unit="fraction",
        frame="named",
        images="one",
    ),
    "crops": Grammar(
        read=_read_crops,
        write=_write_crops,
        opens="GET_CROPS",
        closes="]",
        form=r"GET_CROPS:? ?\[[^\]]*\]",
        asks=frozenset({"region"}),
        images="one",
        lists_regions=True,
    ),
    "crops_released": Grammar(
        read=_read_crops_as_released,
        write=lambda calls: f"GET_CROPS:['{''.join(calls[0].regions)}']",
        opens="GET_CROPS",
        closes="]",
        form=r"GET_CROPS:?\[[^\]]*\]",
        asks=frozenset({"region"}),
        images="one",
    ),
    "look_ids": Grammar(
        read=functools.partial(_read_looks, unit="id"),
        write=_write_looks,
        opens="<look>",
        closes="</look>",
        several=True,
        lists_regions=True,
        form=r"(?:<look>[^<]*</look>)+",
        plain=_PLAIN_TOO,
        asks=frozenset({"region"}),
        images="one",
    ),
    "look_cells": Grammar(
        read=functools.partial(_read_looks, unit="cell"),
        write=_write_looks,
        opens="<look>",
        closes="</look>",
        several=True,
        form=r"(?:<look>[^<]*</look>)+",
        plain=_PLAIN_TOO,
        asks=frozenset({"box"}),
        unit="cell",
        images="one",
    ),
}

TOOL_RESPONSE = ("<tool_response>", "</tool_response>")
"""Around what a function has returned."""
MARKUP = (
    _tool_call(_RESIZE),
    "<tool_call>",
    "</tool_call>",
    *TOOL_RESPONSE,
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
)
"""Strings a tokenizer may want as single, non-special tokens; the first is a whole request."""
