"""Lines of saved answers: our transcripts, lmms-eval's sample logs, or plain rows.

lmms-eval writes `str()` of a sample's reference, so that a split without answers has the reference "None" or "['None']": such a
text is no reference in its logs, and text as any other in plain rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.cells import Number, check_utf8, is_blank, quoted, read_object, text_of
from visionthink.errors import DataError, one_line
from visionthink.evals.printed import NOTHING, read_printed
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
        DataError: there is no such file, it is empty, it is packed, or it is not UTF-8 text.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file of JSON lines")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    any_line = False
    with path.open("rb") as file:
        head = file.peek(4)[:4]
        if head.startswith(b"\x1f\x8b"):
            raise DataError(f"{path}: is packed by gzip; unpack it first")
        check_utf8(head, path)
        for number, raw in enumerate(file, 1):
            if raw.strip():
                any_line = True
                yield _read(number, raw)
    if not any_line:
        raise DataError(f"{path}: is empty")


def check_any_usable(path: Path, answers: Sequence[SavedAnswer]) -> None:
    """
    Raises:
        DataError: none of the answers of a file could be read; the message gives the most frequent reason.
    """
    reasons = Counter(reason_of(a, a.content) for a in answers if isinstance(a.content, Verdict))
    if reasons.total() == len(answers) and NO_REFERENCE not in reasons:
        [(reason, count)] = reasons.most_common(1)
        others = f" ({count} of {len(answers)} lines)" if count < len(answers) else ""
        raise DataError(f"{path}: no row can be judged: {reason}{others}; JSON lines are wanted, one object on each line")


def reason_of(answer: SavedAnswer, verdict: Verdict) -> str:
    """Why, without the number of the line, so that lines with the same reason can be counted together."""
    return verdict.reason.removeprefix(f"line {answer.line}: ")


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


def _unwritten(target: str) -> Any:
    """What `str()` was called of: nothing, a list, or text. A list of several numbers is text: [0, 1] is an interval.

    Raises:
        DataError: something else.
    """
    try:
        value = read_printed(target)
    except DataError as error:
        raise DataError(f"target is {error}") from None
    if not isinstance(value, list):
        return value
    if all(v is None or v in NOTHING for v in value):
        return None
    return target if len(value) > 1 and all(isinstance(v, Number) for v in value) else value


def _judged(question: str, reply: str, references: tuple[str, ...]) -> Answer | Verdict:
    return Answer(question, extract_answer(reply), references) if references else Verdict("unscored", "input", NO_REFERENCE)


def _plain(number: int, record: Mapping[str, Any]) -> SavedAnswer:
    for name in ("question", "ground_truth", "prediction"):
        if name not in record:
            raise ValueError(f"no {name}; it has {quoted(record) or 'nothing'}")
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
