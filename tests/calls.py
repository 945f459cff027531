"""Random things that a model might say, for tests of the parsers and of the geometry."""

from __future__ import annotations

import json
from random import Random

from visionthink import chatml
from visionthink.protocol import DIALECTS, Protocol
from visionthink.types import Call

WILD = (
    '-1 -7.5 0 -0.0 1e400 -1e400 NaN Infinity -Infinity true false null "12" "" [1] [[[[1]]]] {} 1e-320 1e308 -1e308 '
    "123456789012345678901234567890 0.1 999 1000 1001 007 1_000 ５ 0x10"
).split()
IDS = (*map(str, range(18)), "all", "x", "-1", "3.0", "٣", "５", "", "'", "all all", "0 1", "true", "[0]")
RANGE = {"permille": 1000.0, "fraction": 1.0, "cell": 12.0}


def spoken(dialect: str, size: tuple[int, int], rng: Random) -> str:
    """A call in a dialect, most of which make sense for an image of this size; many do not."""
    grammar = DIALECTS[dialect].call
    if grammar == "tool_call":
        return _tool_call("resize_image", {"action": '"resize"'}, rng)
    if grammar == "level_call":
        level = rng.choice(('"full"', "1", "0.25", "0.0625", "0.5", *WILD))
        return _tool_call("resize_image", {"action": '"resize"', "level": level}, rng)
    if grammar in ("crops", "crops_released"):
        quote = rng.choice(("'", "'", '"', ""))
        ids = rng.choice((", ", ",", "")).join(f"{quote}{_id(rng)}{quote}" for _ in range(rng.choice((1, 1, 2, 3, 12))))
        return f"GET_CROPS{rng.choice((': ', ':', ' ', ''))}[{ids}]"
    if grammar == "look_ids":
        return "".join(f"<look>{_id(rng)}</look>" for _ in range(rng.choice((1, 1, 2, 18))))
    unit = DIALECTS[dialect].grammar.unit
    if grammar == "look_cells":
        return f"<look>{' '.join(_box(unit, size, rng))}</look>"
    box = f"[{', '.join(_box(unit, size, rng))}]" if rng.random() < 0.97 else rng.choice(WILD)
    if grammar == "grounding":
        source = rng.choice(('"original_image"', '"original_image"', '"observation_1"', '"observation_2"', '"image"', *WILD))
        return f"<grounding>{_object({'bbox_2d': box, 'source': source}, rng)}</grounding>"
    name = "request_local_region" if grammar == "local_region" else "image_zoom_in_tool"
    fields = {"bbox_2d": box}
    if grammar == "zoom_image":
        fields |= {"label": rng.choice(('"sign"', '"sign"', "3")), "img_idx": rng.choice(("0", "0", "1", "2.0", *WILD))}
    return _tool_call(name, fields, rng) * rng.choice((1, 1, 1, 2))


def _tool_call(name: str, arguments: dict[str, str], rng: Random) -> str:
    return f"<tool_call>{_object({'name': json.dumps(name), 'arguments': _object(arguments, rng)}, rng)}</tool_call>"


def _object(fields: dict[str, str], rng: Random) -> str:
    """JSON of fields that are written already, one of which may be missing."""
    kept = [f'"{name}": {value}' for name, value in fields.items() if rng.random() < 0.985]
    return "{" + ", ".join(kept) + "}"


def _id(rng: Random) -> str:
    return rng.choice(IDS[:10] if rng.random() < 0.8 else IDS)


def _box(unit: str, size: tuple[int, int], rng: Random) -> list[str]:
    width, height = (RANGE.get(unit, side) * rng.uniform(0.6, 1.3) for side in size)
    (x1, x2), (y1, y2) = (sorted((rng.random() * side, rng.random() * side)) for side in (width, height))
    if rng.random() < 0.05:
        x1, x2 = x2, x1
    digits = rng.choice((0, 0, 1, 3)) if unit != "fraction" else rng.choice((2, 3, 17))
    said = [str(round(value, digits) if digits else round(value)) for value in (x1, y1, x2, y2)]
    if rng.random() < 0.2:
        said[rng.randrange(4)] = rng.choice(WILD)
    return said if rng.random() < 0.97 else said[: rng.randrange(4)] * rng.choice((1, 2))


def canonical(dialect: str, rng: Random) -> str:
    """A call as demonstrations have it, thinking before it."""
    grammar, protocol = DIALECTS[dialect].grammar, Protocol(dialect)
    box = tuple(sorted(rng.randrange(10) for _ in range(4)))
    call = Call(box=box, source=rng.randrange(3), unit=grammar.unit, frame=grammar.frame)
    if DIALECTS[dialect].call in ("crops", "crops_released", "look_ids"):
        call = Call(regions=tuple(rng.sample("012345678", rng.choice((1, 2)))))
    elif "level" in grammar.asks:
        call = Call(level=0.25) if DIALECTS[dialect].call == "level_call" and rng.random() < 0.5 else Call()
    calls = [call] * (2 if DIALECTS[dialect].call in ("zoom_all", "zoom_image", "look_ids", "look_cells") else 1)
    return f"{'<think>small</think>' if DIALECTS[dialect].thinks else ''}{protocol.request(*calls)}"


PIECES = (
    *(f"<{'/' * closed}{tag}>" for tag in ("think", "answer", "tool_call", "grounding", "look", "resize") for closed in (0, 1)),
    *"GET_CROPS|[|]|{|}|\"|'|,|:|\\|\n|\t| |\0|５|٣|é|\ud83d|all|-|e9|.|[[|null|true|NaN|1e400|observation_1".split("|"),
    *(json.dumps(name) + ": " for name in ("name", "arguments", "bbox_2d", "img_idx", "label", "source", "level", "action")),
    *("<answer>5</answer>", chatml.TURN_END),
)


def mutated(text: str, rng: Random) -> str:
    """A text after one change or several."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        kind = rng.randrange(8)
        if kind == 0:  # delete a character
            text = text[:i] + text[i + 1 :]
        elif kind == 1:  # insert a piece
            text = text[:i] + rng.choice(PIECES) + text[i:]
        elif kind == 2 and i + 1 < len(text):  # swap two neighbours
            text = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
        elif kind == 3:  # repeat a part, a tag for instance
            text = text[:j] + text[i:j] + text[j:]
        elif kind == 4:  # cut off
            text = text[:j] if rng.random() < 0.5 else text[i:]
        elif kind == 5:  # digits of another script
            text = text[:i] + text[i:j].translate(FULL_WIDTH) + text[j:]
        elif kind == 6:  # nesting
            depth = rng.choice((1, 2, 50, 3000)) if rng.random() < 0.1 else 1
            opening, closing = rng.choice(("[]", "{}", ('{"a":', "}")))
            text = text[:i] + opening * depth + text[i:j] + closing * depth + text[j:]
        else:  # put a piece in the place of a part
            text = text[:i] + rng.choice(PIECES) + text[min(j, i + 3) :]
    return text


FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
