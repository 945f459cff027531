"""What released code of AwaRes, AdaptVision, DeepEyes and Qwen3-VL's zoom makes of a call, beside what is made of it here.

Run: python benchmarks/released_faults.py [--json]. The released parsers and arithmetics are those that the package has under
names of their own (dialect `awares_released`, menu `adaptvision-released`, `legacy_contains_1`); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from visionthink.action_space import ActionSpace
from visionthink.menu import NAMED
from visionthink.protocol import Protocol, Request
from visionthink.resolution import QWEN2_5_VL, QWEN3_VL
from visionthink.rewards.llm.reply import legacy_contains_1, parse_score
from visionthink.types import Call, CallError

CROPS = ("GET_CROPS: ['3']", "GET_CROPS [3]", "GET_CROPS:['0', '5']", "GET_CROPS:['35']", "GET_CROPS:['3']")
"""The form of AwaRes' README, that of its evaluation's own prompt, two crops, a crop that does not exist, and the only one that
its parser reads."""
MEANT = ("3", "3", "0 and 5", "refused", "3")
SIZES = ((1448, 938), (2048, 1024), (3000, 2000), (4032, 3024))
JUDGED = (("Score: 0. Of the 10 bars only one can be seen.", "0"), ("Score: 1", "1"))
SMALLEST = 30
"""DeepEyes' code refuses a box with a side of so many px or fewer. Qwen-Agent's enlarges every crop to 256 visual tokens at
least, which an image of 512x512 px has in all."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is said, what it means, and what two programs make of it."""

    system: str
    said: str
    meant: str
    released: str
    here: str


def crops(dialect: str, text: str) -> str:
    """Which crops a reply is taken to ask for."""
    reply = Protocol(dialect).parse(text, can_request=True)
    if not isinstance(reply, Request):
        return "refused"
    names = reply.calls[0].regions
    known = set(NAMED["awares"][0].regions.boxes(1000, 1000))
    if not set(names) <= known:
        return "refused"
    return "the whole image" if names == ("all",) else " and ".join(names)


def shown(menu: str, size: tuple[int, int], first: float, last: float) -> str:
    """Where a part of the page lies that is asked for in px of the low view, in percent of its width."""
    space = ActionSpace(NAMED[menu][0], [size], QWEN2_5_VL)
    [view] = space.shown(space.opening)
    at = (first * view.width, first * view.height, last * view.width, last * view.height)
    found = space.resolve([Call(box=at, unit="px", frame="opening")], [view])
    if isinstance(found, CallError):
        return "outside of the page"
    [box] = found.looks[0].boxes
    return f"{100 * box.left / size[0]:.0f} to {100 * box.right / size[0]:.0f} %"


def low_share(menu: str, size: tuple[int, int]) -> str:
    """Visual tokens of the low view relative to the full one."""
    space = ActionSpace(NAMED[menu][0], [size], QWEN2_5_VL)
    return f"{100 * space.tokens(space.opening) / space.full_tokens:.0f} %"


def cut_out(side: int) -> str:
    """Side in px of what DeepEyes' menu cuts out for a square box."""
    space = ActionSpace(NAMED["deepeyes"][0], [(1000, 800)], QWEN2_5_VL)
    found = space.resolve([Call(box=(0, 0, side, side), unit="px", frame="original")], ())
    return "refused" if isinstance(found, CallError) else f"{found.looks[0].boxes[0].width} px"


def zoomed(size: tuple[int, int]) -> str:
    """Visual tokens of a quarter of an image under Qwen3-VL's menu, and of the image."""
    space = ActionSpace(NAMED["qwen3"][0], [size], QWEN3_VL)
    found = space.resolve([Call(box=(0, 0, 500, 500), source=0, unit="permille", frame="user")], ())
    return "not on offer" if isinstance(found, CallError) else f"{space.tokens(found.looks)} tokens of {space.full_tokens}"


def judged(read: Callable[[str], bool | None], reply: str) -> str:
    found = read(reply)
    return "unscored" if found is None else str(int(found))


def cases() -> Iterator[Case]:
    for text, meant in zip(CROPS, MEANT, strict=True):
        released, here = (crops(dialect, text) for dialect in ("awares_released", "awares"))
        yield Case(system="AwaRes", said=f"`{text}`", meant=meant, released=released, here=here)
    menus = ("adaptvision-released", "adaptvision")
    for size in SIZES:
        released, here = (shown(menu, size, 0.4, 0.5) for menu in menus)
        said = f"40 to 50 % of {size[0]}x{size[1]} px"
        yield Case(system="AdaptVision", said=said, meant="40 to 50 %", released=released, here=here)
    scan = (2550, 3300)
    released, here = (shown(menu, scan, 0.7, 0.9) for menu in menus)
    yield Case(system="AdaptVision", said="70 to 90 % of 2550x3300 px", meant="70 to 90 %", released=released, here=here)
    released, here = (low_share(menu, scan) for menu in menus)
    yield Case(system="AdaptVision", said="low view of 2550x3300 px", meant="25 %", released=released, here=here)
    for reply, meant in JUDGED:
        released, here = (judged(read, reply) for read in (legacy_contains_1, parse_score))
        yield Case(system="AdaptVision's crop judge", said=f'"{reply}"', meant=meant, released=released, here=here)
    for side in (24, 40):
        released = "refused" if side <= SMALLEST else f"{side} px"
        meant = f"{max(28, side)} px"
        yield Case(system="DeepEyes", said=f"a box of {side}x{side} px", meant=meant, released=released, here=cut_out(side))
    saves_nothing = {"said": "a quarter of 512x512 px", "meant": "not on offer", "released": "256 tokens of 256"}
    yield Case(system="Qwen3-VL's zoom", here=zoomed((512, 512)), **saves_nothing)


def table() -> list[str]:
    """Lines of Markdown; what is not as it was meant is in bold."""

    def cell(found: str, meant: str) -> str:
        return found if found == meant else f"**{found}**"

    rows = [f"| {c.system} | {c.said} | {c.meant} | {cell(c.released, c.meant)} | {cell(c.here, c.meant)} |" for c in cases()]
    return ["| system | said | means | the released code | here |", "|---|---|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="the same: it takes no time")
    options = parser.parse_args()
    found = list(cases())
    ours, theirs = (sum(getattr(c, name) == c.meant for c in found) for name in ("here", "released"))
    if options.json:
        counts = {"ours": {"as meant": ours}, "peer": {"as meant": theirs}, "bound": {"as meant": len(found)}}
        record = {"ratio": {"as meant": ours / theirs}, **counts, "cases": [asdict(c) for c in found]}
        sys.stdout.write(json.dumps(record) + "\n")
        return
    sys.stdout.write("\n".join([*table(), "", f"as meant: {theirs} of {len(found)} released, {ours} here", ""]))


if __name__ == "__main__":
    main()
