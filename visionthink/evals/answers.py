"""Lines of saved answers: our transcripts, lmms-eval's sample logs, or plain rows."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.errors import DataError
from visionthink.protocol import extract_answer
from visionthink.rewards.judge import Answer, Verdict, VerdictKind
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
        DataError: there is no such file, or it is empty.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    any_line = False
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                any_line = True
                yield _read(number, raw)
    if not any_line:
        raise DataError(f"{path}: is empty")


def _read(number: int, raw: bytes) -> SavedAnswer:
    try:
        record = json.loads(raw)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if "turns" in record:
            return _transcript(number, record)
        if "target" in record and "doc_id" in record:
            return _lmms_eval(number, record)
        return _plain(number, record)
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except json.JSONDecodeError:
        reason = "not a JSON object"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error}" if isinstance(error, ValueError) else "not a transcript, a sample of lmms-eval, or a plain row"
    return SavedAnswer(line=number, id=str(number), content=Verdict("unscored", "input", f"line {number}: {reason}"))


def _transcript(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    fields = {k: v for k, v in record.items() if k not in ("verdict", "by", "reason")}
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
    if isinstance(target, str) and target[:1] == "[" and target[-1:] == "]":  # written with str()
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            listed = ast.literal_eval(target)
            target = listed if isinstance(listed, list) and all(isinstance(t, str) for t in listed) else target  # not [0, 1]
    answer = Answer(question if isinstance(question, str) else "", extract_answer(replies), _references(target, "target"))
    return SavedAnswer(line=number, id=str(record["doc_id"]), content=answer, recorded=_recorded(record))


def _plain(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    for name in ("question", "ground_truth", "prediction"):
        if name not in record:
            raise ValueError(f"no {name}")
    question, prediction = record["question"], record["prediction"]
    if not isinstance(question, str) or not isinstance(prediction, (str, int, float)):
        raise ValueError("question and prediction must be text")
    answer = Answer(question, extract_answer(str(prediction)), _references(record["ground_truth"], "ground_truth"))
    return SavedAnswer(line=number, id=str(record.get("id", number)), content=answer, recorded=_recorded(record))


def _references(value: Any, name: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(v, (dict, list)) or v is None for v in values):
        raise ValueError(f"{name} must be text or a list of texts")
    return tuple(str(v) for v in values)


def _recorded(record: Mapping[str, Any]) -> VerdictKind | None:
    verdict = record.get("verdict")
    return verdict if verdict in ("correct", "wrong", "unscored") else None
