"""The benchmarks of the paper (arXiv 2507.13348, Tables 1, 2, 7) as values: where the data are, what is asked, what is counted.

A local copy in the dataset's own schema becomes examples without being read:

    rows, folder = open_rows("chartqa.parquet", "test")
    examples = ExampleTable("chartqa.parquet", benchmark("chartqa").rows("chartqa.parquet", rows), folder)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from visionthink.cells import quoted
from visionthink.errors import DataError, OptionError
from visionthink.evals.benchmarks import questions
from visionthink.evals.benchmarks.counting import Metric
from visionthink.evals.benchmarks.judged import judged_accuracy
from visionthink.evals.benchmarks.mean_anls import mean_anls
from visionthink.evals.benchmarks.mmbench import mmbench
from visionthink.evals.benchmarks.mme import mme
from visionthink.evals.benchmarks.mmmu import mmmu, mmmu_pro
from visionthink.evals.benchmarks.ocrbench import ocrbench
from visionthink.evals.benchmarks.pope import pope
from visionthink.evals.benchmarks.realworldqa import realworldqa
from visionthink.evals.benchmarks.relaxed_accuracy import relaxed_accuracy
from visionthink.evals.benchmarks.rows import Ask, AskedRows, Table

_PARTS = {"question": "question", "image": "image", "answer": "answer"}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark. `headline` is the figure of `metric` that the paper reports, `scale` times it."""

    name: str
    key: str
    """The name on the command line."""
    task: str
    """The name of the task in lmms-eval 0.7.3."""
    dataset: str
    split: str
    ask: Ask = field(repr=False)
    metric: Metric = field(repr=False)
    headline: str
    scale: float = 100.0
    columns: Mapping[str, str] = field(default_factory=lambda: _PARTS)
    """The dataset's names of question, image and answer."""
    needs: tuple[str, ...] = ()
    """Further columns it cannot do without."""
    optional: tuple[str, ...] = ()
    """Parts that some of its sets lack."""
    judged: bool = False
    """Whether the metric is the share that a judge finds correct."""
    caveats: tuple[str, ...] = ()

    def rows(self, name: str, rows: Table, columns: Mapping[str, str] | None = None) -> AskedRows:
        """The rows of a table as what the model is asked; each is made when it is read.

        Args:
            name: of the table, for messages.
            columns: other names of question, image or answer.

        Raises:
            DataError: a column is missing.
        """
        parts = {**self.columns, **(columns or {})}
        wanted = [*(column for part, column in parts.items() if part not in self.optional), *self.needs]
        present = rows.column_names
        if lacking := [column for column in wanted if column not in present]:
            raise DataError(f"{name}: no column {' or '.join(lacking)}, as {self.name} has; it has {quoted(present)}")
        return AskedRows(rows, parts, self.ask)


