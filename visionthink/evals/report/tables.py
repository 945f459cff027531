"""The tables of a suite on the page: their columns, what they mean, and a row for each run that has these figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from visionthink.evals.bootstrap import ENOUGH
from visionthink.evals.report.runs import Run
from visionthink.evals.words import share_interval

NONE = "–"
"""Stands where a figure does not exist."""


class Cell(NamedTuple):
    """Text, what stands small beside it, and whether it is good news."""

    text: str
    small: str = ""
    good: bool | None = None

    @property
    def kind(self) -> str:
        """Its class on the page."""
        return {True: "correct", False: "wrong", None: "none" if self.text == NONE else ""}[self.good]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the page; a table without rows is left out."""

    title: str
    about: str
    """What to look for, in a sentence or two."""
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    terms: Mapping[str, str] = field(default_factory=dict)
    """What columns and words mean that `about` does not explain; shown when the reader asks for it."""
    notes: Sequence[str] = ()


def tables(runs: Sequence[Run]) -> list[Table]:
    """What follows the first table of a suite."""
    parts = (baselines, gates, trained, fits, looks, places, controls, routers, branches, costs, break_even)
    return [table for part in parts if (table := part(runs)).rows or table.notes]


def percent(share: float | None, small: str = "") -> Cell:
    return Cell(NONE) if share is None else Cell(f"{100 * share:.1f}", small)


def number(value: float | None, scale: float = 1.0, digits: int = 1) -> Cell:
    return Cell(NONE if value is None else f"{scale * value:.{digits}f}")


def interval(found: Mapping[str, Any] | None) -> Cell:
    """A difference in points with its interval, or with a word where there are too few examples for one."""
    if not found:
        return Cell(NONE)
    few = found["n"] < ENOUGH
    return Cell(f"{100 * found['mean']:+.1f}", "too few" if few else f"[{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]")


def _count(n: int) -> Cell:
    return Cell(str(n))


def _needs(run: Run, need: str) -> Cell:
    """Requests among easy or hard questions, with their number."""
    group = run.summary["by_need"].get(need)
    return percent(group["request_ratio"], f"of {group['n']}") if group and run.policy.decides else Cell(NONE)


_FAILED = "Failed: examples that could not be used at all. They count in no figure."
_FEWER = (
    "This table and the stars and dots of the figure are over all questions that were judged in a run. The sentences above, the "
    "comparisons below and the diamonds and crosses of the figure are over those that were judged in all runs they compare."
)


def accuracy(runs: Sequence[Run]) -> Table:
    """What each run got right and what it cost."""
    compressed = any(run.summary["retain_layers"] != run.summary["retain_cumulative"] for run in runs)
    needs = any(run.summary["by_need"] for run in runs)
    columns = ["model · policy", "accuracy %", "last view %", "every view %", *(["mean layer %"] if compressed else [])]
    columns += ["judged", "requests %", *(["on easy %", "on hard %"] if needs else []), "output tokens", "failed"]
    rows = []
    for run in runs:
        s = run.summary
        n = s["n"] - s["unscored"]
        low, high = share_interval(s["accuracy"], n) if n else (0.0, 0.0)
        row = [Cell(run.name), percent(s["accuracy"], f"[{100 * low:.1f}, {100 * high:.1f}]")]
        row += [percent(s["retain_final"]), percent(s["retain_cumulative"])]
        row += [percent(s["retain_layers"])] if compressed else []
        row += [Cell(str(n), f"of {s['n']}" if s["unscored"] else "")]
        row += [percent(s["request_ratio"] if run.policy.decides else None)]
        row += [_needs(run, "easy"), _needs(run, "hard")] if needs else []
        rows.append([*row, number(s["output_tokens"]), _count(s.get("failed", 0))])
    layers = " Mean layer is every view, averaged over the layers of the decoder." if compressed else ""
    needed = (
        " Easy questions can be answered from the low view, hard ones cannot: known from how they were made." if needs else ""
    )
    failed = any(run.summary.get("failed") for run in runs)
    fewer = any((c := run.comparison) and c["n"] != run.summary["n"] - run.summary["unscored"] for run in runs)
    return Table(
        title="Accuracy and visual tokens",
        about="Accuracy is the share of correct answers among those that were judged, with its 95 % interval. Last view and "
        f"every view are the retention: visual tokens relative to the full view alone, counted over all answers.{layers}{needed}",
        columns=columns,
        rows=rows,
        notes=[text for text, holds in ((_FAILED, failed), (_FEWER, fewer)) if holds],
    )


