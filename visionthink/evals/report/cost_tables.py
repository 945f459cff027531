"""Tables of the cost of an example, and of the request ratio below which adaptive resolution costs less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.evals.report.cells import Cell, Table, count, number, percent
from visionthink.evals.report.runs import Run

_FEW = 300
_WARM_UP = f"Seconds include the time to warm the model up: do not compare those of runs of fewer than {_FEW} examples."


def costs(runs: Sequence[Run]) -> Table:
    giga, kilo = 1e-9, 1e-3
    figures: dict[str, tuple[str, float, int]] = {
        "visual tokens": ("visual_tokens", 1, 1),
        "text tokens": ("text_tokens", 1, 1),
        "output tokens": ("output_tokens", 1, 1),
        "prompt tokens": ("prefill_tokens", 1, 1),
        "prompt tokens, cached": ("prefill_tokens_cached", 1, 1),
        "GFLOP": ("flops", giga, 3),
        "GFLOP, cached": ("flops_cached", giga, 3),
        "GFLOP, vision tower": ("vision_flops", giga, 3),
        "GFLOP, papers' formula": ("flops_paper", giga, 3),
        "KV cache, kB": ("kv_bytes", kilo, 1),
        "seconds": ("seconds", 1, 4),
        "seconds, median": ("seconds_p50", 1, 4),
        "seconds, 95th percentile": ("seconds_p95", 1, 4),
        "seconds, first token": ("first_token_seconds", 1, 4),
    }
    unknown = [
        f"{run.name}, of {k} of its {run.summary['n']}"
        for run in runs
        if 0 < (k := run.summary["cost_unknown"]) < run.summary["n"]
    ]
    return Table(
        title="Cost of an example",
        about="The table shows what one example costs on average. Compare the runs by what is scarce where you run the model: "
        "visual tokens (the unit of most papers), GFLOP (computation), KV cache (memory) or seconds.",
        columns=["model · policy", *figures],
        rows=[[Cell(r.name), *(number(r.summary[key], scale, digits) for key, scale, digits in figures.values())] for r in runs],
        terms={
            "visual tokens": "Those of all views that were shown, before a compression method removes any. The other columns "
            "count what is left.",
            "text tokens": "Tokens of the prompts that are not visual.",
            "output tokens": "Tokens that the model generated, in all turns.",
            "prompt tokens": "Tokens of the prompts that were read in all turns, if each turn reads the whole dialogue again.",
            "cached": "What the same costs with a prefix cache, which keeps what was read before.",
            "GFLOP": "Billions of arithmetic operations: vision tower, prompts and generated tokens.",
            "GFLOP, vision tower": "The operations of the vision tower, which turns the pixels into visual tokens.",
            "GFLOP, papers' formula": "The usual formula of papers, for comparison with them. It counts only the multiplications "
            "of the decoder for the last prompt; the other columns count a multiplication and the addition after it as two.",
            "KV cache, kB": "Memory for the keys and values of the last prompt and its answer.",
            "seconds": "Mean time on the machine of the run. The time of a batch is divided equally among its examples.",
            "seconds, median": "Half of the examples took no longer.",
            "seconds, 95th percentile": "95 % of the examples took no longer.",
            "seconds, first token": "Mean time until the first token of the first reply.",
        },
        notes=[
            *([f"Operations and memory are not known of every example: {'; '.join(unknown)}."] if unknown else []),
            *([_WARM_UP] if any(run.summary["n"] < _FEW for run in runs) else []),
        ],
    )


def break_even(runs: Sequence[Run]) -> Table:
    figures = {"operations": "flops", "seconds": "seconds", "visual tokens": "retained_tokens", "KV cache": "kv_bytes"}
    return Table(
        title="Break-even with adaptive resolution",
        about="The table shows how often a model may make requests and still cost less than the run in the row, which shows one "
        "view of every image. Green: the adaptive run of the same model was cheaper at its measured rate of requests; red: it "
        "was not.",
        columns=["model · policy", "compared", "requests, measured %", *figures],
        rows=[
            [Cell(run.name), count(e["n"]), percent(e["request_ratio"]), *(_rate(e[key]) for key in figures.values())]
            for run in runs
            if (e := run.break_even) and e["n"]
        ],
        terms={
            "compared": "The number of examples that are in both runs.",
            "requests, measured %": "The share of these examples in which the adaptive run made a request.",
            "a percentage": "The break-even: below this share of requests the adaptive run costs less, by the cost of "
            "the column.",
            "always, never": "Always: the adaptive run costs less even with a request in every example. Never: it costs "
            "more even without any.",
            "operations": "Arithmetic operations, if each turn reads the whole dialogue again.",
            "seconds": "Time on the machine of the runs.",
            "visual tokens": "Those of every view, averaged over the layers of the decoder where a method removes some.",
            "KV cache": "Memory for the keys and values of the last prompt and its answer.",
        },
    )


def _rate(entry: Mapping[str, Any]) -> Cell:
    if entry["rate"] is None:
        text = entry["why"]
    else:
        text = f"{100 * entry['rate']:.1f}" if entry["cheaper"] == "below" else entry["cheaper"]
    return Cell(text, good=entry["cheaper_as_measured"])