BENCHMARKS = (
    Benchmark(
        name="ChartQA",
        key="chartqa",
        task="chartqa",
        dataset="lmms-lab-encoder/ChartQA",
        split="test",
        ask=questions.chartqa,
        metric=relaxed_accuracy,
        headline="relaxed_accuracy",
        needs=("type",),
        caveats=(
            "The paper's answers were judged by GPT-4o and people, so neither form of relaxed accuracy is comparable with the "
            "paper's number.",
            "The usual form calls 47 % and 47 different, compares a reference of 0 as text, and lets 2014 pass for 2015.",
        ),
    ),
    Benchmark(
        name="OCRBench",
        key="ocrbench",
        task="ocrbench",
        dataset="echo840/OCRBench",
        split="test",
        ask=questions.ocrbench,
        metric=ocrbench,
        headline="accuracy",
        needs=("dataset", "question_type"),
        caveats=("An answer that contains the reference is right, whatever else it contains.",),
    ),
    Benchmark(
        name="DocVQA",
        key="docvqa",
        task="docvqa_val",
        dataset="lmms-lab-encoder/DocVQA (DocVQA)",
        split="validation",
        ask=questions.docvqa,
        metric=mean_anls,
        headline="anls",
        columns=_PARTS | {"answer": "answers"},
        caveats=("Answers in whole sentences score 0, because the whole text is compared.",),
    ),
    Benchmark(
        name="MME",
        key="mme",
        task="mme",
        dataset="lmms-lab-encoder/MME",
        split="test",
        ask=questions.mme,
        metric=mme,
        headline="total",
        scale=1.0,
        needs=("category", "question_id"),
        caveats=(
            "The total is a sum over 14 categories: part of the data gives part of the sum.",
            "An answer is read from its first four characters.",
        ),
    ),
    Benchmark(
        name="MMVet",
        key="mmvet",
        task="mmvet",
        dataset="lmms-lab-encoder/MMVet",
        split="test",
        ask=questions.mmvet,
        metric=judged_accuracy,
        headline="accuracy",
        judged=True,
        caveats=(
            "The published score is graded from 0 to 1 by GPT-4o; our judge says correct or wrong.",
            "In Table 1 of the paper, the numbers of MMVet and RealWorldQA are exchanged, compared with Tables 2 and 7.",
        ),
    ),
    Benchmark(
        name="RealWorldQA",
        key="realworldqa",
        task="realworldqa",
        dataset="lmms-lab-encoder/RealWorldQA",
        split="test",
        ask=questions.realworldqa,
        metric=realworldqa,
        headline="exact_match",
        caveats=("In Table 1 of the paper, the numbers of MMVet and RealWorldQA are exchanged, compared with Tables 2 and 7.",),
    ),
    Benchmark(
        name="POPE",
        key="pope",
        task="pope",
        dataset="lmms-lab-encoder/POPE",
        split="test",
        ask=questions.pope,
        metric=pope,
        headline="f1",
        needs=("category",),
        caveats=("Only an answer that is yes or no alone counts as yes or no.",),
    ),
    Benchmark(
        name="MathVista",
        key="mathvista",
        task="mathvista_testmini",
        dataset="AI4Math/MathVista",
        split="testmini",
        ask=questions.mathvista,
        metric=judged_accuracy,
        headline="accuracy",
        columns={"question": "query", "image": "decoded_image", "answer": "answer"},
        judged=True,
        caveats=("The paper does not say which of the three prompts it used; the dataset's own wording is asked here.",),
    ),
    Benchmark(
        name="MathVerse",
        key="mathverse",
        task="mathverse_testmini",
        dataset="CaraJ/MathVerse-lmmseval (testmini)",
        split="testmini",
        ask=questions.mathverse,
        metric=judged_accuracy,
        headline="accuracy",
        columns=_PARTS | {"question": "query_wo"},
        needs=("problem_version",),
        judged=True,
        caveats=("Judges differ by points; lmms-eval's judge counts a failed call as wrong and any 1 in a reply as right.",),
    ),
    Benchmark(
        name="MMMU",
        key="mmmu",
        task="mmmu_val",
        dataset="lmms-lab-encoder/MMMU",
        split="validation",
        ask=questions.mmmu,
        metric=mmmu,
        headline="accuracy",
        columns=_PARTS | {"image": "image_1"},
        needs=("id", "options", "question_type"),
        caveats=("A question about several images is asked with all of them; each stands where the question first mentions it.",),
    ),
    Benchmark(
        name="MMMU-Pro",
        key="mmmu-pro",
        task="mmmu_pro_standard, mmmu_pro_vision",
        dataset="MMMU/MMMU_Pro (standard (10 options), vision)",
        split="test",
        ask=questions.mmmu_pro,
        metric=mmmu_pro,
        headline="accuracy",
        needs=("options",),
        optional=("question", "image"),
        caveats=("The headline is the mean of the standard and the vision set; a file of one of them gives that one alone.",),
    ),
    Benchmark(
        name="MMBench",
        key="mmbench",
        task="mmbench_en_dev_static",
        dataset="lmms-lab-encoder/MMBench (en)",
        split="dev",
        ask=questions.mmbench,
        metric=mmbench,
        headline="accuracy",
        needs=("A", "B", "category", "hint"),
        caveats=(
            "The paper's number is of the test split, whose answers only the official server has.",
            "Every row counts by itself; no question is repeated with its options in another order.",
        ),
    ),
)
"""The benchmarks in the order of the paper's Table 2, then those that only Table 1 has."""


def benchmark(key: str) -> Benchmark:
    """The benchmark of this key.

    Raises:
        OptionError: there is none.
    """
    for candidate in BENCHMARKS:
        if candidate.key == key:
            return candidate
    raise OptionError(f"--benchmark {key!r}: choose one of {', '.join(b.key for b in BENCHMARKS)}")
