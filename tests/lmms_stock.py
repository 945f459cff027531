"""Stock task configurations of lmms-eval on local tables, and a scripted model. Runs in the environment of lmms-eval.

python tests/lmms_stock.py OUT: writes the tables and lmms-eval's files below OUT, and to OUT/report.json what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
from lmms_eval import evaluator
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.loggers import EvaluationTracker
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from PIL import Image

from visionthink import Completion, Model, Protocol, ScriptedPolicy
from visionthink.errors import VisionThinkError
from visionthink.menu import Menu
from visionthink.resolution import QWEN2_5_VL

REQUEST = f"<think>Too small.</think>{Protocol().request()}"
TOKENS = (1, 2, 3)
"""Every turn is as long."""


def says(answer: str) -> str:
    return f"<think>It is not this: <answer>no</answer></think> So: <answer>{answer}</answer>"


def option(text: str) -> str:
    told = "Please answer directly with only the letter of the correct option and nothing else."
    return f"{text}\nA. left\nB. right\nC. ahead\n{told}"


# task -> split, rows in the schema of the task's data set, each with what the model says
TABLES: dict[str, tuple[str, list[tuple[dict, list[str]]]]] = {
    "chartqa": (
        "test",
        [
            ({"question": "How much is a?", "answer": "47", "type": "human_test"}, [says("47")]),
            ({"question": "How much is b?", "answer": "0", "type": "human_test"}, [says("1")]),
            ({"question": "Is c above d?", "answer": "Yes", "type": "human_test"}, [says("yes")]),
            ({"question": "How much is e?", "answer": "200", "type": "augmented_test"}, [REQUEST, says("\\boxed{208}")]),
            ({"question": "How much is f?", "answer": "12%", "type": "augmented_test"}, [says("12")]),
        ],
    ),
    "docvqa_val": (
        "validation",
        [
            ({"question": "Who sells?", "answers": ["Acme Ltd", "ACME"], "questionId": "1"}, [says("acme")]),
            ({"question": "What is it?", "answers": ["invoice"], "questionId": "2"}, [says("invoise")]),
            ({"question": "When?", "answers": ["March 3"], "questionId": "3"}, ["<think>It never ends"]),
        ],
    ),
    "mme": (
        "test",
        [
            (
                {"question": "Is it red? Please answer yes or no.", "answer": "Yes", "question_id": "1", "category": "color"},
                [says("Yes")],
            ),
            (
                {"question": "Is it blue? Please answer yes or no.", "answer": "No", "question_id": "1", "category": "color"},
                [says("No.")],
            ),
            (
                {"question": "Is it pink? Please answer yes or no.", "answer": "Yes", "question_id": "2", "category": "color"},
                [says("No")],
            ),
            (
                {"question": "Is it grey? Please answer yes or no.", "answer": "No", "question_id": "2", "category": "color"},
                [says("no")],
            ),
            (
                {"question": "Does it print 1?", "answer": "Yes", "question_id": "3", "category": "code_reasoning"},
                [REQUEST, says("yes")],
            ),
            ({"question": "Does it print 2?", "answer": "No", "question_id": "3", "category": "code_reasoning"}, [says("no")]),
        ],
    ),
    "pope": (
        "test",
        [
            ({"question": "Is there a cat?", "answer": "yes", "question_id": "1"}, [says("yes")]),
            ({"question": "Is there a dog?", "answer": "yes", "question_id": "2"}, [REQUEST, says("Yes")]),
            ({"question": "Is there a cow?", "answer": "yes", "question_id": "3"}, [says("no")]),
            ({"question": "Is there a bus?", "answer": "no", "question_id": "4"}, [says("no")]),
            ({"question": "Is there a car?", "answer": "no", "question_id": "5"}, [says("yes")]),
        ],
    ),
    "realworldqa": (
        "test",
        [
            ({"question": option("Where is the exit?"), "answer": "A"}, [says("A")]),
            ({"question": "How many lanes are there?", "answer": "3"}, [says("3")]),
            ({"question": option("Where is the bike?"), "answer": "B"}, [says("C")]),
        ],
    ),
    "ocrbench": (
        "test",
        [
            (
                {
                    "question": "What is written?",
                    "answer": ["CENTRE"],
                    "dataset": "IIIT5K",
                    "question_type": "Regular Text Recognition",
                },
                [says("Centre")],
            ),
            (
                {"question": "What is the date?", "answer": ["12 May"], "dataset": "docVQA", "question_type": "Doc-oriented VQA"},
                [REQUEST, says("12 May")],
            ),
            (
                {
                    "question": "What is scribbled?",
                    "answer": ["hello"],
                    "dataset": "IAM",
                    "question_type": "Handwriting Recognition",
                },
                [says("help")],
            ),
        ],
    ),
}


def scripted() -> Model:
    """Finds the question in what it is asked, and says the next line of its script."""
    lines = {row["question"].removesuffix(" Please answer yes or no."): said for _, rows in TABLES.values() for row, said in rows}

    def reply(history) -> Completion:
        asked = "".join(
            part for message in history if message.role == "user" for part in message.content if isinstance(part, str)
        )
        [said] = [said for question, said in lines.items() if question in asked]
        text = said[sum(message.role == "assistant" for message in history)]
        finish = "length" if text.endswith("never ends") else "stop"
        return Completion(text, finish, token_ids=TOKENS, seconds=0.5)

    return Model(ScriptedPolicy(reply), Protocol(), Menu(), QWEN2_5_VL)


def tables(folder: Path) -> dict[str, str]:
    """112x112 px: 16 visual tokens in full, 4 at a quarter."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (112, 112), "white").save(folder / "image.png")
    files = {}
    for task, (_, rows) in TABLES.items():
        records = [row | {"image": str(folder / "image.png")} for row, _ in rows]
        files[task] = str(folder / f"{task}.parquet")
        datasets.Dataset.from_list(records).cast_column("image", datasets.Image()).to_parquet(files[task])
    return files