def baselines(runs: Sequence[Run]) -> Table:
    found = [(run, c) for run in runs if (c := run.comparison) and c["n"]]
    families = any(c["mix_by_family"] is not None for _, c in found)
    mixes = ["minus the mix of each family", "minus the mix with the best rates"] if families else []
    columns = [
        "model · policy",
        "compared",
        "minus always-full",
        "random mix %",
        "minus the random mix",
        *mixes,
        "oracle router %",
    ]
    rows = [
        [
            Cell(run.name),
            Cell(str(c["n"]), f"of {judged}" if c["n"] != (judged := run.summary["n"] - run.summary["unscored"]) else ""),
            interval(c["against_full"]),
            percent(c["mix"]),
            interval(c["against_mix"]),
            *([interval(c["against_mix_by_family"]), interval(c["against_mix_best_rates"])] if families else []),
            percent(c["oracle"]["accuracy"], f"at {100 * c['oracle']['retain_cumulative']:.1f} % of the tokens"),
        ]
        for run, c in found
    ]
    return Table(
        title="Compared with the baselines",
        about="Differences in percentage points, with 95 % intervals of a paired bootstrap over the questions that were judged "
        "in the run and in always-low and always-full of its model. Too few: from fewer than 20 questions an interval would "
        "be unreliable.",
        columns=columns,
        rows=rows,
    )


def gates(runs: Sequence[Run]) -> Table:
    return Table(
        title="Compared with a training-free gate",
        about="A gate shows the full view where a model's answer from the low view is least certain, so often that it reads as "
        "many visual tokens as the run. Training a model to ask is worth its cost only if the run is above the gate on the low "
        "view of the model that it was trained from.",
        columns=[
            "model · policy",
            "gate on the low view of",
            "score",
            "compared",
            "tokens %",
            "gate %",
            "minus the gate",
            "above the gate",
            "AUROC",
        ],
        rows=[
            [
                Cell(run.name),
                Cell(model),
                Cell(g["score"]),
                _count(g["n"]),
                percent(g["cost"]),
                percent(g["accuracy"]),
                interval(g["against"]),
                Cell(g["beats"], good={"yes": True, "no": False}.get(g["beats"])),
                number(g["auroc"], 1, 3),
            ]
            for run in runs
            for model, g in run.gates.items()
        ],
        terms={
            "gate on the low view of": "The model whose answers from the low view the gate uses.",
            "score": "How the gate measures that an answer is uncertain. nllmax is the negative log-probability of the answer's "
            "least likely token: the higher it is, the less certain is the answer.",
            "compared": "The number of questions that were judged in the run and in both views of the gate.",
            "tokens %": "The visual tokens that the run read, and the gate as well, relative to those of the full views.",
            "gate %": "The accuracy that is expected of the gate.",
            "minus the gate": "The accuracy of the run minus that of the gate, in percentage points, with its 95 % interval.",
            "above the gate": "Undecided where the interval includes zero, or where fewer than 20 questions were compared.",
            "AUROC": "The area under the ROC curve: how well the score finds the answers that are wrong from the low view and "
            "right from the full view. 1 is perfect, 0.5 is chance.",
        },
        notes=[
            f"Missing: a gate for {run.name}. It takes always-low and always-full runs of the model, or of one of the same "
            "architecture, from a model that gives log-probabilities."
            for run in runs
            if run.policy.is_adaptive and not run.gates
        ],
    )


