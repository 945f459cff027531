"""Results side by side on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from visionthink.evals.metrics import random_mix
from visionthink.evals.policy_spec import PolicySpec


def summary_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Results side by side, on a terminal of 80 columns too. The mix is what a coin between always-low and always-full would be
    expected to score with the same visual tokens; a `random` row is such a coin, thrown. Where tokens were taken out, their mean
    over the decoder's layers is what counts for the mix, and has a column."""
    caption = (
        "in percent, except output tokens; mix: expected accuracy of a random mix of low and full with the same visual tokens"
    )
    compressed = any(_of_layers(s) != s["retain_cumulative"] for s in summaries)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption, caption_justify="left")
    columns = (
        "accuracy",
        "mix",
        "asks\neasy",
        "asks\nhard",
        "last\nview",
        "every\nview",
        *(["mean\nlayer"] if compressed else []),
        "output\ntokens",
    )
    for column in ("model", "policy"):
        table.add_column(column, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    points = {(s["model"], s["policy"]): (_of_layers(s), s["accuracy"]) for s in summaries if s["accuracy"] is not None}
    for s in summaries:
        low, full = points.get((s["model"], "low")), points.get((s["model"], "full"))
        mix = random_mix(low, full, _of_layers(s)) if low and full else None
        need = s["by_need"]
        table.add_row(
            escape(s["model"]),
            escape(s["policy"]),
            _percent(s["accuracy"]),
            _percent(mix),
            *(
                _percent(need[n]["request_ratio"] if n in need and PolicySpec.parse(s["policy"]).decides else None)
                for n in ("easy", "hard")
            ),
            _percent(s["retain_final"]),
            _percent(s["retain_cumulative"]),
            *([_percent(_of_layers(s))] if compressed else []),
            f"{s['output_tokens']:.1f}",
        )
    return table


def _of_layers(summary: dict[str, Any]) -> float:
    """Every view, averaged over the layers; the same as `retain_cumulative` in runs from before tokens were taken out."""
    return float(summary.get("retain_layers", summary["retain_cumulative"]))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
