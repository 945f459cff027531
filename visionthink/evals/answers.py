"""Lines of saved answers: our transcripts, lmms-eval's sample logs, or plain rows.

lmms-eval writes `str()` of a sample's reference, so that a split without answers has the reference "None" or "['None']": such a
text is no reference in its logs, and text as any other in plain rows.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.cells import check_utf8, is_blank, read_object, text_of
from visionthink.errors import DataError, one_line
from visionthink.protocol import extract_answer
from visionthink.rewards.judge import NO_REFERENCE, VERDICT_FIELDS, Answer, Verdict, VerdictKind
from visionthink.transcript import Transcript


@dataclass(frozen=True, kw_only=True)
class SavedAnswer:
    """One line. `content` is what there is to judge, or the verdict where that is settled: a line that cannot be read is
    unscored, and says why. `recorded` is the verdict that stands in the file."""

    line: int
    id: str
    content: Transcript | Answer | Verdict
    recorded: VerdictKind | None = None


def read_answers(path: Path) -> Iterator[SavedAnswer]:
    """Lines of a JSON-lines file, in order.

    Raises:
        DataError: there is no such file, it is empty, or it is not UTF-8 text.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    any_line = False
    with path.open("rb") as file:
        check_utf8(file.peek(4)[:4], path)
        for number, raw in enumerate(file, 1):
            if raw.strip():
                any_line = True
                yield _read(number, raw)
    if not any_line:
        raise DataError(f"{path}: is empty")


def _read(number: int, raw: bytes) -> SavedAnswer:
    try:
        record = read_object(raw)
        if "turns" in record:
            return _transcript(number, records.parse(raw))  # with infinite log-probabilities as they are
        if "target" in record and "doc_id" in record:
            return _lmms_eval(number, record)
        return _plain(number, record)
    except RecursionError:
        reason = "nested too deeply"
    except (ValueError, DataError) as error:
        reason = one_line(error)
    return SavedAnswer(line=number, id=str(number), content=Verdict("unscored", "input", f"line {number}: {reason}"))


def _transcript(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    fields = {k: v for k, v in record.items() if k not in VERDICT_FIELDS}
    transcript = Transcript.from_dict(fields)
    return SavedAnswer(line=number, id=transcript.example_id, content=transcript, recorded=_recorded(record))


def _lmms_eval(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    replies = record.get("filtered_resps", record.get("resps"))
    while isinstance(replies, list) and replies:
        replies = replies[0]
    if not isinstance(replies, str):
        raise ValueError("filtered_resps holds no text")
    doc = record.get("doc")
    question = (doc.get("question") if isinstance(doc, Mapping) else None) or record.get("input")
    target = record["target"]
    references = _references(_unwritten(target) if isinstance(target, str) else target, "target")
    content = _judged(question if isinstance(question, str) else "", replies, references)
    return SavedAnswer(line=number, id=str(record["doc_id"]), content=content, recorded=_recorded(record))


_NOTHING = ("", "None", "nan", "NaT", "<NA>")
"""What `str()` makes of a value that is missing, in Python and pandas."""


def _unwritten(target: str) -> Any:
    """What `str()` was called of: nothing, a list of texts, or text.

    Raises:
        ValueError: a mapping.
    """
    text = target.strip()
    listed = text[:1] + text[-1:] in ("[]", "()")
    parts = [part.strip().strip("'\"").strip() for part in text[1:-1].split(",")] if listed else [text]
    if all(part in _NOTHING for part in parts):
        return None
    if text[0] + text[-1] in ("[]", "{}"):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(text)
            if isinstance(value, dict):
                raise DataError("target is a mapping, not text")
            if isinstance(value, list) and all(isinstance(v, str) or v is None for v in value):  # not [0, 1]
                return value
    return target


def _judged(question: str, reply: str, references: tuple[str, ...]) -> Answer | Verdict:
    return Answer(question, extract_answer(reply), references) if references else Verdict("unscored", "input", NO_REFERENCE)


def _plain(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    for name in ("question", "ground_truth", "prediction"):
        if name not in record:
            raise ValueError(f"no {name}")
    question, prediction = record["question"], record["prediction"]
    if not isinstance(question, str):
        raise ValueError("question must be text")
    try:
        reply = text_of(prediction)
    except DataError as error:
        raise ValueError(f"prediction is {error}") from None
    content = _judged(question, reply, _references(record["ground_truth"], "ground_truth"))
    return SavedAnswer(line=number, id=str(record.get("id", number)), content=content, recorded=_recorded(record))


def _references(value: Any, name: str) -> tuple[str, ...]:
    """Those that are there: null and blank text are none."""
    try:
        return tuple(text_of(v) for v in (value if isinstance(value, list) else [value]) if not is_blank(v))
    except DataError as error:
        raise ValueError(f"{name} is {error}; text or a list of texts is expected") from None


def _recorded(record: Mapping[str, Any]) -> VerdictKind | None:
    verdict = record.get("verdict")
    return verdict if verdict in ("correct", "wrong", "unscored") else None
