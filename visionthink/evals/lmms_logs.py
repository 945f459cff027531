"""lmms-eval's sample logs and the plug-in's sidecar -> scored transcripts: its scores, our costs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.durable import stored_settings
from visionthink.errors import DataError, OptionError
from visionthink.evals.answers import SavedAnswer, read_answers
from visionthink.evals.integrations.lmms_requests import Failed
from visionthink.evals.metrics import Scored
from visionthink.evals.run_folder import write_run
from visionthink.evals.summary import summarise
from visionthink.rewards.judge import Answer, Judge, Verdict, judge_transcripts
from visionthink.transcript import Transcript
from visionthink.types import StopReason

_SAMPLES = re.compile(r"(?P<stamp>\d{8}_\d{6})_samples_(?P<task>.+)\.jsonl")
_SIDECAR = re.compile(r"(?P<stamp>\d{8}_\d{6})_visionthink\.jsonl")


@dataclass(frozen=True, kw_only=True)
class LmmsRun:
    """What one run of lmms-eval said, in its order."""

    scored: list[Scored]
    failed: list[Failed]
    """Requests that no episode could be begun for; lmms-eval scored an empty answer for them."""
    tasks: tuple[str, ...]
    model: str
    policy: str


def read_lmms_logs(path: Path, *, sidecar: Path | None = None, judge: Judge | None = None) -> LmmsRun:
    """Read one run's samples.

    A score of 0 or 1 is the verdict, by `lmms-eval:METRIC`; where it is neither (ANLS, graded answers), or where smaller is
    better, `judge` decides, and without one the answer is unscored. So is an episode whose policy failed.

    Args:
        path: one file of samples, its folder, or what the names of one run's files begin with (`logs/tiny/20260102_030405`).
        sidecar: default: the first that was begun beside the samples after their run.

    Raises:
        DataError: a file is missing or damaged, holds another run, or the folder holds several.
    """
    files = _sample_files(path)
    beside = sidecar or _sidecar(files[0])
    ends = _read_sidecar(beside)
    scored, failed, undecided = list[Scored](), list[Failed](), list[int]()
    for file in files:
        task = _named(file)["task"]
        metrics = _metrics(file, task)
        for sample, answer in _samples(file):
            name = f"sample {sample.get('doc_id')} of {file.name}"
            end = ends.get((task, str(sample.get("doc_id"))))
            if end is None:
                raise DataError(f"{name}: not in {beside}; was it answered from a cache (--use_cache)?")
            if isinstance(end, Failed):
                failed.append(end)
                continue
            _check_same_run(end, sample, name, beside)
            verdict = _verdict(end, sample, metrics)
            if verdict.verdict == "unscored" and end.stop_reason not in (StopReason.POLICY_ERROR, StopReason.REFUSED):
                undecided.append(len(scored))
            scored.append(Scored(_with_references(end, answer), verdict))
    if judge is not None:
        verdicts = judge_transcripts(judge, [scored[i].transcript for i in undecided])
        for i, verdict in zip(undecided, verdicts, strict=True):
            scored[i] = dataclasses.replace(scored[i], verdict=verdict)
    said = next((end.metadata for end in ends.values()), {})
    return LmmsRun(
        scored=scored,
        failed=failed,
        tasks=tuple(_named(f)["task"] for f in files),
        model=str(said.get("model")),
        policy=str(said.get("policy")),
    )


def evaluate_logs(path: Path, out: Path, *, sidecar: Path | None = None, judge: Judge | None = None) -> dict[str, Any]:
    """Write a run of lmms-eval as the folder that `runner.evaluate` writes, views left out; returns the summary.

    Raises:
        OptionError: `out` holds the summary of something else.
        DataError: as `read_lmms_logs`, or no request of the run became an episode.
    """
    check_out(out)
    run = read_lmms_logs(path, sidecar=sidecar, judge=judge)
    if not run.scored:
        raise DataError(f"{path}: no request of this run became an episode")
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(run.scored, suite=",".join(run.tasks), model=run.model, policy=run.policy)
    identity = "lmms-eval" if judge is None else f"lmms-eval,{judge.identity}"
    summary |= {"judge": identity, "judge_usage": judge.usage() if judge else {}, "failed": len(run.failed)}
    write_run(out, summary, run.scored, {f.example_id: f.reason for f in run.failed})
    return summary


def check_out(out: Path) -> None:
    """
    Raises:
        OptionError: a summary stands in a folder that is not of a run of lmms-eval.
    """
    try:
        ours = str(records.parse((out / "summary.json").read_bytes()).get("judge")).startswith("lmms-eval")
    except FileNotFoundError:
        return
    except ValueError:
        ours = False
    if not ours or stored_settings(out) is not None:
        raise OptionError(f"--out {out}: holds the summary of something else; name another folder")


# ------------------------------------------------------------------------------------------------ lmms-eval's files


def _named(file: Path) -> re.Match[str]:
    match = _SAMPLES.fullmatch(file.name)
    if match is None:
        raise DataError(f"{file}: not named as lmms-eval names its samples, DATE_TIME_samples_TASK.jsonl")
    return match


def _sample_files(path: Path) -> list[Path]:
    """The files of samples of one run, one for each task."""
    if path.is_file():
        _named(path)
        return [path]
    found = path.rglob("*_samples_*.jsonl") if path.is_dir() else path.parent.glob(f"{path.name}_samples_*.jsonl")
    files = sorted(file for file in found if _SAMPLES.fullmatch(file.name))
    if not files:
        raise DataError(f"{path}: no samples of lmms-eval; it writes them with --log_samples")
    runs = sorted({str(file.with_name(_named(file)["stamp"])) for file in files})
    if len(runs) > 1:
        raise DataError(f"{path}: holds samples of {len(runs)} runs; give one of {', '.join(runs)}")
    return files


def _metrics(samples: Path, task: str) -> list[str]:
    """The task's metrics where more is better, from the results beside the samples; none where these are missing."""
    results = samples.with_name(f"{_named(samples)['stamp']}_results.json")
    try:
        known = records.parse(results.read_bytes())["higher_is_better"][task]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name, more in known.items() if more is True] if isinstance(known, dict) else []


