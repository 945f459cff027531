"""Episodes to look at: where asking paid, where the decision did damage, where an answer was lucky, and some of the rest."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visionthink.evals.comparison import by_id, right
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import FULL, LOW, PolicySpec
from visionthink.evals.report.runs import Run
from visionthink.evals.run_folder import view_file
from visionthink.transcript import FULL_DENSITY, Transcript
from visionthink.types import Shown

PER_KIND = 6


def gallery(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Sections of cards, for runs in which the model or the oracle decides; of episodes whose views were kept."""
    sections = []
    for run in (r for r in runs if r.policy.routing in ("adaptive", "oracle")):
        low, full = (_other(run, runs, policy) for policy in (LOW, FULL))
        left = [s for s in run.scored if all(file.is_file() for _, file in _files(s, run))]
        kinds: dict[str, list[Scored]] = {}
        for title, belongs in _kinds(low, full).items():
            kinds[title] = [s for s in left if belongs(s)][:PER_KIND]
            left = [s for s in left if s not in kinds[title]]
        for title, members in kinds.items():
            if members:
                sections.append({"title": f"{run.name}: {title}", "cards": [card(s, run) for s in members]})
    return sections


def _other(run: Run, runs: Sequence[Run], policy: PolicySpec) -> dict[str, Scored]:
    """Another policy of the same model on the same suite, by example."""
    key = run.suite, run.summary["model"], policy
    return next((by_id(r.scored) for r in runs if (r.suite, r.summary["model"], r.policy) == key), {})


def _kinds(low: Mapping[str, Scored], full: Mapping[str, Scored]) -> dict[str, Callable[[Scored], bool]]:
    def was(line: Mapping[str, Scored], s: Scored, verdict: bool) -> bool:
        other = line.get(s.transcript.example_id)
        return other is not None and right(other) == verdict

    return {
        "requests that paid (correct after a request, where always-low is wrong)": lambda s: (
            right(s) and s.transcript.requested and was(low, s, False)
        ),
        "damage (wrong, where always-full is correct)": lambda s: s.verdict.verdict == "wrong" and was(full, s, True),
        "luck (correct without a request, where always-low is wrong)": lambda s: (
            right(s) and not s.transcript.requested and was(low, s, False)
        ),
        "requests for a part of an image": lambda s: not all(map(s.transcript.is_whole, s.transcript.views)),
        "other episodes": lambda s: True,
    }


def _files(scored: Scored, run: Run) -> list[tuple[Shown | None, Path]]:
    """The pictures of an episode: the full view of each image, then all views in the order of showing."""
    t = scored.transcript
    full = [(None, view_file(run.folder, t.example_id, i)) for i in range(len(t.sizes))]
    return [*full, *((v, view_file(run.folder, t.example_id, v.image, v)) for v in t.views)]


def card(scored: Scored, run: Run) -> dict[str, Any]:
    """What the page shows of an episode. The boxes that were looked at are drawn on the full view."""
    t = scored.transcript
    files = _files(scored, run)
    full, shown = files[: len(t.sizes)], files[len(t.sizes) :]
    later = [view for turn in t.turns[1:] for view in turn.views]
    parts = [(v, file) for v, file in shown if v is not None and not _is_full(v, t)]
    return {
        "question": t.question,
        "kind": " · ".join(part for part in (t.family, t.need) if part),
        "images": [
            {
                "png": _encoded(file),
                "size": t.sizes[i],
                "boxes": [v.box for v in later if v.image == i and not v.edit],
                "seen": any(v.image == i and _is_full(v, t) for v in t.views),
            }
            for i, (_, file) in enumerate(full)
        ],
        # the full view stands beside them
        "views": [{"png": _encoded(file), "caption": _caption(v)} for v, file in parts],
        "turns": [turn.text for turn in t.turns],
        "answer": t.answer,
        "reference": t.reference,
        "aliases": t.aliases,
        "verdict": scored.verdict.verdict,
        # what decided a verdict is of interest where it left one out
        "reason": scored.verdict.reason if scored.verdict.verdict == "unscored" else "",
        "stop_reason": t.stop_reason.value,
        "tokens": f"{t.visual_tokens} visual tokens; the full view alone has {t.visual_tokens_full}",
    }


def _is_full(view: Shown, transcript: Transcript) -> bool:
    """Whether a view is the full view of its image."""
    return transcript.is_whole(view) and view.level >= FULL_DENSITY and not view.edit


def _caption(view: Shown) -> str:
    what = f"{100 * view.level:g} % of the pixels" if view.level < FULL_DENSITY else "a part at full resolution"
    return f"{view.edit or what}, {view.visual_tokens} visual tokens"


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
