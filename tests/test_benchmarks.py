"""The benchmarks of the paper: rows in a dataset's own schema, metrics on small numbers, lmms-eval's own functions beside."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from environments import install, kept
from episodes import begin, record
from PIL import Image

from visionthink import Protocol, ScriptedPolicy, run_batch
from visionthink.data.examples import ExampleTable
from visionthink.data.sources import open_rows
from visionthink.errors import DataError, OptionError
from visionthink.evals.benchmarks.benchmark import BENCHMARKS, benchmark
from visionthink.evals.benchmarks.choice_letter import choice_letter
from visionthink.evals.benchmarks.judged import judged_accuracy
from visionthink.evals.benchmarks.mean_anls import mean_anls
from visionthink.evals.benchmarks.mmbench import mmbench, read_option
from visionthink.evals.benchmarks.mme import COGNITION, PERCEPTION, mme, read_yes_no
from visionthink.evals.benchmarks.mmmu import mmmu, mmmu_pro, read_choice
from visionthink.evals.benchmarks.mmmu_open import open_answer_is
from visionthink.evals.benchmarks.ocrbench import QUESTION_TYPES, holds, ocrbench
from visionthink.evals.benchmarks.pope import pope
from visionthink.evals.benchmarks.realworldqa import matches, realworldqa
from visionthink.evals.benchmarks.relaxed_accuracy import relaxed_accuracy
from visionthink.evals.metrics import Scored
from visionthink.resolution import PixelBudget
from visionthink.rewards.anls import anls
from visionthink.rewards.judge import Verdict, judge_transcripts
from visionthink.rewards.relaxed import relaxed_accuracy as relaxed
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import StopReason

ROOT = Path(__file__).parents[1]
KEYS = [b.key for b in BENCHMARKS]


def scored(answer, *references, family=None, stop="answered", verdict="correct", **metadata) -> Scored:
    reference, aliases = (references[0], references[1:]) if references else (None, ())
    transcript = record(
        "e",
        stop_reason=StopReason(stop),
        answer=answer,
        reference=reference,
        aliases=tuple(aliases),
        family=family,
        metadata=metadata,
    )
    return Scored(transcript, Verdict(verdict, "test", ""))


FAILED = scored(None, "yes", stop="policy_error", verdict="unscored", family="count", question_id="1", options=["a", "b"])
SILENT = scored(None, "yes", stop="length", verdict="wrong")


# Metrics, on small numbers


def test_relaxed_accuracy():
    runs = [
        scored("46", "47", family="human_test"),
        scored("0.0", "0", family="human_test"),
        scored("47", "47%", family="augmented_test"),
        scored("Cat", "dog", "cat", family="augmented_test"),
        SILENT,
        FAILED,
    ]
    assert relaxed_accuracy(runs) == {
        "relaxed_accuracy": 2 / 5,
        "relaxed_accuracy/augmented_test": 1 / 2,
        "relaxed_accuracy/human_test": 1 / 2,
        "relaxed_accuracy_strict": 3 / 5,
        "relaxed_accuracy_strict/augmented_test": 1.0,
        "relaxed_accuracy_strict/human_test": 1 / 2,
        "n": 5,
        "unscored": 1,
    }


def test_mean_anls():
    runs = [scored("abcd", "abcx", "x"), scored("abcd", "abxx"), scored("abcd", "axxx"), SILENT, FAILED]
    assert mean_anls(runs) == {"anls": (0.75 + 0.5) / 4, "n": 4, "unscored": 1}


def test_mme():
    def pair(family, question_id, *answers):
        wanted = ("Yes", "No")
        return [scored(a, w, family=family, question_id=question_id) for a, w in zip(answers, wanted, strict=False)]

    runs = [
        *pair("count", "1", "Yes", "No."),
        *pair("count", "2", "yes", "Yes, there are"),
        *pair("OCR", "1", "maybe", "n"),
        *pair("code_reasoning", "1", None, None),
        *pair("count", "3", "Yes"),
        scored(None, "Yes", family="color", question_id="9", stop="policy_error"),
        scored("No", "No", family="color", question_id="9"),
    ]
    assert mme(runs) == {
        "total": 175.0,
        "perception": (200 + 50) / 2 + 50,
        "cognition": 0.0,
        "n": 8,
        "unscored": 1,
        "incomplete_pairs": 2,
        "categories": 3,
        "score/count": 125.0,
        "score/OCR": 50.0,
        "score/code_reasoning": 0.0,
    }
    with pytest.raises(DataError, match=r"^example e: cats is not a category of MME$"):
        mme([scored("yes", "Yes", family="cats", question_id="1")])
    with pytest.raises(DataError, match=r"^example e: no question_id"):
        mme([scored("yes", "Yes", family="count")])


def test_pope():
    answers = ["yes", "Yes.", "no", "no", "yes", "I see one", None]
    wanted = ["yes", "yes", "yes", "no", "no", "yes", "yes"]
    runs = [scored(a, w, family="random" if i < 4 else "popular") for i, (a, w) in enumerate(zip(answers, wanted, strict=True))]
    figures = pope([*runs, FAILED])
    assert figures == figures | {"n": 7, "unscored": 1, "unparsed": 1, "yes_ratio": 3 / 7, "reference_yes_ratio": 5 / 7}
    assert figures == figures | {"precision": 2 / 3, "recall": 2 / 5, "f1": 4 / 8, "accuracy": 3 / 7}
    assert figures == figures | {"f1/random": 4 / 5, "accuracy/random": 3 / 4, "f1/popular": 0.0, "precision/popular": 0.0}
    assert pope(runs[3:4]) == pope(runs[3:4]) | {"f1": None, "precision": None, "recall": None, "accuracy": 1.0, "yes_ratio": 0.0}


def test_ocrbench():
    formula = {"family": QUESTION_TYPES[-1], "dataset": "HME100k"}
    runs = [
        scored("It says CENTRE.", "centre", family=QUESTION_TYPES[0], dataset="IIIT5K"),
        scored("１２", "x", "12", family=QUESTION_TYPES[0], dataset="IIIT5K"),
        scored("x ^ 2 + 1", "x^2", **formula),
        scored("X ^ 2", "x^2", **formula),
        SILENT,
        FAILED,
    ]
    assert ocrbench(runs) == {
        "accuracy": 3 / 5,
        f"accuracy/{QUESTION_TYPES[0]}": 1.0,
        f"accuracy/{QUESTION_TYPES[-1]}": 1 / 2,
        "correct": 3,
        "n": 5,
        "unscored": 1,
    }


def test_realworldqa():
    runs = [
        scored("(B) left", "B"),
        scored("the answer is A", "B"),
        scored("two", "B"),
        scored("Three.", "three"),
        SILENT,
        FAILED,
    ]
    assert realworldqa(runs) == {"exact_match": 2 / 5, "n": 5, "unscored": 1, "unparsed": 1}


def test_mmmu():
    choice = {"question_type": "multiple-choice", "options": ["a cat", "a dog", "two large green birds"]}
    runs = [
        scored("(A) no, (B)", "B", family="Art", **choice),
        scored("these must be two large green birds", "C", family="Art", **choice),
        scored("who knows", "A", family="Math", **choice),
        scored("so x = 3.141", "3.14", "pi", family="Math", question_type="open"),
        scored(None, "A", family="Math", stop="length", **choice),
        scored(None, "A", family="Math", stop="refused", **choice),
    ]
    parts = {"accuracy/Art": 1.0, "accuracy/Math": 1 / 3, "n": 5, "unscored": 1, "unparsed": 1}
    assert mmmu(runs) == {"accuracy": 3 / 5, **parts}
    assert mmmu_pro(runs) == {"accuracy": 2 / 3, **parts}  # mean of the families
    with pytest.raises(DataError, match=r"^example e: question_type None is neither multiple-choice nor open$"):
        mmmu([scored("A", "A")])
    with pytest.raises(DataError, match=r"^example e: no options"):
        mmmu([scored("A", "A", question_type="multiple-choice")])


def test_mmbench():
    options = ["red", "blue"]
    runs = [
        scored("A blue car I think", "B", family="color", options=options),
        scored("B.", "B", family="color", options=options),
        scored("it is hard to say", "A", family="ocr", options=options),
        scored(None, "A", family="ocr", options=options, stop="empty"),
        FAILED,
    ]
    assert mmbench(runs) == {"accuracy": 2 / 4, "accuracy/color": 1.0, "accuracy/ocr": 0.0, "n": 4, "unscored": 1, "unparsed": 1}
    with pytest.raises(DataError, match=r"^example e: no options"):
        mmbench([scored("A", "A")])


def test_judged_accuracy():
    runs = [scored("a", "a", family="x"), scored("b", "a", family="y", verdict="wrong"), SILENT, FAILED]
    assert judged_accuracy(runs) == {"accuracy": 1 / 3, "accuracy/x": 1.0, "accuracy/y": 0.0, "n": 3, "unscored": 1}


@pytest.mark.parametrize("key", KEYS)
def test_nothing_to_score_is_none(key):
    assert benchmark(key).metric([]) == benchmark(key).metric([]) | {benchmark(key).headline: None, "n": 0, "unscored": 0}
    figures = benchmark(key).metric([FAILED, FAILED])
    assert (figures[benchmark(key).headline], figures["n"], figures["unscored"]) == (None, 0, 2)


# Rows in the schema of each dataset

MMMU_ROW = {
    "id": "validation_Art_Theory_1",
    "question": "What is in <image 1>?",
    "options": "['a cat', \"a dog's ear\"]",
    "explanation": "",
    "image_1": Image,
    "image_2": None,
    "img_type": "['Paintings']",
    "answer": "B",
    "topic_difficulty": "Easy",
    "question_type": "multiple-choice",
    "subfield": "Art",
}
OPEN_ROW = MMMU_ROW | {"options": "[]", "question_type": "open", "answer": "['24/7', '3.43']", "question": "<image 1> How much?"}
PRO_ROW = {"options": "['a', 'b', 'c']", "answer": "C", "subject": "Art"}
MME_ROW = {"question_id": "color/1.jpg", "image": Image, "question": "Is it red? Please answer yes or no.", "category": "color"}
PHRASE = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTER_PRO = "\n\nAnswer with the option letter from the given choices directly."

# key: rows, questions, (references, family, metadata) and a right answer of each, what the metric then is
ROWS = {
    "chartqa": (
        [{"type": "human_test", "question": "How many?", "answer": "14", "image": Image}],
        ["How many?\nAnswer the question with a single word."],
        [(("14",), "human_test", {"type": "human_test"})],
        ["14"],
        1.0,
    ),
    "ocrbench": (
        [
            {"dataset": d, "question": " What? ", "question_type": QUESTION_TYPES[-1], "answer": ["x^2", "y"], "image": Image}
            for d in ("HME100k", "IIIT5K")
        ],
        ["What?", "What?"],
        [(("x^2", "y"), QUESTION_TYPES[-1], {"dataset": d}) for d in ("HME100k", "IIIT5K")],
        ["it is x ^ 2", "Y"],
        1.0,
    ),
    "docvqa": (
        [
            {
                "questionId": "1",
                "question": "Who?",
                "question_types": ["form"],
                "image": Image,
                "docId": 7,
                "answers": ["J. Doe", "Doe"],
                "data_split": "val",
            }
        ],
        ["Who?" + PHRASE],
        [(("J. Doe", "Doe"), None, {"docId": 7})],
        ["doe"],
        1.0,
    ),
    "mme": (
        [MME_ROW | {"answer": "Yes"}, MME_ROW | {"answer": "No", "question": "Is it blue? Please answer yes or no."}],
        ["Is it red?" + PHRASE, "Is it blue?" + PHRASE],
        [((a,), "color", {"question_id": "color/1.jpg"}) for a in ("Yes", "No")],
        ["yes", "No."],
        200.0,
    ),
    "mmvet": (
        [
            {"question_id": "v1_0", "image": Image, "image_source": "x", "question": "x?", "answer": a, "capability": "ocr,math"}
            for a in ("-1<AND>-5", "2<OR>two")
        ],
        ["x?", "x?"],
        [(("-1 and -5",), "ocr,math", {}), (("2", "two"), "ocr,math", {})],
        ["-1 and -5", "two"],
        1.0,
    ),
    "realworldqa": (
        [{"image": Image, "image_path": "1.webp", "question": "Which?\nA. left\nB. right\n", "answer": "B"}],
        ["Which?\nA. left\nB. right"],
        [(("B",), None, {"image_path": "1.webp"})],
        ["B. right"],
        1.0,
    ),
    "pope": (
        [
            {"id": "0", "question_id": "1", "question": "Is there a dog?", "answer": "yes", "image_source": "COCO"}
            | {"image": Image, "category": "adversarial"}
        ],
        ["Is there a dog?" + PHRASE],
        [(("yes",), "adversarial", {"image_source": "COCO"})],
        ["Yes"],
        1.0,
    ),
    "mathvista": (
        [
            {
                "pid": "1",
                "question": "Which?",
                "image": "images/1.jpg",
                "decoded_image": Image,
                "choices": ["145°", "135°"],
                "answer": "135°",
                "question_type": "multi_choice",
                "metadata": {"task": "geometry problem solving", "split": "testmini"},
                "query": "Question: Which?\nChoices:\n(A) 145°\n(B) 135°",
            }
        ],
        ["Question: Which?\nChoices:\n(A) 145°\n(B) 135°"],
        [(("135°",), "geometry problem solving", {"pid": "1", "choices": ["145°", "135°"]})],
        ["B"],
        1.0,
    ),
    "mathverse": (
        [
            {
                "sample_index": "1",
                "problem_version": "Text Lite",
                "question": "Find it.",
                "image": Image,
                "answer": "B",
                "question_type": "multi-choice",
                "metadata": {"split": "testmini"},
                "query_wo": "Give the letter.\nQuestion: Find it.\nChoices:\nA:1\nB:2",
                "query_cot": "Reason.",
                "question_for_eval": "Find it.",
            }
        ],
        ["Give the letter.\nQuestion: Find it.\nChoices:\nA:1\nB:2"],
        [(("B",), "Text Lite", {"sample_index": "1"})],
        ["B"],
        1.0,
    ),
    "mmmu": (
        [MMMU_ROW, OPEN_ROW],
        ["What is in <image>?\nA. a cat\nB. a dog's ear\n" + LETTER, "<image> How much?\n" + PHRASE],
        [
            (("B",), "Art_Theory", {"question_type": "multiple-choice", "options": ["a cat", "a dog's ear"]}),
            (("24/7", "3.43"), "Art_Theory", {"question_type": "open"}),
        ],
        ["(B)", "it is 3.43"],
        1.0,
    ),
    "mmmu-pro": (
        [
            PRO_ROW | {"id": "test_Art_1", "question": "What is <image 1>?", "image_1": Image, "image": None},
            PRO_ROW | {"id": "test_Art_2", "question": None, "image_1": None, "image": Image},
        ],
        ["What is <image 1>?\nA. a\nB. b\nC. c" + LETTER_PRO, LETTER_PRO.strip()],
        [(("C",), s, {"question_type": "multiple-choice", "options": ["a", "b", "c"]}) for s in ("standard", "vision")],
        ["C", "(C) c"],
        1.0,
    ),
    "mmbench": (
        [
            {"index": 3, "question": "Which?", "hint": hint, "answer": "B", "A": "x" * 300, "B": "y", "C": "nan", "D": "nan"}
            | {"category": "ocr", "image": Image, "source": "s", "L2-category": "l", "comment": "nan", "split": "dev"}
            for hint in ("nan", "Long. " * 50)
        ],
        [f"{hint}Which? There are several options:\nA. {'x' * 300}\nB. y\n" + LETTER for hint in ("", "Long. " * 50 + " ")],
        [(("B",), "ocr", {"options": ["x" * 200, "y"], "L2-category": "l"})] * 2,
        ["B", "y"],
        1.0,
    ),
}


def write(folder: Path, rows: list[dict], kind: str, name: str = "rows") -> str:
    """A table as a dataset is stored: parquet with images inside, or JSON lines with paths."""
    from datasets import Dataset

    picture = io.BytesIO()
    Image.new("RGB", (112, 112), (200, 30, 30)).save(picture, "PNG")
    (folder / "1.png").write_bytes(picture.getvalue())
    cell = {"bytes": picture.getvalue(), "path": "1.png"} if kind == "parquet" else "1.png"
    rows = [{name: cell if value is Image else value for name, value in row.items()} for row in rows]
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def table(source: str, key: str) -> ExampleTable:
    rows, folder = open_rows(source, "test")
    return ExampleTable(source, benchmark(key).rows(source, rows), folder)


def test_mmmu_asks_about_several_images(tmp_path):
    """Each stands where it is first mentioned, in that order."""
    row = MMMU_ROW | {"question": "Is <image 2> like <image 1>? See <image 2>.", "options": ["yes", "as <image 3>"]}
    row |= {f"image_{number}": Image for number in (1, 2, 3)}
    example = table(write(tmp_path, [row], "parquet"), "mmmu")["0"]
    assert example.question == "Is <image> like <image>? See image 1.\nA. yes\nB. as <image>\n" + LETTER
    assert len(example.images) == 3


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("key", KEYS)
def test_a_local_copy_is_asked_and_scored(key, kind, tmp_path):
    rows, questions, kept, answers, best = ROWS[key]
    examples = list(table(write(tmp_path, rows, kind), key).values())
    assert [e.question for e in examples] == questions
    for example, (references, family, metadata) in zip(examples, kept, strict=True):
        assert ((example.answer, *example.aliases), example.family) == (references, family)
        assert example.metadata == {**example.metadata, **metadata}
    runs = []
    for example, answer in zip(examples, answers, strict=True):
        episode = begin(example, (1.0,), Protocol("compact"), budget=PixelBudget(28, 784, 12544))
        transcripts = run_batch([episode], ScriptedPolicy([f"<answer>{answer}</answer>"]))
        runs.append(Scored(transcripts[0], judge_transcripts(RulesJudge(), transcripts)[0]))
    runs = [Scored.from_dict(json.loads(json.dumps(s.to_dict()))) for s in runs]  # as the runner keeps them
    figures = benchmark(key).metric(runs)
    assert (figures[benchmark(key).headline], figures["n"], figures["unscored"]) == (best, len(rows), 0)


def test_an_example_is_made_when_it_is_read():
    class Counted:
        column_names = ("question", "image", "answer", "type")
        read = 0

        def __len__(self):
            return 1_000_000

        def __getitem__(self, number):
            self.read += 1
            return {"question": "q", "image": "1.png", "answer": "a", "type": "human_test"}

    rows = Counted()
    asked = benchmark("chartqa").rows("x", rows)
    assert (len(asked), rows.read) == (1_000_000, 0)
    assert asked[7]["question"].startswith("q\n") and rows.read == 1


def test_other_column_names(tmp_path):
    source = write(tmp_path, [{"q": "How many?", "image": Image, "label": ["4"], "type": "human_test"}], "jsonl")
    rows, folder = open_rows(source, "test")
    asked = benchmark("chartqa").rows(source, rows, {"question": "q", "answer": "label"})
    assert ExampleTable(source, asked, folder)["0"].answer == "4"


BAD = [
    ("pope", {"category": None}, "no category"),
    ("pope", {"answer": "maybe"}, "answer 'maybe' is none of yes, no"),
    ("pope", {"question": None}, "no question"),
    ("pope", {"image": None}, "no image in column image"),
    ("mme", {"category": "cats"}, "category 'cats' is none of existence, count"),
    ("mme", {"question_id": None}, "no question_id"),
    ("ocrbench", {"question_type": "Poems"}, "question_type 'Poems' is none of Regular Text Recognition"),
    ("mmbench", {"answer": "nan"}, "no answer"),
    ("mmbench", {"C": "nan", "D": "z"}, "options A, B, D: expected A, B and so on without a gap"),
    ("mmmu", {"options": "['a', "}, "options is a list whose end is missing"),
    ("mmmu", {"options": "['a' 'b', 'c']"}, "options is a list without commas between its values, as numpy writes it"),
    ("mmmu", {"options": "['a', null]"}, "options holds null, not text"),
    ("mmmu", {"options": "[b'a', 'b']"}, "options holds bytes, not text"),
    ("mmmu", {"answer": "2"}, "answer '2' is none of the letters of its options, A, B"),
    ("mmmu", {"answer": "Z"}, "answer 'Z' is none of the letters of its options, A, B"),
    ("mmmu", {"answer": "a cat"}, "answer 'a cat' is none of the letters of its options, A, B"),
    ("mmmu", {"question_type": "open", "answer": "['7' '8']"}, "answer is a list without commas between its values"),
    ("mmmu", {"question_type": "open", "answer": "['7'"}, "answer is a list whose end is missing"),
    ("mmmu", {"question_type": "open", "answer": "[null]"}, "no answer"),
    ("mmmu", {"question_type": "open", "answer": "[]"}, "no answer"),
    ("mmmu-pro", {"answer": "D"}, "answer 'D' is none of the letters of its options, A, B, C"),
    ("mmbench", {"answer": "E"}, "answer 'E' is none of the letters of its options, A, B"),
    ("docvqa", {"answers": "['a' 'b']"}, "answer is a list without commas between its values, as numpy writes it"),
    ("mmmu", {"options": ["a", ["b"]]}, "options holds a list, not text"),
    ("mmmu", {"question_type": "open", "answer": "['a', {}]"}, "answer is a list that cannot be read"),
    ("mmmu", {"question": "<image 1> or <image 2>?"}, "the question mentions image 2, and there is none"),
    ("mmmu", {"options": ["<image 1>", "<image 2>"]}, "the question mentions image 2, and there is none"),
    ("mmmu", {"question_type": "essay"}, "question_type 'essay' is none of multiple-choice, open"),
    ("docvqa", {"answers": []}, "no answer in column answer"),
    ("mmvet", {"answer": ["a"]}, "answer is a list, not text"),
]


@pytest.mark.parametrize(("key", "change", "reason"), BAD, ids=[f"{key}-{next(iter(change))}" for key, change, _ in BAD])
def test_bad_rows_are_named_in_one_line(key, change, reason, tmp_path):
    good = ROWS[key][0][0]
    source = write(tmp_path, [good, good | change], "jsonl")
    examples = table(source, key)
    assert examples["0"]
    with pytest.raises(DataError) as error:
        examples["1"]
    assert str(error.value).startswith(f"{source}, line 2: {reason}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "change", "answers", "options"),
    [
        ("mmmu", {"answer": "b"}, ("B",), ["a cat", "a dog's ear"]),
        ("mmmu", {"answer": "(B)"}, ("B",), ["a cat", "a dog's ear"]),
        ("mmmu", {"answer": "B."}, ("B",), ["a cat", "a dog's ear"]),
        ("mmmu", {"options": "[1.10, 1.1]"}, ("B",), ["1.10", "1.1"]),
        ("mmmu", {"options": '["1e5", 100000.0]'}, ("B",), ["1e5", "100000.0"]),
        ("mmmu", {"question_type": "open", "answer": "[7.10, null]"}, ("7.10",), None),
        ("mmmu", {"question_type": "open", "answer": "[3, 4)"}, ("[3, 4)",), None),
        ("docvqa", {"answers": "['a', 'b']"}, ("a", "b"), None),
    ],
)
def test_answers_and_options_as_they_were_written(key, change, answers, options, tmp_path):
    example = table(write(tmp_path, [ROWS[key][0][0] | change], "jsonl"), key)["0"]
    assert ((example.answer, *example.aliases), example.metadata.get("options")) == (answers, options)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_column_is_named(key, tmp_path):
    source = write(tmp_path, [{"x": 1}], "jsonl")
    with pytest.raises(DataError, match=f"rows.jsonl: no column .*, as {benchmark(key).name} has; it has 'x'$"):
        table(source, key)


def test_where_the_image_of_mmmu_stands(tmp_path):
    rows = [MMMU_ROW | {"question": q, "image_2": Image} for q in ("In <image 2>, or <image 2>?", "No mention?")]
    examples = table(write(tmp_path, rows, "jsonl"), "mmmu")
    assert examples["0"].question.startswith("In <image>, or the image?\nA.")
    assert examples["1"].question.startswith("No mention?\nA.")


def test_unknown_benchmark():
    with pytest.raises(OptionError, match="--benchmark 'x': choose one of chartqa, ocrbench, docvqa"):
        benchmark("x")


def test_names_and_headlines():
    assert [b.name for b in BENCHMARKS] == (
        "ChartQA OCRBench DocVQA MME MMVet RealWorldQA POPE MathVista MathVerse MMMU MMMU-Pro MMBench".split()
    )
    assert len(set(KEYS)) == 12 and all(b.caveats and b.task and b.split for b in BENCHMARKS)
    assert [b.key for b in BENCHMARKS if b.judged] == ["mmvet", "mathvista", "mathverse"]


def test_the_page_says_what_the_code_does():
    page = (ROOT / "docs" / "reference" / "benchmarks.md").read_text("utf-8")
    for b in BENCHMARKS:
        headline = f"{b.scale:g} × `{b.headline}`" if b.scale != 1 else f"`{b.headline}`"
        cells = (b.name, f"`{b.key}`", b.task, b.dataset, b.split, headline, "yes" if b.judged else "", " ".join(b.caveats))
        assert f"| {' | '.join(cells)} |" in page


def test_import_is_light():
    code = (
        "import sys, visionthink.evals.benchmarks.benchmark\n"
        "sys.exit(', '.join({'torch', 'transformers', 'datasets', 'pandas', 'lmms_eval'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


# lmms-eval 0.7.3 beside ours, on the same answers


@pytest.fixture(scope="session")
def lmms_eval():
    """Calls a function of tests/lmms_functions.py in a process where lmms-eval is installed; it is installed once."""
    wanted = ("lmms-eval==0.7.3", "loguru")
    home = kept("lmms-eval", wanted, lambda folder: install(None, "--no-deps", "--target", str(folder), *wanted))

    def call(name: str, *values):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "lmms_functions.py")],
            **{"input": json.dumps([name, values]), "capture_output": True, "text": True},
            env=os.environ | {"PYTHONPATH": str(home)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def some_text(rng: random.Random) -> str:
    """Numbers, percents, words, letters, punctuation, other scripts, nothing."""
    word = rng.choice("yes No cat Straße café 北京 red Blue nan inf three banana Option answer e x İ".split())
    number = rng.choice(
        [str(rng.randint(-20, 2030)), f"{rng.uniform(0, 99):.2f}", f"{rng.randint(1, 99)}%", "1,234", "1.2e3", "0"]
    )
    form = rng.choice(["{w}", "{n}", "{n}", "{w} {n}", "{w}.", "${n}", "{n} {w}", "", ".", "{w}, {w}", "{w}\n{n}", "Ａ１ {w}"])
    return form.format(w=word, n=number).strip()


def near(text: str, rng: random.Random) -> str:
    """The text, or something much like it."""
    i = rng.randint(0, len(text))
    forms = [text, text.upper(), text + ".", text[:i] + "x" + text[i:], text[:i] + text[i + 1 :], f"it is {text}", some_text(rng)]
    return rng.choice(forms).strip()


def some_choice(rng: random.Random, letters: str, options: list[str]) -> str:
    """An answer to a multiple-choice question: a letter in many forms, the text of an option, both, several, none."""
    a, b = rng.choice(letters), rng.choice(letters)
    o = options[letters.index(a)]
    forms = (
        "{a}|{a}.|({a})|({a}) {o}|{a}. {o}|{a}: {o}|{a}) {o}|{o}|The answer is {a}|The answer is {a}, not {b}.|Answer: {a}|"
        "({b}) is wrong, so ({a})|{b} or {a} |I think that this one here is {o}|A cat is on the mat by the {o}|answer is{a}|"
        'my choice is "{a}"|option {a}!|{a}{b}|CAB {b}|答案是{a}|{a}。|I choose {b}. No, {a}.|:{a}|:{a}).|x{a}|{a}\n{b}|{t}|'
        "{t} {a}"
    ).split("|")
    return rng.choice(forms).format(a=a, b=b, o=o, t=some_text(rng))


def options_of(rng: random.Random, count: int) -> list[str]:
    return [some_text(rng) or "nothing" for _ in range(count)]


SEED, MANY = 20261, 2000


@pytest.mark.network
class TestBesideLmmsEval:
    def test_relaxed_accuracy(self, lmms_eval):
        rng = random.Random(SEED)
        wanted = [some_text(rng) for _ in range(MANY)]
        pairs = [(near(w, rng), w) for w in wanted]
        theirs = lmms_eval("relaxed", pairs)
        assert [relaxed(*pair, "stock") for pair in pairs] == theirs
        assert 200 < sum(theirs) < MANY - 200

    def test_relaxed_accuracy_where_ours_is_another(self, lmms_eval):
        pairs = [("0.0", "0"), ("47%", "47"), ("47", "47%"), ("2014", "2015"), (" 47% ", "47%")]
        assert lmms_eval("relaxed", pairs) == [False, False, False, True, False]
        assert [relaxed(*pair, "strict") for pair in pairs] == [True, True, True, False, True]
        assert relaxed(*pairs[-1], "stock")  # outer white space is no part of an answer

    def test_anls(self, lmms_eval):
        def tidy(text: str) -> str:
            return " ".join(text.replace("ß", "s").replace("İ", "I").split())

        rng = random.Random(SEED)
        pairs = []
        for _ in range(MANY):
            wanted = [some_text(rng) for _ in range(rng.randint(1, 3))]
            said = near(wanted[0], rng)
            pairs.append((tidy(said), [tidy(text) for text in wanted]))
        assert [anls(*pair) for pair in pairs] == pytest.approx(lmms_eval("anls", pairs), abs=1e-12)

    def test_anls_where_ours_is_another(self, lmms_eval):
        """They divide by lengths with the white space that they dropped before they compared."""
        pairs = [("a   b", ["a x"]), ("Straße", ["STRASSE"])]
        assert lmms_eval("anls", pairs) == pytest.approx([1 - 1 / 5, 1 - 2 / 7])
        assert [anls(*pair) for pair in pairs] == [1 - 1 / 3, 1.0]

    def test_mme(self, lmms_eval):
        rng = random.Random(SEED)
        rows = []
        for i in range(MANY // 2):
            category = rng.choice((*PERCEPTION, *COGNITION))
            said = [rng.choice(["yes", "No.", "Y", "n", "Yes, it is", "there is no", "not sure", some_text(rng)]) for _ in "12"]
            rows += [
                {"said": s, "answer": a, "category": category, "question_id": str(i)}
                for s, a in zip(said, ("Yes", "No"), strict=True)
            ]
        theirs = lmms_eval("mme", rows)
        assert [read_yes_no(row["said"]) or "other" for row in rows] == theirs["read"]
        runs = [scored(r["said"], r["answer"], family=r["category"], question_id=r["question_id"]) for r in rows]
        figures = mme(runs)
        assert [figures["perception"], figures["cognition"]] == pytest.approx(theirs["sums"])
        assert (figures["n"], figures["categories"], figures["incomplete_pairs"]) == (MANY, 14, 0)

    def test_mme_where_ours_is_another(self, lmms_eval):
        """A pair with one answer stops lmms-eval; here it is counted."""
        rows = [{"said": "yes", "answer": "Yes", "category": "count", "question_id": "1"}]
        assert lmms_eval("mme", rows)["sums"][0] == "AssertionError"
        assert mme([scored("yes", "Yes", family="count", question_id="1")])["incomplete_pairs"] == 1

    def test_pope(self, lmms_eval):
        rng = random.Random(SEED)
        rows = [{"said": rng.choice(["yes", "No", " YES", "no "]), "answer": rng.choice(["yes", "no"])} for _ in range(MANY)]
        theirs = lmms_eval("pope", [row | {"question_id": "1"} for row in rows])
        figures = pope([scored(row["said"], row["answer"]) for row in rows])
        ours = [figures[name] for name in ("accuracy", "precision", "recall", "f1", "reference_yes_ratio")]
        assert ours == pytest.approx([theirs[name] for name in ("accuracy", "precision", "recall", "f1_score", "yes_ratio")])

    def test_pope_where_ours_is_another(self, lmms_eval):
        """Their yes-ratio is of the references; their recall leaves out what is neither yes nor no; "Yes." is wrong to them."""
        rows = [{"said": s, "answer": "yes", "question_id": "1"} for s in ("yes", "Yes.", "I see one", "no")]
        theirs = lmms_eval("pope", rows)
        assert (theirs["yes_ratio"], theirs["recall"], theirs["accuracy"]) == (1.0, 1 / 2, 1 / 4)
        figures = pope([scored(row["said"], "yes") for row in rows])
        assert (figures["yes_ratio"], figures["reference_yes_ratio"], figures["unparsed"]) == (2 / 4, 1.0, 1)
        assert (figures["recall"], figures["accuracy"]) == (2 / 4, 2 / 4)
        nothing_said = [{"said": "no", "answer": "no", "question_id": "1"}]
        assert lmms_eval("pope", nothing_said)["precision"] == 0
        assert pope([scored("no", "no")])["precision"] is None

    def test_ocrbench(self, lmms_eval, tmp_path):
        rng = random.Random(SEED)
        rows = []
        for _ in range(MANY):
            wanted = [some_text(rng) or "x ^ 2" for _ in range(rng.randint(1, 3))]
            row = {"dataset": rng.choice(["HME100k", "IIIT5K"]), "question_type": rng.choice(QUESTION_TYPES), "answer": wanted}
            rows.append(row | {"said": near(wanted[-1], rng)})
        theirs = lmms_eval("ocrbench", rows, str(tmp_path))
        assert [holds(r["said"], r["answer"], formula=r["dataset"] == "HME100k") for r in rows] == theirs["scores"]
        runs = [scored(r["said"], *r["answer"], family=r["question_type"], dataset=r["dataset"]) for r in rows]
        figures = ocrbench(runs)
        assert figures["correct"] / 1000 == theirs["total"]  # they divide by 1000, whatever n is
        assert figures["accuracy"] == figures["correct"] / MANY
        assert ocrbench(runs[:10])["accuracy"] == sum(theirs["scores"][:10]) / 10

    def test_realworldqa(self, lmms_eval):
        rng = random.Random(SEED)
        pairs = [(some_choice(rng, "ABCD", options_of(rng, 4)), rng.choice([*"ABCD", "b"])) for _ in range(MANY)]
        pairs += [(near(w, rng), w) for w in (some_text(rng) or "4" for _ in range(MANY))]
        theirs = lmms_eval("realworldqa", pairs)
        assert [matches(*pair) for pair in pairs] == theirs
        assert 400 < sum(theirs[:MANY]) < MANY - 400

    def test_choice_letter(self, lmms_eval):
        rng = random.Random(SEED)
        pairs = [(some_choice(rng, "ABCDEFGH", options_of(rng, 8)), "ABCDEFGH"[: rng.randint(2, 8)]) for _ in range(2 * MANY)]
        theirs = lmms_eval("letters", pairs)
        assert [choice_letter(*pair) or "" for pair in pairs] == theirs
        assert 50 < theirs.count("") < MANY

    def test_mmmu_choice(self, lmms_eval):
        rng = random.Random(SEED)
        pairs = []
        for _ in range(2 * MANY):
            options = options_of(rng, rng.choice([2, 4, 10]))
            pairs.append((some_choice(rng, "ABCDEFGHIJ"[: len(options)], options), options))
        theirs = lmms_eval("mmmu_choice", pairs)
        assert [read_choice(*pair) for pair in pairs] == theirs
        assert 50 < theirs.count(None) < MANY

    def test_mmmu_choice_where_ours_is_another(self, lmms_eval):
        """They guess where they find nothing."""
        assert len(set(lmms_eval("mmmu_guesses", ("who knows", ["a", "b"]), 64))) == 2
        assert read_choice("who knows", ["a", "b"]) is None
        six_words = "none of these is what is shown"
        assert lmms_eval("mmmu_choice", [(six_words, ["cat", ""])]) == ["B"]  # of an option without text
        assert read_choice(six_words, ["cat", " "]) is None

    def test_mmmu_open(self, lmms_eval):
        rng = random.Random(SEED)
        pairs = []
        for _ in range(2 * MANY):
            wanted = some_text(rng) or "5"
            other = some_text(rng)
            forms = [
                "{w}",
                "so {o} is {w}",
                "{o}. Therefore {w}",
                "{o}\nx = {w}",
                "the result is \n{w}",
                "{o}",
                "answer {o}\nfinal {w}.",
            ]
            pairs.append((rng.choice(forms).format(w=near(wanted, rng), o=other), rng.choice([wanted, [wanted, "7"]])))
        theirs = lmms_eval("mmmu_open", pairs)
        assert [open_answer_is(said, w if isinstance(w, list) else [w]) for said, w in pairs] == theirs
        assert 800 < sum(theirs) < 2 * MANY - 400

    def test_mmmu_where_ours_is_another(self, lmms_eval):
        """Several references are written as one text, which lmms-eval looks for as it is; of MMMU-Pro's vision set it takes the
        whole answer for the letter."""
        assert lmms_eval("mmmu_open", [("it is 3.43", "['24/7', '3.43']")]) == [False]
        assert open_answer_is("it is 3.43", ["24/7", "3.43"])
        assert lmms_eval("mmmu_pro_vision", [("C", "C"), ("(C)", "C")]) == [1.0, 0.0]
        assert read_choice("(C)", ["a", "b", "c"]) == "C"

    def test_mmbench(self, lmms_eval):
        rng = random.Random(SEED)
        rows = []
        for index in range(MANY // 2):
            count = rng.choice([2, 3, 4])
            options = options_of(rng, count)
            row = {
                "index": index,
                "question": "q",
                "hint": "nan",
                "source": "s",
                "split": "dev",
                "category": "c",
                "L2-category": "l",
            }
            row |= dict(zip("ABCD", [*options, None, None][:4], strict=False)) | {"answer": rng.choice("ABCD"[:count])}
            rows.append(row | {"said": some_choice(rng, "ABCD"[:count], options).strip(), "options": options})
        theirs = lmms_eval("mmbench", rows)
        assert [read_option(r["said"], r["options"]) == r["answer"] for r in rows] == theirs["hits"]
        assert 200 < sum(theirs["hits"]) < MANY // 2 - 200
        assert mmbench([scored(r["said"], r["answer"], options=r["options"]) for r in rows])["accuracy"] == theirs["share"]

    def test_mmbench_where_ours_is_another(self, lmms_eval):
        """The text "nan" of an option that is not there is an option to lmms-eval."""
        row = {"index": 1, "question": "q", "hint": "nan", "source": "s", "split": "dev", "category": "c", "L2-category": "l"}
        row |= {"A": "pear", "B": "banana", "C": "nan", "D": "nan", "answer": "B", "said": "a banana"}
        assert lmms_eval("mmbench", [row])["hits"] == [0]
        assert read_option("a banana", ["pear", "banana"]) == "B"

    @pytest.mark.parametrize("name", "chartqa ocrbench docvqa mme realworldqa pope mathverse mmmu mmmu-pro mmbench".split())
    def test_the_same_is_asked(self, name, lmms_eval, tmp_path):
        rows, questions, *_ = ROWS[name]
        rows = [{k: v for k, v in row.items() if v is not Image and v is not None} for row in rows]
        others = {
            "docvqa": ("docvqa/_default_template_docvqa_yaml", "docvqa.utils", "docvqa_doc_to_text"),
            "mathverse": ("mathverse/mathverse_testmini.yaml", "mathverse.utils", "mathverse_doc_to_text"),
            "mmmu": ("mmmu/mmmu_val.yaml", "mmmu.utils", "mmmu_doc_to_text"),
            "mmmu-pro": ("mmmu_pro/mmmu_pro_standard.yaml", "mmmu_pro.utils", "mmmu_pro_doc_to_text"),
            "mmbench": ("mmbench/_default_template_mmbench_en_yaml", "mmbench.en_utils", "mmbench_doc_to_text"),
        }
        file, module, function = others.get(name, (f"{name}/{name}.yaml", f"{name}.utils", f"{name}_doc_to_text"))
        assert lmms_eval("texts", module, file, function, rows) == questions
