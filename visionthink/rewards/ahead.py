"""Judging while more is being said: answers go to the judge as soon as they are there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from visionthink.rewards.judge import Answer, Judge, Verdict, to_compare
from visionthink.transcript import Transcript


class AskedAhead:
    """A judge that has been asked before its verdicts are needed. Equal answers are judged once.

    Its verdicts, and what it raises, are those of the judge itself. It keeps every verdict, an unscored one as well, and is meant
    for the answers of one step.

    Args:
        judge: waits for someone else most of the time, and may be asked by several threads at once.
    """

    def __init__(self, judge: Judge):
        self._judge = judge
        self._asked: dict[Answer, tuple[Future[list[Verdict]], int]] = {}

    @property
    def identity(self) -> str:
        return self._judge.identity

    def usage(self) -> dict[str, float]:
        return self._judge.usage()

    def ask(self, answers: Sequence[Answer]) -> None:
        """Ask about answers, and return at once."""
        fresh = [answer for answer in dict.fromkeys(answers) if answer not in self._asked]
        if not fresh:
            return
        verdicts: Future[list[Verdict]] = Future()
        self._asked |= {answer: (verdicts, place) for place, answer in enumerate(fresh)}

        def work() -> None:
            try:
                verdicts.set_result(self._judge.compare(fresh))
            except BaseException as error:
                verdicts.set_exception(error)

        # a daemon, which an executor's threads are not: a program that is interrupted does not wait for a judge
        threading.Thread(target=work, daemon=True, name="judge").start()

    def begin(self, transcripts: Sequence[Transcript]) -> None:
        """Ask about episodes that have ended, and return at once."""
        self.ask(to_compare(transcripts))

    def compare(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in order, of what was asked before and of what was not."""
        self.ask(answers)
        asked = [self._asked[answer] for answer in answers]
        return [verdicts.result()[place] for verdicts, place in asked]