def _samples(file: Path) -> Iterator[tuple[dict[str, Any], SavedAnswer]]:
    """A sample and what is judged of it."""
    lines = [raw for raw in file.read_bytes().split(b"\n") if raw.strip()]
    for raw, answer in zip(lines, read_answers(file), strict=True):
        try:
            sample = records.parse(raw)
        except ValueError:
            sample = {}
        if "doc_id" not in sample:
            raise DataError(f"{file}, line {answer.line}: not a sample of lmms-eval")
        yield sample, answer


def _verdict(transcript: Transcript, sample: Mapping[str, Any], metrics: Sequence[str]) -> Verdict:
    if transcript.stop_reason in (StopReason.POLICY_ERROR, StopReason.REFUSED):
        return Verdict("unscored", "ending", str(transcript.stop_reason))
    for metric in metrics:
        value = sample.get(metric)
        value = value.get("score") if isinstance(value, Mapping) else value
        if isinstance(value, (bool, int, float)):
            decided = {0.0: "wrong", 1.0: "correct"}.get(float(value))
            reason = f"scored {value:g}" if decided else f"scored {value:g}, neither right nor wrong"
            return Verdict("unscored" if decided is None else decided, f"lmms-eval:{metric}", reason)  # type: ignore[arg-type]
    return Verdict("unscored", "lmms-eval", "no metric of the task is a number where more is better")


def _with_references(transcript: Transcript, answer: SavedAnswer) -> Transcript:
    """The sample's target, where it is text."""
    references = answer.content.references if isinstance(answer.content, Answer) else ()
    return dataclasses.replace(transcript, reference=references[0], aliases=references[1:]) if references else transcript


# ------------------------------------------------------------------------------------------------ the sidecar


def _sidecar(samples: Path) -> Path:
    """lmms-eval stamps a run when it begins, the plug-in when the run's first question is asked."""
    begun = _named(samples)["stamp"]
    beside = sorted(file for file in samples.parent.iterdir() if (m := _SIDECAR.fullmatch(file.name)) and m["stamp"] >= begun)
    if not beside:
        raise DataError(
            f"{samples}: no {begun}_visionthink.jsonl beside it: only the plug-in's transcripts say what the answers cost; "
            "give them, or judge the answers alone with `visionthink score`"
        )
    return beside[0]


def _read_sidecar(path: Path) -> dict[tuple[str, str], Transcript | Failed]:
    """Episodes by task and document; of repetitions the first."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    ends: dict[tuple[str, str], Transcript | Failed] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = records.parse(line)
            end = Failed.from_dict(record) if "failed" in record else Transcript.from_dict(record)
            ends.setdefault((str(end.family), str(end.metadata["doc_id"])), end)
        except (ValueError, KeyError):
            raise DataError(f"{path}, line {number}: not a transcript of the plug-in") from None
    return ends


def _check_same_run(transcript: Transcript, sample: Mapping[str, Any], name: str, sidecar: Path) -> None:
    """Two runs in one folder differ in what they read or said."""
    listed = sample.get("token_counts")
    counts = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else None
    ours = (transcript.visual_tokens + transcript.text_tokens, transcript.output_tokens)
    if counts and (counts.get("input_tokens"), counts.get("output_tokens")) != ours:
        raise DataError(f"{name}: its tokens are not those in {sidecar}, which is of another run")
