"""What came out of a reproduction, as JSON, as a table and as Markdown.

A result is one claim in one setting: its verdict, the value of every seed, and how far each run was still moving at its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date
from statistics import mean
from typing import Any

from rich.table import Table

from visionthink.recipes.claim import SETTLED, WINDOW, Claim, Outcomes
from visionthink.recipes.claims import CLAIMS
from visionthink.recipes.settings import Scale, Setting

Result = dict[str, Any]


def result(claim: Claim, setting: Setting, outcomes: Outcomes) -> Result:
    """A claim judged in a setting. `settled` counts, for each variant that was trained, its runs that have come to their end."""
    changes = {v: [o.change for o in outcomes[v]] for v in claim.variants}
    trained = {v: [c for c in found if c is not None] for v, found in changes.items()}
    return {
        "claim": claim.name,
        "source": claim.source,
        "setting": dataclasses.asdict(setting),
        "statement": claim.statement,
        "reported": claim.reported,
        "rule": claim.rule,
        "values": {
            unit: {v: [round(shown(o), 3) for o in outcomes[v]] for v in claim.variants} for unit, shown in claim.shown.items()
        },
        "changes": {v: [round(c, 3) for c in found] for v, found in trained.items() if found},
        "settled": {v: sum(abs(c) < SETTLED for c in found) for v, found in trained.items() if found},
        "verdict": claim.judge(outcomes),
    }


def table(results: Sequence[Result]) -> Table:
    """The results as a table for a terminal."""
    shown = Table("claim", "source", "setting", "measured", "settled", "verdict")
    for r in results:
        measured = [
            (unit, *(f"{variant}: {_spread(found)}" for variant, found in of.items())) for unit, of in r["values"].items()
        ]
        settled = "\n".join(_settled(r, variant) for variant in _variants(r))
        setting = f"{r['setting']['name']}\n{_of(r).described}"
        lines = "\n".join(line for of_unit in measured for line in of_unit)
        shown.add_row(r["claim"], r["source"], setting, lines, f"\n{settled}", r["verdict"])
    return shown


def page(results: Sequence[Result], asked: Sequence[str], seeds: int, scale: Scale) -> str:
    """The reproduction as Markdown; figures are expected beside it, as `figure_name` says.

    Args:
        asked: names of the claims and groups, as they were asked for.
    """
    names = list(dict.fromkeys(r["claim"] for r in results))
    settings = [s for s in scale.settings if any(r["setting"]["name"] == s.name for r in results)]
    lines = [
        "# Claims about training, in miniature",
        "",
        f"{date.today().isoformat()}, `visionthink reproduce --claims {','.join(asked)} --seeds {seeds}`: the embedded models "
        f"(2 M parameters), {scale.evaluated} unseen generated questions.",
        "",
        "- The results hold for these models and these questions. The numbers of others (*Reported*) are of Qwen2.5-VL-7B.",
        "- Numbers in the tables are means over seeds, with the lowest and the highest in brackets.",
        "- The rules for the verdicts are in the code (`recipes/paper_claims.py`, `recipes/further_claims.py`).",
        "- Figures show, for every step, the share of rollouts that ask, or the quantity in their label: the mean over seeds, "
        "smoothed over 5 steps, with the range of the seeds as a band.",
        "",
        "Settings:",
        "",
        *(f"- **{s.name}**: {_in_full(s, scale)}" for s in settings),
        "",
        f"A run has settled if the share of rollouts that ask, over its last {WINDOW} steps, is less than {SETTLED} away from "
        f"that of the {WINDOW} steps before. Verdicts also count runs that have not settled. If the learning rate falls to 0, "
        "every run stops changing, so that having settled says less there. An empty cell means that the claim was not run in "
        "that setting.",
        "",
        f"| claim | source | {' | '.join(s.name for s in settings)} |",
        f"|---|---|{'---|' * len(settings)}",
        *(_summary(name, [r for r in results if r["claim"] == name], settings) for name in names),
    ]
    for name in names:
        claim = CLAIMS[name]
        lines += [
            "",
            f"## {name}",
            "",
            f"{claim.source}: {claim.statement}",
            "",
            f"Reported: {claim.reported}.",
            "",
            f"Rule: {claim.rule}.",
        ]
        for r in (r for r in results if r["claim"] == name):
            lines += ["", f"Setting **{r['setting']['name']}** ({_of(r).described}): **{r['verdict']}**.", ""]
            lines += _table_of(r)
            if r["changes"]:
                lines += ["", f"![over the steps]({figure_name(name, r['setting']['name'])})"]
    return "\n".join(lines) + "\n"


def _in_full(setting: Setting, scale: Scale) -> str:
    if not setting.steps:
        return setting.described
    config = scale.config(setting)
    return f"{setting.described}, of `{setting.base}`; {config.prompts_per_step} examples x {config.group_size} rollouts a step"


def _table_of(r: Result) -> list[str]:
    """A row for each variant; how far it has come only where something was trained."""
    units = list(r["values"])
    trained = ["change of requests at the end", "settled"] if r["changes"] else []
    rows = [f"| run | {' | '.join((*units, *trained))} |", f"|---|{'---|' * (len(units) + len(trained))}"]
    for v in _variants(r):
        cells = [_spread(r["values"][unit][v]) for unit in units] + ([_change(r, v), _settled(r, v)] if trained else [])
        rows.append(f"| {v} | {' | '.join(cells)} |")
    return rows


def _variants(r: Result) -> list[str]:
    return list(next(iter(r["values"].values())))


def figure_name(claim: str, setting: str) -> str:
    return f"{claim}-{setting}.svg"


def _summary(name: str, results: Sequence[Result], settings: Sequence[Setting]) -> str:
    cells = {r["setting"]["name"]: f"**{r['verdict']}**{_all_settled(r)}" for r in results}
    return f"| [{name}](#{name}) | {CLAIMS[name].source} | {' | '.join(cells.get(s.name, '') for s in settings)} |"


def _all_settled(r: Result) -> str:
    if not r["changes"]:
        return ""
    return f", {sum(r['settled'].values())} of {sum(map(len, r['changes'].values()))} runs settled"


def _settled(r: Result, variant: str) -> str:
    return f"{r['settled'][variant]} of {len(r['changes'][variant])}" if variant in r["settled"] else "not trained"


def _change(r: Result, variant: str) -> str:
    return _spread(r["changes"][variant], "+.2f") if variant in r["changes"] else ""


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean, and lowest to highest where there are several."""
    spread = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def _of(r: Result) -> Setting:
    return Setting(**r["setting"])
