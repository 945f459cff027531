"""OCRBench (arXiv 2305.07895): an answer is right if it holds the text that was to be read.

accuracy = right answers / n; `correct` is their number, which is the published score where n is 1000.

Texts are compared in lower case, line breaks as spaces, full-width characters as plain ones. Of handwritten formulas (dataset
HME100k) white space is dropped and case is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.benchmarks.counting import Figures, answered, average, references
from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript

QUESTION_TYPES = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)

_PLAIN = {0x3000: " "} | {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Full-width forms of ASCII, and the ideographic space."""


def ocrbench(scored: Sequence[Scored]) -> Figures:
    """Over all and by type of question."""
    kept, _ = answered(scored)
    return average(scored, _right) | {"correct": sum(t.answer is not None and _right(t.answer, t) for t in kept)}


def _right(answer: str, transcript: Transcript) -> bool:
    return holds(answer, references(transcript), formula=transcript.metadata.get("dataset") == "HME100k")


def holds(answer: str, wanted: Sequence[str], *, formula: bool) -> bool:
    """Whether the answer holds one of the texts. A text of nothing is held by no answer."""
    form = _formula if formula else _text
    return any(form(text) in form(answer) for text in wanted if form(text))


def _text(text: str) -> str:
    return text.translate(_PLAIN).lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")
