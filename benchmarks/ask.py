"""What answering costs: at full resolution and adaptively, by our engine and by `generate` of stock transformers.

Run: OMP_NUM_THREADS=1 python benchmarks/ask.py [--quick] [--json] [--shape tiny wide] [--repeats 5]

CPU milliseconds of a question, images opened and prepared: the median of the repeats, and the least and the most. The ways take
turns. Beside each ratio stands that of the floating-point operations (`visionthink.evals.cost`), which is what sharing can bring
where everything else takes no time. `tiny` is the embedded model, which asks where it will. `wide` has random weights, so that a
script says which questions ask (7 of 20) and what is answered, after the model has sampled as many tokens.

The second table is prefill alone, one token an answer: a question that asks, against its low view alone and its full view alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from step_work import WIDE, random_model
from transformers import AutoModelForImageTextToText

from visionthink import Completion, Example, Protocol
from visionthink.data import synth
from visionthink.evals.cost import episode_cost
from visionthink.evals.flops import Architecture
from visionthink.menu import menu_for
from visionthink.model import Model
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.transcript import Transcript
from visionthink.types import History, turns_taken

ASKING, OF = 7, 20
"""Questions of the wide shape that ask."""
SHAPES = ("tiny", "wide")
WORDS = " colour is the number left right shape dark faint many".split()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Questions to a model, and how many are answered together."""

    examples: Sequence[Example]
    batches: tuple[int, ...]
    answer: int
    """Tokens at most, and exactly where a script speaks."""
    scripted: bool


class Scripted:
    """What a model with random weights says, after it has said as much of its own; the clock runs only for the model."""

    def __init__(self, policy: LocalPolicy, protocol: Protocol, asks: Callable[[History], bool] | None):
        self.policy, self._protocol, self._asks = policy, protocol, asks
        self.seconds = 0.0

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        begun = time.process_time()
        said = self.policy.complete(histories)
        self.seconds += time.process_time() - begun
        if self._asks is None:
            return said
        return [self._said(history, completion) for history, completion in zip(histories, said, strict=True)]

    def _said(self, history: History, completion: Completion) -> Completion:
        assert self._asks is not None
        asks = turns_taken(history) == 0 and self._asks(history)
        text = self._protocol.request() if asks else self._protocol.format_answer("0")
        return self.policy.renderer.dress(
            dataclasses.replace(completion, text=text, finish_reason="stop", token_ids=(), prompt_ids=(), logprobs=()), history
        )


def of_wide(count: int) -> list[Example]:
    """Questions of 150 words about images of 672 x 672 px: 576 visual tokens, and 144 in the low view."""
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = Image.fromarray(rng.integers(0, 256, (672, 672, 3), np.uint8))
        asking = "ask" if (i * ASKING) % OF < ASKING else "answer"
        found.append(Example(str(i), " ".join([asking, *rng.choice(WORDS, 150)]), image, answer="0"))
    return found


def asks(history: History) -> bool:
    """Whether a question of the wide shape does."""
    return any(isinstance(part, str) and "ask " in part for message in history for part in message.content)


@contextmanager
def checkpoints(shape: str) -> Iterator[dict[str, Checkpoint]]:
    """Ours, and the same with the model as transformers loads it."""
    with tempfile.TemporaryDirectory() as folder:
        ours = open_checkpoint("tiny" if shape == "tiny" else random_model(WIDE, Path(folder) / "model"))
        stock = AutoModelForImageTextToText.from_pretrained(ours.path, dtype=torch.float32).eval()
        yield {"stock": dataclasses.replace(ours, model=stock), "ours": ours}


def speaking(checkpoint: Checkpoint, shape: Shape, *, answer: int, script: Callable[[History], bool] | None = None) -> Model:
    policy = Scripted(LocalPolicy(checkpoint, max_new_tokens=answer), checkpoint.protocol, script)
    return Model(policy, checkpoint.protocol, menu_for(checkpoint.protocol.dialect), checkpoint.budget)


def run(model: Model, examples: Sequence[Example], batch: int, levels: tuple[float, ...]) -> tuple[float, list[Transcript]]:
    """CPU milliseconds of a question, and what happened."""
    menu = model.menu.with_levels(levels)
    begun, said = time.process_time(), list[Transcript]()
    for i in range(0, len(examples), batch):
        said += model.run(examples[i : i + batch], menu)
    return 1000 * (time.process_time() - begun) / len(examples), said


