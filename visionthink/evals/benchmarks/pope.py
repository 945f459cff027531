"""POPE (arXiv 2305.10355): is an object there? Half of the questions are about objects that are not.

With yes as the positive class, and TP, FP, FN counted over answers:

precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), accuracy = right answers / n

Whatever is not "yes" where yes is right is a miss (FN); lmms-eval leaves it out of the recall when it is not "no" either.
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.benchmarks.counting import Figures, answered, by_family, ratio
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript


def pope(scored: Sequence[Scored]) -> Figures:
    """Over all and by category. `yes_ratio` is of the predictions, `reference_yes_ratio` of the reference answers; `unparsed`
    answers are neither yes nor no, and wrong."""
    kept, unscored = answered(scored)
    said = [_said(t) for t in kept]
    figures = _rates(kept) | {
        "yes_ratio": ratio(said.count("yes"), len(kept)),
        "reference_yes_ratio": ratio(sum(_wanted(t) == "yes" for t in kept), len(kept)),
        "n": len(kept),
        "unscored": unscored,
        "unparsed": sum(answer not in ("yes", "no", None) for answer in said),
    }
    for family, members in by_family(kept).items():
        figures |= {f"{name}/{family}": value for name, value in _rates(members).items()}
    return figures


def _rates(transcripts: Sequence[Transcript]) -> Figures:
    pairs = [(_said(t), _wanted(t)) for t in transcripts]
    hits = sum(said == wanted == "yes" for said, wanted in pairs)
    said_yes, wanted_yes = sum(said == "yes" for said, _ in pairs), sum(wanted == "yes" for _, wanted in pairs)
    return {
        "f1": ratio(2 * hits, said_yes + wanted_yes),
        "precision": ratio(hits, said_yes),
        "recall": ratio(hits, wanted_yes),
        "accuracy": ratio(sum(said == wanted for said, wanted in pairs), len(pairs)),
    }


def _said(transcript: Transcript) -> str | None:
    return None if transcript.answer is None else read_word(transcript.answer)


def _wanted(transcript: Transcript) -> str:
    return read_word(transcript.reference or "")


def read_word(answer: str) -> str:
    """The answer as a word: "Yes." is yes. A sentence stays one, and is no yes."""
    return answer.lower().strip().rstrip(".!").rstrip()
