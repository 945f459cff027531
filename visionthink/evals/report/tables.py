"""The tables of a suite on the page: their columns, what they mean, and a row for each run that has these figures."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.report.cells import NONE, Cell, Table, count, interval, number, percent
from visionthink.evals.report.cost_tables import break_even, costs
from visionthink.evals.report.look_tables import branches, controls, looks, places, routers
from visionthink.evals.report.runs import Run
from visionthink.evals.words import share_interval


def tables(runs: Sequence[Run]) -> list[Table]:
    """What follows the first table of a suite."""
    parts = (baselines, gates, trained, fits, looks, places, controls, routers, branches, costs, break_even)
    return [table for part in parts if (table := part(runs)).rows or table.notes]


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
        rows.append([*row, number(s["output_tokens"]), count(s.get("failed", 0))])
    layers = " Mean layer is every view, averaged over the layers of the decoder." if compressed else ""
    needed = (
        " Easy questions can be answered from the low view, hard ones cannot. This is known from how the questions were made."
        if needs
        else ""
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
        about="A gate shows the full view where a model's answer from the low view is least certain. It does so as often as "
        "needed to read as many visual tokens as the run. Training a model to ask was worth its cost only if the run is above "
        "the gate that uses the low view of the model before this training.",
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
                count(g["n"]),
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
            "tokens %": "The visual tokens that both the run and the gate read, relative to those of the full views.",
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
                count(t["n"]),
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