def operations(said: Sequence[Transcript], architecture: Architecture, *, cached: bool) -> float:
    """Of all episodes; `cached` where a round goes on from the one before."""
    costs = [episode_cost(each, architecture) for each in said]
    return float(sum(cost.flops_cached if cached else cost.flops for cost in costs if cost))


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def answered(shape: Shape, opened: dict[str, Checkpoint], repeats: int) -> list[dict[str, object]]:
    """A record for each size of batch and kind."""
    script = asks if shape.scripted else None
    models = {way: speaking(checkpoint, shape, answer=shape.answer, script=script) for way, checkpoint in opened.items()}
    architecture = Architecture.of(opened["ours"].model.config)
    records: list[dict[str, object]] = []
    for batch in shape.batches:
        took: dict[tuple[str, str], list[float]] = {}
        work: dict[tuple[str, str], float] = {}
        for _ in range(repeats):
            for kind, levels in (("full", (1.0,)), ("adaptive", (0.25, 1.0))):
                ids = []
                for way, model in models.items():
                    milliseconds, said = run(model, shape.examples, batch, levels)
                    took.setdefault((kind, way), []).append(milliseconds)
                    work[kind, way] = operations(said, architecture, cached=way == "ours")
                    ids.append([each.token_ids for each in said])
                assert ids[0] == ids[1], "the ways do not say the same"
                asking = sum(each.requested for each in said) / len(said)
        for kind in ("full", "adaptive"):
            stock, ours = took[kind, "stock"], took[kind, "ours"]
            records.append(
                {
                    "batch": batch,
                    "kind": kind,
                    "asked": asking if kind == "adaptive" else 0.0,
                    "stock_ms": spread(stock),
                    "ours_ms": spread(ours),
                    "ratio": statistics.median(a / b for a, b in zip(stock, ours, strict=True)),
                    "ratio_of_operations": work[kind, "stock"] / work[kind, "ours"],
                    "of_full": statistics.median(a / b for a, b in zip(ours, took["full", "ours"], strict=True)),
                    "of_full_operations": work[kind, "ours"] / work["full", "ours"],
                }
            )
    return records


def prefilled(shape: Shape, opened: dict[str, Checkpoint], repeats: int) -> list[dict[str, object]]:
    """Of questions that ask, one after the other, what the model takes for prompts."""
    architecture, records = Architecture.of(opened["ours"].model.config), []
    for way, checkpoint in opened.items():
        took: dict[str, list[float]] = {"low": [], "full": [], "both": []}
        work: dict[str, float] = {}
        for _ in range(repeats):
            for kind, levels in (("low", (0.25,)), ("full", (1.0,)), ("both", (0.25, 1.0))):
                model = speaking(checkpoint, shape, answer=1, script=lambda _, kind=kind: kind == "both")
                _, said = run(model, shape.examples[:OF], 1, levels)
                took[kind].append(1000 * model.policy.seconds / len(said))  # type: ignore[attr-defined]
                work[kind] = operations(said, architecture, cached=way == "ours")
        share = [both / (low + full) for low, full, both in zip(*took.values(), strict=True)]
        records.append(
            {
                "way": way,
                **{f"{kind}_ms": spread(values) for kind, values in took.items()},
                "share": statistics.median(share),
                "share_of_operations": work["both"] / (work["low"] + work["full"]),
            }
        )
    return records


def shape_of(name: str, *, quick: bool) -> Shape:
    if name == "tiny":
        return Shape(examples=synth.suite(6 if quick else 120), batches=(1, 64), answer=8, scripted=False)
    return Shape(examples=of_wide(3 if quick else OF), batches=(1, 10), answer=12, scripted=True)


def told(values: dict[str, float]) -> str:
    return f"{values['median']:.1f} ({values['least']:.1f} to {values['most']:.1f})"


def page(found: dict[str, dict[str, list[dict]]]) -> str:
    """Both tables."""
    lines = [
        "| model, batch | | stock, ms | ours, ms | stock / ours | by operations | ours / full | by operations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape, tables in found.items():
        for r in tables["answered"]:
            kind = r["kind"] if r["kind"] == "full" else f"adaptive, {100 * r['asked']:.0f} % ask"
            lines.append(
                f"| {shape}, {r['batch']} | {kind} | {told(r['stock_ms'])} | {told(r['ours_ms'])} | {r['ratio']:.2f} "
                f"| {r['ratio_of_operations']:.2f} | {r['of_full']:.2f} | {r['of_full_operations']:.2f} |"
            )
    lines += [
        "",
        "| model | way | low alone, ms | full alone, ms | low, then full, ms | of both alone | by operations |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape, tables in found.items():
        for r in tables["prefilled"]:
            each = " | ".join(told(r[f"{kind}_ms"]) for kind in ("low", "full", "both"))
            lines.append(f"| {shape} | {r['way']} | {each} | {r['share']:.2f} | {r['share_of_operations']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES, help="default: both")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few questions, once")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.getLogger("visionthink").setLevel(logging.ERROR)
    repeats, found = 1 if options.quick else options.repeats, {}
    for name in options.shape:
        shape = shape_of(name, quick=options.quick)
        with checkpoints(name) as opened:
            found[name] = {"answered": answered(shape, opened, repeats), "prefilled": prefilled(shape, opened, repeats)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else page(found))


if __name__ == "__main__":
    main()
