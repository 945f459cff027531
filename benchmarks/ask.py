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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from step_table import contract, spread
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
KINDS = {"full": (1.0,), "adaptive": (0.25, 1.0)}
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


def speaking(way: str, checkpoint: Checkpoint, *, answer: int, script: Callable[[History], bool] | None) -> Model:
    policy = LocalPolicy(checkpoint, max_new_tokens=answer)
    said = Scripted(policy.reading_whole() if way == "stock" else policy, checkpoint.protocol, script)
    return Model(said, checkpoint.protocol, menu_for(checkpoint.protocol.dialect), checkpoint.budget)


def run(model: Model, examples: Sequence[Example], batch: int, levels: tuple[float, ...]) -> tuple[float, list[Transcript]]:
    """CPU seconds of a question, and what happened."""
    menu = model.menu.with_levels(levels)
    begun, said = time.process_time(), list[Transcript]()
    for i in range(0, len(examples), batch):
        said += model.run(examples[i : i + batch], menu)
    return (time.process_time() - begun) / len(examples), said


def operations(said: Sequence[Transcript], architecture: Architecture, *, cached: bool) -> float:
    """Of all episodes; `cached` where a round goes on from the one before."""
    costs = [episode_cost(each, architecture) for each in said]
    return float(sum(cost.flops_cached if cached else cost.flops for cost in costs if cost))


def answered(name: str, shape: Shape, opened: dict[str, Checkpoint], repeats: int) -> list[dict[str, Any]]:
    """A row for each size of batch and kind."""
    script = asks if shape.scripted else None
    models = {way: speaking(way, checkpoint, answer=shape.answer, script=script) for way, checkpoint in opened.items()}
    architecture = Architecture.of(opened["ours"].model.config)
    rows: list[dict[str, Any]] = []
    for batch in shape.batches:
        took: dict[tuple[str, str], list[float]] = {}
        work: dict[tuple[str, str], float] = {}
        for _ in range(repeats):
            for kind, levels in KINDS.items():
                ids = []
                for way, model in models.items():
                    seconds, said = run(model, shape.examples, batch, levels)
                    took.setdefault((kind, way), []).append(seconds)
                    work[kind, way] = operations(said, architecture, cached=way == "ours")
                    ids.append([each.token_ids for each in said])
                assert ids[0] == ids[1], "the ways do not say the same"
                asked = sum(each.requested for each in said) / len(said)
        for kind in KINDS:
            rows.append(
                {
                    "name": f"{name}, batch {batch}, {kind}",
                    "asked": asked if kind == "adaptive" else 0.0,
                    "cpu_seconds": {way: spread(took[kind, way], 5) for way in models},
                    "ratio": {"stock": ratio(took[kind, "stock"], took[kind, "ours"])},
                    "bound": round(work[kind, "stock"] / work[kind, "ours"], 2),
                    "of_full": ratio(took[kind, "ours"], took["full", "ours"]),
                    "of_full_bound": round(work[kind, "ours"] / work["full", "ours"], 2),
                }
            )
    return rows


def prefilled(name: str, shape: Shape, opened: dict[str, Checkpoint], repeats: int) -> list[dict[str, Any]]:
    """What the model takes for the prompts of questions that ask, one question after the other."""
    architecture, rows = Architecture.of(opened["ours"].model.config), []
    for way, checkpoint in opened.items():
        took: dict[str, list[float]] = {"low": [], "full": [], "both": []}
        work: dict[str, float] = {}
        for _ in range(repeats):
            for kind, levels in (("low", (0.25,)), ("full", (1.0,)), ("both", (0.25, 1.0))):
                model = speaking(way, checkpoint, answer=1, script=lambda _, kind=kind: kind == "both")
                _, said = run(model, shape.examples[:OF], 1, levels)
                took[kind].append(model.policy.seconds / len(said))  # type: ignore[attr-defined]
                work[kind] = operations(said, architecture, cached=way == "ours")
        rows.append(
            {
                "name": f"{name}, {way}",
                "cpu_seconds": {kind: spread(values, 5) for kind, values in took.items()},
                "of_both_alone": ratio(took["both"], [sum(pair) for pair in zip(took["low"], took["full"], strict=True)]),
                "bound": round(work["both"] / (work["low"] + work["full"]), 2),
            }
        )
    return rows


def shape_of(name: str, *, quick: bool) -> Shape:
    if name == "tiny":
        return Shape(examples=synth.suite(6 if quick else 120), batches=(1, 64), answer=8, scripted=False)
    return Shape(examples=of_wide(3 if quick else OF), batches=(1, 10), answer=12, scripted=True)


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Of the turns, in pairs."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def milliseconds(seconds: dict[str, float]) -> str:
    return f"{1000 * seconds['median']:.1f} ({1000 * seconds['min']:.1f}-{1000 * seconds['max']:.1f})"


def page(found: dict[str, Any]) -> str:
    """Both tables."""
    lines = ["| row | stock, ms | ours, ms | stock / ours | bound | ours / full | bound |", "|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        name = row["name"] + (f", {100 * row['asked']:.0f} % ask" if row["asked"] else "")
        each = " | ".join(milliseconds(row["cpu_seconds"][way]) for way in ("stock", "ours"))
        ratios = f"{row['ratio']['stock']['median']:.2f} | {row['bound']:.2f} | {row['of_full']['median']:.2f}"
        lines.append(f"| {name} | {each} | {ratios} | {row['of_full_bound']:.2f} |")
    lines += [
        "",
        "| prefill | low alone, ms | full alone, ms | low, then full, ms | ratio | bound |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["prefill"]:
        each = " | ".join(map(milliseconds, row["cpu_seconds"].values()))
        lines.append(f"| {row['name']} | {each} | {row['of_both_alone']['median']:.2f} | {row['bound']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES, help="default: both")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a few questions, once")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.getLogger("visionthink").setLevel(logging.ERROR)
    repeats, rows, prefill = 1 if options.quick else options.repeats, [], []
    for name in options.shape:
        shape = shape_of(name, quick=options.quick)
        with checkpoints(name) as opened:
            rows += answered(name, shape, opened, repeats)
            prefill += prefilled(name, shape, opened, repeats)
    found = contract(rows, "stock") | {"prefill": prefill}
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else page(found))


if __name__ == "__main__":
    main()