def trained(runs: Sequence[Run]) -> Table:
    found = [run.trained for run in runs if run.trained]
    return Table(
        title="Compared with training alone",
        about="Models that were trained with the same reward, but to answer from one view. Where the run is above them, "
        "the difference is gained by looking and not by training. Their mix chooses between the two with the best rate for each "
        "family, at the visual tokens of the run.",
        columns=[
            "model · policy",
            "compared",
            "trained-low %",
            "minus trained-low",
            "trained-full %",
            "minus trained-full",
            "their mix %",
            "minus their mix",
        ],
        rows=[
            [
                Cell(run.name),
                _count(t["n"]),
                percent(t["low"]),
                interval(t["against_low"]),
                percent(t["full"]),
                interval(t["against_full"]),
                percent(t["mix_best_rates"]),
                interval(t["against_mix_best_rates"]),
            ]
            for run in runs
            if (t := run.trained) and (t["low"], t["full"]) != (None, None)
        ],
        notes=[
            f"Missing: a model that was trained to answer from the {line} view alone (trained-{line}). Without it, the gain "
            "from training cannot be separated from the gain from looking."
            for line in ("low", "full")
            if any(t[line] is None for t in found)
        ],
    )


def fits(runs: Sequence[Run]) -> Table:
    return Table(
        title="What the fit measured",
        about="Accuracies that were measured when the method was trained, on the fit's own held-out questions and not on this "
        "suite: an answer counts where each of its tokens is the most probable one after the correct ones before it. The "
        "control is a module of the same size, trained in the same way, that lacks what the method is about; only the "
        "difference from it is the method's own. The untrained method is what training started from.",
        columns=[
            "model · policy",
            "method",
            "tokens kept %",
            "fit's questions",
            "method %",
            "control %",
            "untrained %",
            "all visual tokens %",
        ],
        rows=[
            [
                Cell(run.name),
                Cell(f["family"]),
                percent(f["keep"]),
                Cell(str(f["tested"]), f["questions"]),
                *(percent(f[name]) for name in ("trained", "control", "untrained", "full")),
            ]
            for run in runs
            if (f := run.summary.get("fit"))
        ],
    )


def looks(runs: Sequence[Run]) -> Table:
    return Table(
        title="Where the model looked",
        about="A look is a view that was shown after the first turn. It is right where it alone shows a piece of what the "
        "answer depends on (the evidence), at the resolution which that needs. An episode is covered where its views together "
        "show all of the evidence. Both are counted among episodes that looked and whose evidence is known.",
        columns=[
            "model · policy",
            "family",
            "episodes",
            "looked %",
            "evidence known",
            "right looks %",
            "covered %",
            "accuracy where covered %",
            "accuracy where not %",
        ],
        rows=[
            [
                Cell(run.name),
                Cell(family),
                _count(f["n"]),
                percent(f["looked"]),
                _count(f["known"]),
                *(percent(f[name]) for name in ("right_looks", "covered", "accuracy_covered", "accuracy_not_covered")),
            ]
            for run in runs
            if (found := run.summary["looks"])
            for family, f in [("every family", found), *found["by_family"].items()]
        ],
    )


def places(runs: Sequence[Run]) -> Table:
    return Table(
        title="Which parts of the image were looked at",
        about="With the number of looks at each part.",
        columns=["model · policy", "looks per episode", "area seen at full resolution %", "looks at"],
        rows=[
            [
                Cell(run.name),
                number(found["looks_per_episode"], 1, 2),
                percent(found["density_area"]),
                Cell(", ".join(f"{place} {n}" for place, n in found["places"].items())),
            ]
            for run in runs
            if (found := run.summary["looks"])
        ],
    )


def controls(runs: Sequence[Run]) -> Table:
    return Table(
        title="Controls",
        about="The same model, shown other pixels than it asks for, over the episodes in which its adaptive run looked. A model "
        "that reads what it looks at loses its correct answers. wrong-crop exchanges the evidence after the request; "
        "random-crop and centre-crop show a box of the size that was asked for; blank-low and blank show one colour, in the "
        "first turn or always.",
        columns=["model · policy", "compared", "control %", "adaptive %", "minus adaptive"],
        rows=[
            [Cell(run.name), _count(c["n"]), percent(c["accuracy"]), percent(c["adaptive"]), interval(c["difference"])]
            for run in runs
            if (c := run.control) and c["n"]
        ],
    )


