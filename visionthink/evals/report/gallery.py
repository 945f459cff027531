"""Episodes to look at: where asking paid, where the decision did damage, where an answer was lucky, and some of the rest."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visionthink.evals.comparison import by_id, right
from visionthink.evals.metrics import Scored
from visionthink.evals.report.runs import Run, adaptive
from visionthink.evals.runner import view_file

PER_KIND = 6


def gallery(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Sections of cards, for runs in which the model decides; of episodes whose views were kept."""
    sections = []
    for run in (r for r in runs if adaptive(r)):
        low, full = (_other(run, runs, policy) for policy in ("low", "full"))
        left = [
            s for s in run.scored if all(view_file(run.folder, s.transcript.example_id, v).is_file() for v in s.transcript.levels)
        ]
        kinds: dict[str, list[Scored]] = {}
        for title, belongs in _kinds(low, full).items():
            kinds[title] = [s for s in left if belongs(s)][:PER_KIND]
            left = [s for s in left if s not in kinds[title]]
        for title, members in kinds.items():
            if members:
                sections.append({"title": f"{run.name}: {title}", "cards": [card(s, run) for s in members]})
    return sections


def _other(run: Run, runs: Sequence[Run], policy: str) -> dict[str, Scored]:
    """Another policy of the same model on the same suite, by example."""
    key = run.suite, run.summary["model"], policy
    return next((by_id(r.scored) for r in runs if (r.suite, r.summary["model"], r.summary["policy"]) == key), {})


def _kinds(low: Mapping[str, Scored], full: Mapping[str, Scored]) -> dict[str, Callable[[Scored], bool]]:
    def was(line: Mapping[str, Scored], s: Scored, verdict: bool) -> bool:
        other = line.get(s.transcript.example_id)
        return other is not None and right(other) == verdict

    return {
        "asking paid (the low view alone is answered wrong)": lambda s: (
            right(s) and s.transcript.requested and was(low, s, False)
        ),
        "damage (the full view is answered right)": lambda s: s.verdict.verdict == "wrong" and was(full, s, True),
        "lucky (right without asking, where the low view does not hold the answer)": lambda s: (
            right(s) and not s.transcript.requested and s.transcript.need == "hard"
        ),
        "more": lambda s: True,
    }


def card(scored: Scored, run: Run) -> dict[str, Any]:
    t = scored.transcript
    files = {level: view_file(run.folder, t.example_id, level) for level in t.levels}
    return {
        "question": t.question,
        "family": t.family,
        "need": t.need,
        "views": [(level, level in t.levels_seen, base64.b64encode(f.read_bytes()).decode()) for level, f in files.items()],
        "turns": [turn.text for turn in t.turns],
        "answer": t.answer,
        "reference": t.reference,
        "verdict": scored.verdict.verdict,
        "stop_reason": t.stop_reason.value,
        "tokens": f"{t.visual_tokens} visual tokens, {t.visual_tokens_full} for the full view alone",
    }
