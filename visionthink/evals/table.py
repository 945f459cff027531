"""Results side by side on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from visionthink.evals.policy_spec import PolicySpec


def summary_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Results side by side, on a terminal of 80 columns too. The mix is that of a summary's `comparison`, over the examples that
    were judged in the run, always-low and always-full; a `random` row is such a coin, thrown. Where families are known, the mix
    with the best rate for each has a column; where needs are known, how often the model asked; where tokens were removed, their
    mean over the decoder's layers."""
    families = any(_compared(s).get("mix_best_rates") is not None for s in summaries)
    gated = any(s.get("gates") for s in summaries)
    needs = any(s["by_need"].keys() & {"easy", "hard"} for s in summaries)
    compressed = any(_of_layers(s) != s["retain_cumulative"] for s in summaries)
    caption = [
        "In percent, except output tokens. last view, every view: retention, the visual tokens that were read relative to the "
        "full view alone. mix: expected accuracy of a random mix of low and full with as many visual tokens as the run.",
    ]
    if needs:
        known = "for which the low view is known to be enough (easy) or not enough (hard)"
        caption += [f"asks: share of requests among questions {known}."]
    if families:
        caption += ["best mix: the mix with the best rates, which spends the tokens in the families that gain most from them."]
    if gated:
        signs = "the run is (above) or (below) it, or this is undecided (?)"
        caption += [f"gate: accuracy of the best gate at as many visual tokens; {signs}."]
    if compressed:
        caption += ["mean layer: visual tokens of every view that are left in a layer of the decoder, mean over the layers."]
    missing = [f"trained-{n}" for n in ("low", "full") if any(t and t[n] is None for t in (s.get("trained") for s in summaries))]
    if missing:
        lines = " and ".join(missing)
        caption += [f"For a model that you trained, also evaluate {lines}: its gain may come from training alone."]
    for s in summaries:
        if (n := _compared(s).get("n")) and n != s["n"] - s["unscored"]:
            name = escape(f"{s['model']} {s['policy']}")
            caption += [f"mix of {name}: over the {n} judged in low and full too, of {s['n'] - s['unscored']}."]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption="\n".join(caption), caption_justify="left")
    columns = (
        "accuracy",
        "last\nview",
        "every\nview",
        *(["mean\nlayer"] if compressed else []),
        "mix",
        *(["best\nmix"] if families else []),
        *(["gate"] if gated else []),
        *(["asks\neasy", "asks\nhard"] if needs else []),
        "output\ntokens",
    )
    for column in ("model", "policy"):
        table.add_column(column, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for s in summaries:
        need = s["by_need"]
        table.add_row(
            escape(s["model"]),
            escape(s["policy"]),
            _percent(s["accuracy"]),
            _percent(s["retain_final"]),
            _percent(s["retain_cumulative"]),
            *([_percent(_of_layers(s))] if compressed else []),
            _percent(_compared(s).get("mix")),
            *([_percent(_compared(s).get("mix_best_rates"))] if families else []),
            *([_gate(s)] if gated else []),
            *(
                _percent(need[n]["request_ratio"] if n in need and PolicySpec.parse(s["policy"]).decides else None)
                for n in (("easy", "hard") if needs else ())
            ),
            f"{s['output_tokens']:.1f}",
        )
    return table


def _of_layers(summary: Mapping[str, Any]) -> float:
    """Every view, averaged over the layers; the same as `retain_cumulative` in runs from before tokens were taken out."""
    return float(summary.get("retain_layers", summary["retain_cumulative"]))


def _gate(summary: Mapping[str, Any]) -> str:
    """The best of the gates that the run stands beside."""
    gates = summary.get("gates") or {}
    if not gates:
        return "–"
    best = max(gates.values(), key=lambda gate: gate["accuracy"])
    return f"{_percent(best['accuracy'])} ({({'yes': 'above', 'no': 'below', 'undecided': '?'})[best['beats']]})"


def _compared(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary.get("comparison") or {}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
