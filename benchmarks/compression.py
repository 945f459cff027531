"""Methods of compression beside the plain model and beside a smaller image: time, keys and values, and error, in one run.

Run: python benchmarks/compression.py [--quick] [--json] [--model tiny|wide|both] [--device cpu|cuda]

Every round reads one prompt with every method: the plain model, then a method at each share, the plain model, the next method,
and so on. A ratio is that of a reading to the plain one before it; times and ratios are medians over rounds.

    prefill  one forward pass over the prompt, with the vision tower and the opening of a session; the first reading of a method
             also counts what choosing tokens takes
    decode   a step for one token behind the prompt; the tokens are those that the plain model says
    cache    bytes of all keys and values when the prompt was read
    resize   the plain model on an image with about that share of the tokens: a peer that spares the vision tower, too
    kl       KL(plain || method) in nats, averaged over the next token and those of the decode steps; `kl_next` the next one alone
    agree    prompts for which each of these tokens is the likeliest with both

The tiny model was trained on images of 16 visual tokens; at that length its errors say something about a method, on enlarged
images less. Random weights hardly look at images: the errors of the wide model say nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import compression_break_even
import compression_prompts as prompts
import compression_table
import torch
import transformers
from compression_clock import Reading, hook_cost, read

from visionthink.compress.names import NAMES, parse
from visionthink.errors import CompressionError, OptionError
from visionthink.evals.flops import Architecture, decoder_flops, vision_flops

KEEPS = (0.25, 0.5, 0.7)
HOOKS_BOUND = 1.01
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    lengths: tuple[int, ...]
    """Visual tokens."""
    least: int
    most: int
    """Rounds for each length; between the two, as many as `seconds` allow."""
    seconds: float
    steps: int
    """Tokens behind each prompt."""
    repeats: int
    """Of what the hooks cost."""


PLANS = {
    ("tiny", True): Plan(lengths=(16, 64), least=2, most=2, seconds=0, steps=3, repeats=5),
    ("tiny", False): Plan(lengths=(16, 64, 256), least=16, most=16, seconds=0, steps=3, repeats=200),
    ("wide", True): Plan(lengths=(64, 256), least=1, most=3, seconds=15, steps=1, repeats=3),
    ("wide", False): Plan(lengths=(64, 256, 576, 1024), least=3, most=9, seconds=90, steps=2, repeats=20),
}


def measured(model: Any, given: Sequence[prompts.Prompt], plan: Plan, label: str) -> list[Row]:
    """A row per method and share, or why there is none."""
    readings: dict[tuple[str, float], list[tuple[Reading, Reading]]] = {}
    reasons: dict[tuple[str, float], str] = {}
    flops: dict[tuple[str, float], dict[Hashable, int]] = defaultdict(dict)
    read(model, given[0].inputs, 1)  # for warmth
    started, rounds = time.perf_counter(), 0
    for prompt in given:
        if rounds >= plan.least and time.perf_counter() - started > plan.seconds:
            break
        said = None
        for family in (*NAMES, "resize"):
            sys.stderr.write(f"{label}: round {rounds + 1}, {family}\n")
            plain = read(model, prompt.inputs, plan.steps, said=said)
            said = plain.said
            readings.setdefault(("plain", 1), []).append((plain, plain))
            for keep in KEEPS:
                resized = family == "resize"
                try:
                    method = None if resized else parse(f"{family}:{keep}")
                    inputs = prompt.resized[keep] if resized else prompt.inputs
                    found = read(model, inputs, plan.steps, method, said, flops[family, keep])
                except (OptionError, CompressionError) as error:
                    reasons[family, keep] = str(error)
                    continue
                readings.setdefault((family, keep), []).append((found, plain))
        rounds += 1
    rows = [_row(method, keep, pairs, given[0].comparable or method != "resize") for (method, keep), pairs in readings.items()]
    return rows + [{"method": method, "keep": keep, "reason": reason} for (method, keep), reason in reasons.items()]


def _row(method: str, keep: float, pairs: Sequence[tuple[Reading, Reading]], comparable: bool) -> Row:
    def median(of: Callable[[Reading, Reading], float]) -> float:
        return statistics.median(of(ours, plain) for ours, plain in pairs)

    ours, plain = pairs[0]
    row: Row = {
        "method": method,
        "keep": keep,
        "readings": len(pairs),
        "retained": statistics.mean(r.retained * r.visual / p.visual for r, p in pairs),
        "prefill_ms": 1000 * median(lambda r, p: r.prefill),
        "prefill_ratio": median(lambda r, p: r.prefill / p.prefill),
        "decode_ms": 1000 * median(lambda r, p: r.step),
        "decode_ratio": median(lambda r, p: r.step / p.step),
        "cache_bytes": ours.cache_bytes,
        "cache_ratio": ours.cache_bytes / plain.cache_bytes,
        "selection_flops": ours.selection_flops,
    }
    if ours.peak_bytes is not None and plain.peak_bytes is not None:
        row |= {"peak_bytes": ours.peak_bytes, "peak_ratio": ours.peak_bytes / plain.peak_bytes}
    if comparable:
        kl = [(p.logprobs.exp() * (p.logprobs - r.logprobs)).sum(-1) for r, p in pairs]
        same = [bool((p.logprobs.argmax(-1) == r.logprobs.argmax(-1)).all()) for r, p in pairs]
        row |= {"kl": float(torch.cat(kl).mean()), "kl_next": float(torch.stack(kl)[:, 0].mean()), "agree": sum(same)}
    return row


def faster_from(rows: Sequence[Row]) -> dict[str, int | None]:
    """By method: the shortest image from which on its prefill was faster than the plain one, at that length and every longer."""
    found: dict[str, int | None] = {}
    slow: set[str] = set()
    compared = [r for r in rows if "prefill_ratio" in r and r["method"] != "plain"]
    for row in sorted(compared, key=lambda r: -r["visual_tokens"]):
        name = _name(row)
        if row["prefill_ratio"] >= 1:
            slow.add(name)
        found[name] = found.get(name) if name in slow else row["visual_tokens"]
    return found


def _name(row: Row) -> str:
    return f"{row['method']}:{row['keep']:g}"


def tower_share(model: Any, inputs: dict[str, Any]) -> float:
    """Of the operations of a prefill."""
    shape = Architecture.of(model.config)
    _, rows, columns = inputs["image_grid_thw"][0].tolist()
    tower = vision_flops(shape.vision, columns * shape.vision.patch, rows * shape.vision.patch, shape.decoder.hidden)
    return tower / (tower + decoder_flops(shape.decoder, inputs["input_ids"].shape[1]))


def of_model(name: str, device: str, plan: Plan) -> dict[str, Any]:
    """All rows of one model, and what hooks cost it."""
    model, made = prompts.opened(name, device)
    shape = Architecture.of(model.config)
    about = {"dtype": str(model.dtype), "layers": shape.decoder.layers, "vision_blocks": shape.vision.layers}
    # first: later the model is no longer one that no session was open on
    given = made(plan.lengths[0], 1, ())
    sys.stderr.write(f"{name}: hooks\n")
    hooks = {"visual_tokens": plan.lengths[0], **hook_cost(model, given[0].inputs, plan.repeats, plan.steps)}
    rows, shares = list[Row](), {}
    for visual in plan.lengths:
        given = made(visual, plan.most, KEEPS)
        shares[visual] = tower_share(model, given[0].inputs)
        rows += [{"model": name, "visual_tokens": visual, **row} for row in measured(model, given, plan, f"{name}, {visual}")]
    return {"about": about | {"tower_share": shares}, "rows": rows, "hooks": hooks}


def result(models: dict[str, dict[str, Any]], device: str) -> dict[str, Any]:
    rows = [row for found in models.values() for row in found["rows"]]
    ratio: dict[str, dict[str, float]] = {}
    for row in rows:
        if "prefill_ratio" in row and row["method"] != "plain":
            ratio.setdefault(f"{row['model']} {row['visual_tokens']}", {})[_name(row)] = row["prefill_ratio"]
    wide = [row for row in rows if row["model"] == "wide"]
    return {
        "ratio": ratio,
        "ours": [row for row in rows if row["method"] in NAMES],
        "peer": [row for row in rows if row["method"] not in NAMES],
        "bound": {"hooks": HOOKS_BOUND},
        "hooks": {name: found["hooks"] for name, found in models.items()},
        "faster_from": faster_from(wide),
        "break_even": compression_break_even.table(NAMES, KEEPS),
        "models": {name: found["about"] for name, found in models.items()},
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="short images and few rounds: about two minutes on two cores")
    parser.add_argument("--model", choices=("tiny", "wide", "both"), default="both")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    names = ("tiny", "wide") if options.model == "both" else (options.model,)
    found = result({name: of_model(name, options.device, PLANS[name, options.quick]) for name in names}, options.device)
    sys.stdout.write((json.dumps(found) if options.json else compression_table.text(found)) + "\n")


if __name__ == "__main__":
    main()
