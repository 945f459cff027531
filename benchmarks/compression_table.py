"""What `compression.py` found, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
HEAD = f"{'method':18}{'left':>7}{'prefill':>12}{'ratio':>8}{'token':>12}{'ratio':>8}{'cache':>11}{'ratio':>8}"


def text(found: dict[str, Any]) -> str:
    return "\n".join((*_rows(found), *_hooks(found), *_faster(found), *_break_even(found)))


def _rows(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['device']}, torch {found['versions']['torch']}, transformers {found['versions']['transformers']}"
    rows = [*found["peer"], *found["ours"]]
    for model, about in found["models"].items():
        for visual, share in about["tower_share"].items():
            here = [r for r in rows if r["model"] == model and r["visual_tokens"] == int(visual)]
            size = f"{about['layers']} decoder layers, {about['vision_blocks']} vision blocks, {about['dtype']}"
            yield f"\n{model}, {visual} visual tokens; {size}; {share:.0%} of the operations are the tower's"
            yield (
                HEAD
                + ("" if model == "wide" else f"{'KL':>10}{'agree':>8}")
                + (f"{'peak':>8}" if "peak_ratio" in here[0] else "")
            )
            yield from map(_row, here)


def _row(row: Row) -> str:
    name = f"{row['method']}:{row['keep']:g}" if row["method"] != "plain" else "plain"
    if "reason" in row:
        return f"{name:18} {row['reason']}"
    line = f"{name:18}{row['retained']:7.1%}"
    line += f"{row['prefill_ms']:9.1f} ms{row['prefill_ratio']:8.3f}{row['decode_ms']:9.2f} ms{row['decode_ratio']:8.3f}"
    line += f"{row['cache_bytes'] / 2**20:7.2f} MiB{row['cache_ratio']:8.3f}"
    if row["model"] != "wide":  # random weights hardly look at images
        line += f"{row['kl']:10.4f}{row['agree']:4}/{row['readings']}"
    return line + (f"{row['peak_ratio']:8.3f}" if "peak_ratio" in row else "")


def _hooks(found: dict[str, Any]) -> Iterator[str]:
    yield f"\nhooks: ratio to modules that no session touched (95 % interval of the median); bound {found['bound']['hooks']}"
    for model, hooks in found["hooks"].items():
        yield f"{model}, {hooks['visual_tokens']} visual tokens: {hooks['hooks_left']} hooks left after a session"
        for state, what in (("closed", "session closed"), ("open", "session open, keeps all")):
            parts = [f"{kind} {x['median']:.4f} ({x['low']:.4f} to {x['high']:.4f})" for kind, x in hooks[state].items()]
            yield f"  {what:26}" + ", ".join(parts)


def _faster(found: dict[str, Any]) -> Iterator[str]:
    if not found["faster_from"]:
        return
    longest = max(map(int, found["models"]["wide"]["tower_share"]))
    yield "\nwide: prefill faster than plain from so many visual tokens on"
    for name, visual in found["faster_from"].items():
        yield f"  {name:18}{visual if visual is not None else f'not faster up to {longest}'}"


def _break_even(found: dict[str, Any]) -> Iterator[str]:
    yield "\nQwen2.5-VL-7B by formula, prefill only: operations in % of the full view, and in brackets the rate of requests below"
    yield "which adaptive resolution is cheaper (its second round reads everything again / finds the first in a cache)"
    for image in found["break_even"]:
        size = f"{image['visual_tokens']} visual tokens, {image['plain_tflop']:.2f} TFLOP"
        yield f"\n{image['image']}, {size}, {image['tower_share']:.0%} of them the tower's"
        yield f"  quarter {image['direct']:.1%}, then full {image['request']:.1%} / {image['request_cached']:.1%}"
        yield f"  {'plain':20}{_rate(1, image['full_rate'], image['full_rate_cached'])}"
        families: dict[str, list[str]] = {}
        for row in image["methods"]:
            family, _, keep = row["method"].partition(":")
            cell = row.get("reason") or _rate(row["flops"], row["rate"], row["rate_cached"])
            families.setdefault(family, []).append(f"{float(keep):4g}: {cell}")
        yield from (f"  {family:14}" + "".join(cells).rstrip() for family, cells in families.items())


def _rate(flops: float, rate: float, cached: float) -> str:
    return f"{flops:6.1%} ({rate:.1%} / {cached:.1%})".ljust(26)