def routers(runs: Sequence[Run]) -> Table:
    deciding = [r for r in runs if r.policy.decides and r.policy.action != "direct"]
    return Table(
        title="Requests compared with need",
        about="The table shows whether a run asks for the full view where a question needs it. Look at the gain: 100 is a "
        "perfect choice of the questions, and 0 is no better than chance.",
        columns=[
            "model · policy",
            "compared",
            "precision %",
            "recall %",
            "requests without need %",
            "gain",
            "gain, known need",
            "accuracy in group A %",
            "accuracy in group B %",
            "damage %",
            "repair %",
            "lucky %",
        ],
        rows=[
            [
                Cell(run.name),
                _count(c["n"]),
                *(percent(c["router"][name]) for name in ("precision", "recall", "false_requests", "gain")),
                percent(c["router_known"]["gain"] if c["router_known"] else None),
                *(percent(c[g]["accuracy"], f"of {c[g]['n']}") for g in ("group_a", "group_b")),
                *(percent(c[name]) for name in ("damage", "repair", "lucky")),
            ]
            for run in deciding
            if (c := run.comparison) and c["n"]
        ],
        terms={
            "Need": "A question needs the full view if always-low answers it wrong and always-full answers it correctly.",
            "compared": "The number of questions that were judged in the run, in always-low and in always-full.",
            "precision %": "Of the requests, the share that was needed.",
            "recall %": "Of the questions with need, the share in which a request was made.",
            "requests without need %": "Of the questions without need, the share in which a request was made.",
            "gain": "Recall minus requests without need, in percentage points.",
            "gain, known need": "The same where it is known from how the questions were made which ones need the full view.",
            "accuracy in group A %": "Accuracy of the run on the questions that always-low answers wrong.",
            "accuracy in group B %": "Accuracy of the run on the questions that always-low answers correctly.",
            "damage %": "Of all questions, the share in which always-full is right and the run is wrong.",
            "repair %": "Of all questions, the share in which always-low is wrong and the run is right.",
            "lucky %": "Of all questions, the share in which always-low is wrong and the run is right without a request.",
        },
    )


def branches(runs: Sequence[Run]) -> Table:
    titles = {"asked": "makes a request", "answered_directly": "answers directly"}
    return Table(
        title="Both decisions by force",
        about="What the model would have answered, had it decided otherwise. If a model makes requests because it cannot "
        "answer, its forced direct answers are wrong only where it makes requests.",
        columns=["model · policy", "where the run", "questions", "forced to answer directly %", "forced to make a request %"],
        rows=[
            [
                Cell(run.name),
                Cell(title),
                _count(run.branches[part]["n"]),
                percent(run.branches[part]["accuracy_direct"]),
                percent(run.branches[part]["accuracy_request"]),
            ]
            for run in runs
            if run.branches
            for part, title in titles.items()
        ],
    )


_WARM_UP = "Seconds include the time to warm the model up: do not compare those of runs of fewer than a few hundred examples."


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
            "of the decoder for the last prompt; a multiplication and the addition after it are two operations elsewhere.",
            "KV cache, kB": "Memory for the keys and values of the last prompt and its answer.",
            "seconds": "Mean time on the machine of the run. The time of a batch is divided equally among its examples.",
            "seconds, median": "Half of the examples took no longer.",
            "seconds, 95th percentile": "95 % of the examples took no longer.",
            "seconds, first token": "Mean time until the first token of the first reply.",
        },
        notes=[
            *([f"Operations and memory are not known of every example: {'; '.join(unknown)}."] if unknown else []),
            *([_WARM_UP] if any(run.summary["n"] <= 64 for run in runs) else []),  # one batch
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
            [Cell(run.name), _count(e["n"]), percent(e["request_ratio"]), *(_rate(e[key]) for key in figures.values())]
            for run in runs
            if (e := run.break_even) and e["n"]
        ],
        terms={
            "compared": "The number of examples that are in both runs.",
            "requests, measured %": "The share of these examples in which the adaptive run made a request.",
            "a percentage": "The break-even: below this share of requests the adaptive run costs less, by the cost of "
            "the column.",
            "always, never": "Always: it costs less even with a request in every example. Never: it costs more even without any.",
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
