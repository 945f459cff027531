"""Counts to a data set: labels, a balanced selection, tables, and what was left out and why."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visionthink.data.curation import Counted, counted
from visionthink.data.identity import content_id, images_digest
from visionthink.data.labels import Label, Thresholds, balanced
from visionthink.durable import replace, replace_text
from visionthink.errors import DataError, InputError
from visionthink.picture import open_pictures
from visionthink.protocol import IMAGE_MARK
from visionthink.types import Example, ImageSource

_AT_ONCE = 64
"""Examples in memory while a table is written."""


@dataclass(frozen=True, kw_only=True)
class Curated:
    """One example with its counts and label. `reason` says why it is not used: rejected, dropped, or not drawn; `rejected` for
    what, where it has no label."""

    counts: Counted
    label: Label | None
    selected: bool
    reason: str
    rejected: Literal["", "unusable", "leaked", "duplicate"] = ""


def label_rows(
    out: Path, thresholds: Thresholds, *, most: int = 0, validation: Mapping[str, Example] | None = None
) -> list[Curated]:
    """What became of every row that was looked at, in the order of the rows.

    A row that holds the same question, answer and image as an earlier one is left out, and so is one whose image is in the
    `validation` set.
    """
    records = sorted(counted(out), key=lambda r: r.row)
    held_out = _digests(validation) if validation is not None else {}
    first: dict[str, int] = {}
    rejects: dict[int, Curated] = {}
    labels: dict[str, Label] = {}
    for r in records:
        if r.rejected:
            rejects[r.row] = Curated(counts=r, label=None, selected=False, reason=r.rejected, rejected="unusable")
        elif r.image in held_out:
            why = f"its image is that of row {held_out[r.image]} of the validation set"
            rejects[r.row] = Curated(counts=r, label=None, selected=False, reason=why, rejected="leaked")
        elif r.id in first:
            rejects[r.row] = Curated(
                counts=r, label=None, selected=False, reason=f"the same as row {first[r.id]}", rejected="duplicate"
            )
        else:
            first[r.id] = r.row
            labels[r.id] = thresholds.label(r.correct_low, r.correct_full, r.unscored)
    selected = set(balanced(labels, most))
    result = []
    for r in records:
        if r.row in rejects:
            result.append(rejects[r.row])
            continue
        label = labels[r.id]
        drop = f"{r.unscored} answers could not be judged" if r.unscored else "neither"
        why = "" if r.id in selected else drop if label == "drop" else "not drawn"
        result.append(Curated(counts=r, label=label, selected=r.id in selected, reason=why))
    return result


def _digests(examples: Mapping[str, Example]) -> dict[str, str]:
    """Row of every image of a validation set, by digest.

    Raises:
        DataError: one cannot be read; whether it leaks would not be known.
    """
    found: dict[str, str] = {}
    for key in examples:
        try:
            found.setdefault(_digest(examples[key], f"row {key}"), key)
        except InputError as error:
            raise DataError(f"--validation: {error}") from None
    return found


def _digest(example: Example, row: str) -> str:
    return images_digest([picture.image for picture in open_pictures(example, row=row)])


def write_tables(out: Path, rows: Sequence[Curated], examples: Mapping[str, Example]) -> None:
    """`counts.parquet` with every row, `curated.parquet` with the selected ones in the schema of the released sets, images and
    all, and `rejects.jsonl` with file, row and reason."""
    import pyarrow
    from pyarrow import parquet

    name = getattr(examples, "name", "data")
    table = pyarrow.Table.from_pylist([_count_row(c) for c in rows], schema=_counts_schema(pyarrow))
    replace(out / "counts.parquet", lambda path: parquet.write_table(table, path))
    keys = list(examples)
    chosen = [c for c in rows if c.selected]

    def write(path: Path) -> None:
        with parquet.ParquetWriter(path, _curated_schema(pyarrow)) as writer:
            for batch in _batches(chosen):
                records = [_curated_row(c, _unchanged(c, examples[keys[c.counts.row]])) for c in batch]
                writer.write_table(pyarrow.Table.from_pylist(records, schema=_curated_schema(pyarrow)))

    replace(out / "curated.parquet", write)
    rejects = [{"file": name, "row": c.counts.row, "reason": c.reason} for c in rows if c.label is None]
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejects)
    replace_text(out / "rejects.jsonl", text)


def _unchanged(c: Curated, example: Example) -> Example:
    """The example that was counted.

    Raises:
        DataError: another one stands in its row now.
    """
    if content_id(example, _digest(example, f"row {c.counts.row}")) != c.counts.id:
        raise DataError(f"row {c.counts.row}: is not the example that was counted; the data has changed since, use another --out")
    return example


def _counts_schema(pa: Any) -> Any:
    names = ("row", "correct_low", "correct_full", "unscored")
    texts = ("id", "label", "reason")
    return pa.schema([*((n, pa.int64()) for n in names), *((n, pa.string()) for n in texts), ("selected", pa.bool_())])


def _curated_schema(pa: Any) -> Any:
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    info = pa.struct([("use_tool", pa.bool_())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("problem", pa.string()),
            ("earlier", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("images", image),
            ("original_answer", pa.string()),
            ("aliases", pa.list_(pa.string())),
            ("data_source", pa.string()),
            ("info", info),
            ("correct_low", pa.int64()),
            ("correct_full", pa.int64()),
            ("row", pa.int64()),
        ]
    )


def _count_row(c: Curated) -> dict[str, Any]:
    r = c.counts
    numbers = {"row": r.row, "correct_low": r.correct_low, "correct_full": r.correct_full, "unscored": r.unscored}
    return numbers | {"id": r.id, "label": c.label or "rejected", "reason": c.reason, "selected": c.selected}


def _curated_row(c: Curated, example: Example) -> dict[str, Any]:
    return {
        "id": c.counts.id,
        "problem": example.question if _marked(example) else IMAGE_MARK * len(example.images) + example.question,
        "earlier": [{"role": role, "content": text} for role, text, _ in example.conversation],
        "images": [{"bytes": _bytes(image), "path": None} for image in example.images],
        "original_answer": example.answer,
        "aliases": list(example.aliases),
        "data_source": example.family,
        "info": {"use_tool": c.label == "needs_full"},
        "correct_low": c.counts.correct_low,
        "correct_full": c.counts.correct_full,
        "row": c.counts.row,
    }


def _marked(example: Example) -> bool:
    """Whether the conversation says where the images stand."""
    return any(IMAGE_MARK in text for text in (example.question, *(text for _, text, _ in example.conversation)))


def _bytes(image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _batches(rows: Sequence[Curated]) -> Iterator[Sequence[Curated]]:
    for begin in range(0, len(rows), _AT_ONCE):
        yield rows[begin : begin + _AT_ONCE]


def summarise(rows: Sequence[Curated], examples: Mapping[str, Example], thresholds: Thresholds) -> dict[str, Any]:
    """Counts by label and family, the distribution of correct answers, cost, and agreement where the need is known."""
    labels = Counter(c.label or "rejected" for c in rows)
    scored = [c for c in rows if c.label is not None]
    seconds = sum(c.counts.seconds for c in scored)
    grid = [[0] * (thresholds.rollouts + 1) for _ in range(thresholds.rollouts + 1)]
    for c in scored:
        grid[c.counts.correct_low][c.counts.correct_full] += 1
    known = [(c.label, c.counts.need) for c in scored if c.counts.need is not None]
    return {
        "rows": len(examples),
        "looked_at": len(rows),
        **{name: labels[name] for name in ("low_suffices", "needs_full", "drop", "rejected")},
        **{cause: sum(c.rejected == cause for c in rows) for cause in ("unusable", "leaked", "duplicate")},
        "selected": sum(c.selected for c in rows),
        "unscored_answers": sum(c.counts.unscored for c in scored),
        "thresholds": vars(thresholds),
        "correct_low_by_correct_full": grid,
        "worker_seconds": round(seconds, 1),
        "worker_seconds_per_example": round(seconds / len(scored), 3) if scored else None,
        "agreement": _agreement(known) if known else None,
    }


def _agreement(known: Sequence[tuple[Label | None, str | None]]) -> dict[str, float | None]:
    """Precision and recall of `needs_full` against the known need; recall also among those that were not dropped."""
    named = sum(label == "needs_full" for label, _ in known)
    right = sum(label == "needs_full" and need == "hard" for label, need in known)
    hard = sum(need == "hard" for _, need in known)
    kept = sum(need == "hard" and label != "drop" for label, need in known)
    return {
        "precision": right / named if named else None,
        "recall": right / hard if hard else None,
        "recall_of_kept": right / kept if kept else None,
    }
