"""Is a predicted answer the reference answer? What a judge is given, what it says, and what an ending means to all of them.

A judge sees text alone: question, reference, prediction. What cannot be judged is *unscored*, never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, runtime_checkable
from typing import Protocol as TypingProtocol

from visionthink import records
from visionthink.transcript import Transcript

VerdictKind = Literal["correct", "wrong", "unscored"]

JUDGES = ("rules", "exact")
"""The judges that have a name."""
NO_REFERENCE = "no reference answer"
"""The reason where there is nothing to compare an answer with."""


@dataclass(frozen=True)
class Verdict:
    """`by` names the judge; `reason` says in a few words what decided."""

    verdict: VerdictKind
    by: str
    reason: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Verdict:
        """The verdict in a record that may hold more.

        Raises:
            ValueError: a field is missing, or is something else; the message names it.
        """
        verdict: Verdict = records.read(cls, {name: record[name] for name in VERDICT_FIELDS if name in record})
        return verdict


VERDICT_FIELDS = tuple(Verdict.__annotations__)


@dataclass(frozen=True)
class Answer:
    """What is judged. `references` holds the reference answer and its aliases."""

    question: str
    prediction: str
    references: tuple[str, ...]


class Judge(TypingProtocol):
    """Compares answers, many at a time. A failure to judge is a verdict (unscored), not an exception."""

    @property
    def identity(self) -> str:
        """Names the judge and everything its verdicts depend on."""
        ...

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in the order of the answers."""
        ...

    def usage(self) -> dict[str, float]:
        """What judging has cost so far, by name; empty where it costs nothing."""
        ...


@runtime_checkable
class RemoteJudge(Judge, TypingProtocol):
    """A judge that asks a server, and mostly waits for it. Several threads may ask it at once."""

    @property
    def down(self) -> str:
        """Why the server is not asked for the time being, with the judge's name; empty while it is."""
        ...

    @property
    def outages(self) -> int:
        """How often the server has been down."""
        ...


def to_compare(transcripts: Sequence[Transcript]) -> list[Answer]:
    """What a judge is asked of episodes: nothing about those whose ending decides."""
    return [_answer(t) for t in transcripts if _by_ending(t) is None]


def judge_transcripts(judge: Judge, transcripts: Sequence[Transcript]) -> list[Verdict]:
    """Verdicts on episodes, in order. One that ended without an answer is wrong, except where the policy failed or refused."""
    by_ending = [_by_ending(t) for t in transcripts]
    open_ = [i for i, verdict in enumerate(by_ending) if verdict is None]
    compared = dict(zip(open_, judge.compare([_answer(transcripts[i]) for i in open_]), strict=True))
    return [verdict or compared[i] for i, verdict in enumerate(by_ending)]


def _by_ending(transcript: Transcript) -> Verdict | None:
    if transcript.reference is None:
        return Verdict("unscored", "ending", NO_REFERENCE)
    if transcript.stop_reason in ("policy_error", "refused"):
        return Verdict("unscored", "ending", str(transcript.stop_reason))
    if transcript.answer is None:
        return Verdict("wrong", "ending", f"no answer: {transcript.stop_reason}")
    return None


def _answer(transcript: Transcript) -> Answer:
    return Answer(transcript.question, transcript.answer or "", (transcript.reference or "", *transcript.aliases))
