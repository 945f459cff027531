"""The report of `recipes.ett`: the measurements as JSON and as a table, and a sheet of images rebuilt from codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from visionthink.durable import replace, replace_json, replace_text

ROWS = {
    "original": "original",
    "aligned": "before tuning",
    "joint": "tuned jointly",
    "answers": "tuned by answers alone",
}
_NAMES = {
    "aligned": "before tuning (frozen codes, frozen decoder)",
    "index": "index only",
    "frozen": "frozen codes",
    "joint": "joint, alpha 0.25",
    "answers": "answers alone, alpha 0",
}
_COLUMNS = ("answers", "error", "codes", "perplexity", "cpu_seconds")
MORE, WITHIN = 0.05, 0.2
"""The claim is shown if tuning the codes gains at least `MORE` of the answers while the error grows by no more than the share
`WITHIN`."""


def write_report(folder: Path, results: Sequence[Mapping[str, Any]], pictures: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write `results.json`, `table.md` and `pictures.png`, and return the content of `results.json`.

    Args:
        results: the measurements of each arm and seed, see `recipes.ett_stages.measure`, with the names `arm` and `seed`.
        pictures: images [n, 3, height, width] with values from -1 to 1, by the names of `ROWS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for name in _NAMES:
        runs = [result for result in results if result["arm"] == name]
        rows.append({"arm": name, "seeds": len(runs)} | {key: mean(r[key] for r in runs) for key in _COLUMNS})
    by_name = {row["arm"]: row for row in rows}
    joint, frozen = by_name["joint"], by_name["frozen"]
    gained, grown = joint["answers"] - frozen["answers"], joint["error"] / frozen["error"] - 1
    verdict = {"answers_gained": gained, "error_grown": grown, "shown": gained >= MORE and grown <= WITHIN}
    record = {"arms": rows, "verdict": verdict, "runs": [dict(result) for result in results]}
    replace_json(folder / "results.json", record)
    replace_text(folder / "table.md", _table(rows, verdict))
    replace(folder / "pictures.png", lambda partial: _sheet(pictures).save(partial, format="PNG"))
    return record


def _table(rows: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]) -> str:
    lines = ["| arm | answers, % | error / variance | codes | perplexity | CPU seconds |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {_NAMES[r['arm']]} | {100 * r['answers']:.1f} | {r['error']:.3f} | {r['codes']:.0f} | {r['perplexity']:.0f} "
        f"| {r['cpu_seconds']:.0f} |"
        for r in rows
    ]
    said = "shown" if verdict["shown"] else "not shown"
    lines += [
        "",
        f"Means of {rows[0]['seeds']} seeds. Tuned codes against frozen ones: {100 * verdict['answers_gained']:+.1f} points of "
        f"answers, {100 * verdict['error_grown']:+.0f} % of the error; at least +{100 * MORE:.0f} points at no more than "
        f"+{100 * WITHIN:.0f} %: {said}.",
        "",
        f"![{', '.join(ROWS.values())}](pictures.png)",
    ]
    return "\n".join(lines) + "\n"


def _sheet(pictures: Mapping[str, Tensor]) -> Image.Image:
    """One image with a row of pictures for each entry of `ROWS`, its title above it."""
    label, gap = 16, 4
    n, _, height, width = pictures["original"].shape
    sheet = Image.new("RGB", (n * (width + gap), len(ROWS) * (height + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, title) in enumerate(ROWS.items()):
        top = i * (height + label)
        pen.text((2, top + 2), title, fill="black")
        images = ((pictures[name].clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        for j, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (j * (width + gap), top + label))
    return sheet
