"""Tables of where a model looked, and whether it was right to."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.report.cells import Cell, Table, count, interval, number, percent
from visionthink.evals.report.runs import Run


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
                count(f["n"]),
                percent(f["looked"]),
                count(f["known"]),
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
            [Cell(run.name), count(c["n"]), percent(c["accuracy"]), percent(c["adaptive"]), interval(c["difference"])]
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
                count(c["n"]),
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
            "gain, known need": "The same, but the need of a question is known from how the question was made.",
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
                count(run.branches[part]["n"]),
                percent(run.branches[part]["accuracy_direct"]),
                percent(run.branches[part]["accuracy_request"]),
            ]
            for run in runs
            if run.branches
            for part, title in titles.items()
        ],
    )