def run(out: Path, manager: TaskManager, files: dict[str, str], **options) -> dict:
    """All six tasks in one run; only where the data lie is not as the stock configuration has it."""
    stock = {task: dict(manager._get_config(task)) for task in TABLES}
    local = {t: {"dataset_path": "parquet", "dataset_kwargs": {"data_files": {TABLES[t][0]: files[t]}}} for t in TABLES}
    tasks = [ConfigurableMessagesTask(config=stock[t] | {"dataset_name": None} | local[t]) for t in TABLES]
    tracker, stamp = EvaluationTracker(output_path=str(out)), "20260102_030405"
    tags = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'  # lmms-eval's own default
    results = evaluator.simple_evaluate(
        model=get_model("visionthink")(pretrained="scripted", model=scripted(), **options),
        model_args="pretrained=scripted",
        tasks=tasks,
        task_manager=manager,
        bootstrap_iters=0,
        evaluation_tracker=tracker,
        datetime_str=stamp,
        cli_args=argparse.Namespace(output_path=str(out), timezone="UTC", reasoning_tags=tags, process_with_media=False),
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results, samples, stamp)
    for task in TABLES:
        tracker.save_results_samples(task, samples[task])
    scores = {
        task: {name.split(",")[0]: v for name, v in values.items() if isinstance(v, (int, float)) and "stderr" not in name}
        for task, values in results["results"].items()
    }
    answers = {task: [sample["filtered_resps"] for sample in samples[task]] for task in TABLES}
    return {"scores": scores, "throughput": results["throughput"], "answers": answers}


def refusals() -> dict[str, str]:
    made = get_model("visionthink").create_from_arg_string
    told = {}
    for arguments in (
        "pretrained=tiny,polcy=full,scale=2",
        "pretrained=tiny,policy=oracle",
        "pretrained=tiny,policy=cautious",
        "pretrained=tiny,output=text",
        "pretrained=tiny,ladder=0.25,1",
        "pretrained=tiny,batch_size=auto",
        "policy=full",
    ):
        try:
            told[arguments] = f"accepted {made(arguments)}"
        except VisionThinkError as error:
            told[arguments] = str(error)
    return told


def troubles(sidecar: Path) -> dict:
    """What cannot be asked, what fails and what is repeated, in one list of requests."""
    picture = Image.new("RGB", (112, 112))
    image, text = {"type": "image", "url": picture}, {"type": "text", "text": "How much?"}

    def reply(history) -> Completion:
        if "broken" in history[-1].content[-1]:
            return Completion.failed("out_of_memory", "out of memory")
        return Completion(says("fine"), token_ids=TOKENS)

    def explode(doc):
        raise OSError("image file is truncated")

    contents = [
        [image, text],
        [image, image, text],
        [text],
        [{"type": "video", "url": "film.mp4"}, text],
        [image, {"type": "text", "text": "Is it broken?"}],
        [{"type": "image", "url": "no/such.png"}, text],
        [image, text],
    ]
    documents = [[{"role": "user", "content": content}] for content in contents]
    made = Model(ScriptedPolicy(reply), Protocol(), Menu(), QWEN2_5_VL)
    model = get_model("visionthink")(model=made, sidecar=str(sidecar), batch_size=2)
    model.task_dict = {"mixed": {"test": documents}}
    readers = [lambda doc: doc] * len(documents) + [explode]
    places = [*range(len(documents)), 0]  # the first is asked again, and its reader fails
    requests = [SimpleNamespace(args=("", read, {}, place, "mixed", "test")) for read, place in zip(readers, places, strict=True)]
    answers = [result.text for result in model.generate_until(requests)]
    return {"answers": answers, "sidecar": [json.loads(line) for line in sidecar.read_text().splitlines()]}


def main(out: Path) -> None:
    files, manager = tables(out / "data"), TaskManager("ERROR")
    report = {
        "one": run(out / "one", manager, files, batch_size=1),
        "four": run(out / "four", manager, files, batch_size=4),
        "full": run(out / "full", manager, files, output="full", policy="full"),
        "refusals": refusals(),
        "troubles": troubles(out / "troubles.jsonl"),
        "modules": sorted({"torchvision", "cv2", "av", "decord", "timm"} & set(sys.modules)),
    }
    (out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
