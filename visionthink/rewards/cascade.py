"""Judges in a row: each is asked only what the one before could not decide."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from visionthink.errors import OptionError
from visionthink.rewards.judge import Answer, Judge, RemoteJudge, Verdict


@dataclass(kw_only=True)
class Stage:
    """What came to a judge of the cascade, what it decided, and how often the next one agreed where both were asked."""

    seen: int = 0
    decided: int = 0
    audited: int = 0
    agreed: int = 0


class Cascade:
    """The first judge that is sure decides.

    A share `audit` of what a judge decided is shown to the next one as well, only to count how often they agree; which answers
    these are follows from their text alone. Several threads may ask at once.
    """

    def __init__(self, judges: Sequence[Judge], *, audit: float = 0.0):
        self.judges, self.audit = tuple(judges), audit
        self.stages = [Stage() for _ in self.judges]
        self._counting = threading.Lock()

    @property
    def identity(self) -> str:
        return ", then ".join(j.identity for j in self.judges)

    def usage(self) -> dict[str, float]:
        """By judge: the share that was passed on to the next, agreement where audited, and what the judge itself counted."""
        total: dict[str, float] = {}
        for number, (judge, stage) in enumerate(zip(self.judges, self.stages, strict=True), 1):
            named = {"seen": stage.seen, "passed_on": 1 - stage.decided / stage.seen if stage.seen else 0.0}
            if stage.audited:
                named |= {"audited": stage.audited, "agreement": stage.agreed / stage.audited}
            total |= {f"{number}/{name}": value for name, value in (named | judge.usage()).items()}
        return total

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order; of what nobody decided, the last judge's."""
        verdicts: list[Verdict | None] = [None] * len(answers)
        audited: dict[int, Verdict] = {}
        before: Stage | None = None
        for judge, stage in zip(self.judges, self.stages, strict=True):
            left = [i for i, v in enumerate(verdicts) if v is None or v.verdict == "unscored"]
            asked = [*left, *audited]
            given = dict(zip(asked, judge.compare([answers[i] for i in asked]), strict=True))
            for i in left:
                verdicts[i] = given[i]
            decided = {i: given[i] for i in left if given[i].verdict != "unscored"}
            both = [i for i in audited if given[i].verdict != "unscored"]
            with self._counting:
                if before:
                    before.audited += len(both)
                    before.agreed += sum(given[i].verdict == audited[i].verdict for i in both)
                stage.seen += len(left)
                stage.decided += len(decided)
            audited = {i: v for i, v in decided.items() if _drawn(answers[i], self.audit)}
            before = stage
        return [v or Verdict("unscored", self.identity, "no judge") for v in verdicts]


def _drawn(answer: Answer, share: float) -> bool:
    text = "\0".join((answer.question, answer.prediction, *answer.references))
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) < share * 2**32


def remote(judge: Judge) -> list[RemoteJudge]:
    """The parts of a judge that ask a server, in order."""
    parts = judge.judges if isinstance(judge, Cascade) else (judge,)
    return [part for part in parts if isinstance(part, RemoteJudge)]


def outages(judge: Judge) -> int:
    """How often the last server has been down, after which nobody follows who would decide instead; 0 where none is asked."""
    return next((part.outages for part in reversed(remote(judge))), 0)


def outage(judge: Judge, before: int) -> str:
    """Why answers have stayed unscored: the last server is down, or was so since it had been down `before` times. Empty where
    it was not, and where no server is asked."""
    for part in reversed(remote(judge)):
        return part.down or (f"judge {part.identity} was down for a while" if part.outages > before else "")
    return ""


class _Steady:
    """A judge that leaves unscored what it cannot be asked."""

    def __init__(self, judge: Judge):
        self._judge, self._down = judge, ""

    @property
    def identity(self) -> str:
        try:
            return self._judge.identity
        except OptionError:
            return "a judge that cannot be reached"

    def usage(self) -> dict[str, float]:
        return self._judge.usage()

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        if not self._down:
            try:
                return self._judge.compare(answers)
            except OptionError as error:  # it has never answered: asking again and again would cost its deadline each time
                self._down = str(error)
        return [Verdict("unscored", self.identity, self._down) for _ in answers]


def steady(judge: Judge) -> Judge:
    """The same judge, for work whose answers are kept and can be judged again: where it is down, answers are left unscored, and
    what the judges before it decide still counts."""
    if isinstance(judge, Cascade):
        return Cascade([_Steady(j) for j in judge.judges], audit=judge.audit)
    return _Steady(judge)
