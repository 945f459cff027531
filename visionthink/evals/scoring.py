"""Saved answers x judge -> verdicts, one line each, and how they agree with another judge's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.durable import append_lines, lines_of_one, replace, replace_json
from visionthink.errors import DataError, OptionError
from visionthink.evals.answers import SavedAnswer, reason_of
from visionthink.rewards.judge import Answer, Judge, Verdict, VerdictKind, judge_transcripts
from visionthink.transcript import Transcript

AT_ONCE = 64
"""Answers judged together; so much work is lost at most when scoring is interrupted."""

KINDS: tuple[VerdictKind, ...] = ("correct", "wrong", "unscored")


def score(
    answers: Iterable[SavedAnswer],
    judge: Judge,
    out: Path | None = None,
    *,
    tell: Callable[[SavedAnswer, Verdict], None] = lambda answer, verdict: None,
) -> dict[str, Any]:
    """Judge them in order and `tell` of each; returns counts, accuracy, the judge and what it cost.

    With a folder `out`, verdicts are written to its `verdicts.jsonl` as they are given, those that stand there already are not
    asked for again, and what is returned is its `summary.json`.

    Raises:
        OptionError: `out` is a file, or the folder of something else.
        DataError: `out` holds verdicts of another judge, or lines that are none.
        StorageError: another process works in `out`.
    """
    answers = list(answers)
    if out is None:
        return _score(answers, judge, out, {}, tell)
    check_out(out, judge)
    file, summary_file = out / "verdicts.jsonl", out / "summary.json"
    with lines_of_one(out / ".lock", what="folder"):
        known = _resume(file, judge.identity, {(a.line, _digest(a)) for a in answers})
        file.touch()
        summary = _score(answers, judge, file, known, tell)
        replace_json(summary_file, summary)
    return summary


def check_out(out: Path, judge: Judge) -> None:
    """What can be known of the folder before anything is judged.

    Raises:
        OptionError, DataError: as `score`.
    """
    if next((place for place in (out, *out.parents) if place.is_file()), None):
        raise OptionError(f"--out {out}: is a file; name a folder, which gets verdicts.jsonl and summary.json")
    if (out / "summary.json").exists() and not (out / "verdicts.jsonl").exists():
        raise OptionError(f"--out {out}: holds the summary of something else; name another folder")
    for _ in _stored(out / "verdicts.jsonl", judge.identity):
        pass


def _score(
    answers: Sequence[SavedAnswer],
    judge: Judge,
    out: Path | None,
    known: Mapping[tuple[int, str], Verdict],
    tell: Callable[[SavedAnswer, Verdict], None],
) -> dict[str, Any]:
    counts: Counter[VerdictKind] = Counter()
    recorded: Counter[tuple[VerdictKind, VerdictKind]] = Counter()
    reasons: Counter[str] = Counter()
    left = iter(answers)
    while batch := list(islice(left, AT_ONCE)):
        fresh = [a for a in batch if (a.line, _digest(a)) not in known]
        given = dict(zip((a.line for a in fresh), verdicts(judge, fresh), strict=True))
        if out:
            with out.open("ab") as file:
                append_lines(file, *(_line(a, given[a.line], judge.identity) for a in fresh))
        for answer in batch:
            verdict = given.get(answer.line) or known[answer.line, _digest(answer)]
            counts[verdict.verdict] += 1
            if verdict.verdict == "unscored":
                reasons[reason_of(answer, verdict)] += 1
            if answer.recorded:
                recorded[answer.recorded, verdict.verdict] += 1
            tell(answer, verdict)
    scored = counts["correct"] + counts["wrong"]
    return {
        "judge": judge.identity,
        "n": counts.total(),
        **{kind: counts[kind] for kind in KINDS},
        "accuracy": counts["correct"] / scored if scored else None,
        "unscored_reasons": dict(reasons.most_common(5)),
        "usage": judge.usage(),
        "confusion": confusion(recorded),
    }


def verdicts(judge: Judge, answers: Sequence[SavedAnswer]) -> list[Verdict]:
    """Verdicts in the order of the answers. Transcripts are judged by their ending first."""
    found: dict[int, Verdict] = {i: a.content for i, a in enumerate(answers) if isinstance(a.content, Verdict)}
    transcripts = {i: a.content for i, a in enumerate(answers) if isinstance(a.content, Transcript)}
    plain = {i: a.content for i, a in enumerate(answers) if isinstance(a.content, Answer)}
    found |= dict(zip(transcripts, judge_transcripts(judge, list(transcripts.values())), strict=True))
    found |= dict(zip(plain, judge.compare(list(plain.values())), strict=True))
    return [found[i] for i in range(len(answers))]


def confusion(pairs: Counter[tuple[VerdictKind, VerdictKind]]) -> dict[str, Any] | None:
    """Counts of pairs (the other judge's verdict, this judge's), and agreement and Cohen's kappa (1960) where both decided."""
    if not pairs:
        return None
    table = {a: {b: pairs[a, b] for b in KINDS} for a in KINDS}
    both = [(a, b) for a in KINDS[:2] for b in KINDS[:2]]
    n = sum(pairs[p] for p in both)
    if not n:
        return {"counts": table, "both_decided": 0, "agreement": None, "kappa": None}
    observed = sum(pairs[a, a] for a in KINDS[:2]) / n
    by_chance = sum(sum(pairs[a, b] for b in KINDS[:2]) * sum(pairs[b, a] for b in KINDS[:2]) for a in KINDS[:2]) / n**2
    kappa = (observed - by_chance) / (1 - by_chance) if by_chance < 1 else None
    return {"counts": table, "both_decided": n, "agreement": observed, "kappa": kappa}


def _line(answer: SavedAnswer, verdict: Verdict, judge: str) -> dict[str, Any]:
    return {"line": answer.line, "id": answer.id, **vars(verdict), "judge": judge, "of": _digest(answer)}


def _digest(answer: SavedAnswer) -> str:
    """A digest of what was judged. A line that was changed is judged again."""
    return hashlib.sha256(repr(answer.content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _stored(file: Path, judge: str) -> Iterator[tuple[bytes, tuple[int, str], Verdict]]:
    """Whole lines with what they say: the line and what was judged, and the verdict."""
    for number, raw in enumerate(file.read_bytes().splitlines(keepends=True) if file.exists() else (), 1):
        if not raw.endswith(b"\n"):
            return
        try:
            record = records.parse(raw)
            of, key = record["judge"], (int(record["line"]), str(record["of"]))
            verdict = Verdict.from_record(record)
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{file}, line {number}: not a verdict; give --out another folder") from None
        if of != judge:
            raise DataError(f"{file}: holds verdicts of {of}; give --out another folder")
        yield raw, key, verdict


def _resume(file: Path, judge: str, asked: set[tuple[int, str]]) -> dict[tuple[int, str], Verdict]:
    """Verdicts on what is asked that are there already, by line and what was judged. All other lines are left out: a torn one,
    one about an answer that is no longer there, and what is unscored, which is asked again."""
    kept, known = list[bytes](), dict[tuple[int, str], Verdict]()
    for raw, key, verdict in _stored(file, judge):
        if verdict.verdict != "unscored" and key in asked and key not in known:
            known[key] = verdict
            kept.append(raw)
    if file.exists():
        replace(file, lambda partial: partial.write_bytes(b"".join(kept)))
    return known
