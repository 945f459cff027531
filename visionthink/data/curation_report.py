"""What came out of a curation, as one page: the distribution of right answers, and examples to look at."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionthink.data.curated import Curated
from visionthink.data.curation import transcripts_of
from visionthink.errors import InputError
from visionthink.picture import Picture, open_pictures
from visionthink.rewards.judge import NO_REFERENCE
from visionthink.types import Example

_SHOWN = 8
"""Examples of each label."""
_SIDE = 240
"""Largest side of a picture, in px."""
_TITLES = {"needs_full": "needs the full view", "low_suffices": "the low view suffices", "drop": "neither"}

_CAUSES = ("unusable", "leaked", "duplicate")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .6rem; text-align: right; font-variant-numeric: tabular-nums; }
.grid td { border: 1px solid var(--line); min-width: 2.2rem; } .grid th { font-weight: 500; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; overflow-wrap: anywhere; }
.card img { max-width: 100%; image-rendering: pixelated; } small { color: #777; }
"""


def curation_page(out: Path, rows: Sequence[Curated], examples: Mapping[str, Example], summary: Mapping[str, Any]) -> str:
    """HTML that needs nothing but itself."""
    chosen = {label: [c for c in rows if c.label == label and (c.selected or label == "drop")][:_SHOWN] for label in _TITLES}
    transcripts = transcripts_of(out, {c.counts.row for cards in chosen.values() for c in cards})
    keys = list(examples)
    sections = []
    for label, cards in chosen.items():
        drawn = [_card(c, examples[keys[c.counts.row]], transcripts.get(c.counts.row, [])) for c in cards]
        sections.append(f"<h2>{html.escape(_TITLES[label])}: {summary[label]}</h2><div class=cards>{''.join(drawn)}</div>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Curation</title><style>{_STYLE}</style><h1>Curation</h1>{_numbers(summary)}{_grid(summary)}{''.join(sections)}</html>"
    )


def _numbers(summary: Mapping[str, Any]) -> str:
    rollouts = 2 * summary["thresholds"]["rollouts"]
    lines = [
        ("rows", summary["rows"]),
        ("needs the full view", summary["needs_full"]),
        ("the low view suffices", summary["low_suffices"]),
        ("neither", summary["drop"]),
        ("rejected", summary["rejected"]),
        ("of these: unusable, leaked from validation, duplicate", ", ".join(str(summary[n]) for n in _CAUSES)),
        ("selected, half of each", summary["selected"]),
        ("answers that could not be judged", summary["unscored_answers"]),
        (f"worker seconds per example of {rollouts} rollouts", summary["worker_seconds_per_example"]),
        ("worker seconds", summary["worker_seconds"]),
    ]
    if agreement := summary["agreement"]:
        titles = {"precision": "precision", "recall": "recall", "recall_of_kept": "recall among those not dropped"}
        for name, value in agreement.items():
            shown = "–" if value is None else f"{value:.3f}"
            lines.append((f"“needs the full view” against the known need: {titles[name]}", shown))
    cells = "".join(
        f"<tr><td style='text-align:left'>{html.escape(name)}<td>{html.escape('–' if value is None else str(value))}"
        for name, value in lines
    )
    return f"<table>{cells}</table>"


def _grid(summary: Mapping[str, Any]) -> str:
    grid = summary["correct_low_by_correct_full"]
    most = max(1, *(n for row in grid for n in row))
    head = "".join(f"<th>{full}" for full in range(len(grid)))
    body = "".join(
        f"<tr><th>{low}" + "".join(f"<td style='background:rgb(47 111 219 / {n / most:.2f})'>{n or ''}" for n in row)
        for low, row in enumerate(grid)
    )
    return (
        "<h2>Right answers: at the low view (down) by at the full view (across)</h2>"
        f"<table class=grid><tr><th>{head}{body}</table>"
    )


def _card(c: Curated, example: Example, transcripts: Sequence[Mapping[str, Any]]) -> str:
    answers = ["no answer" if t["answer"] is None else str(t["answer"]) for t in transcripts]
    half = len(answers) // 2
    said = "".join(
        f"<br><small>{name}: {html.escape(', '.join(part[:8])[:160])}</small>"
        for name, part in (("low", answers[:half]), ("full", answers[half:]))
    )
    question, answer = html.escape(example.question[:300]), html.escape((example.answer or NO_REFERENCE)[:120])
    return (
        f"<div class=card>{_picture(example)}<p>{question}<br><b>{answer}</b>"
        f"<p>right {c.counts.correct_low} low, {c.counts.correct_full} full <small>row {c.counts.row}</small>{said}</div>"
    )


def _picture(example: Example) -> str:
    try:
        pictures = open_pictures(example)
    except InputError as error:
        return f"<small>{html.escape(str(error))}</small>"
    return "".join(map(_thumbnail, pictures))


def _thumbnail(picture: Picture) -> str:
    image, buffer = picture.image.copy(), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(buffer, "PNG")
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
