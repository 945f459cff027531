"""Applies functions of an installed lmms-eval to values: [name, values] as JSON on stdin, their results as JSON on stdout.

Run by tests/test_benchmarks.py in a process of its own. What lmms-eval imports and these functions do not use is a stand-in; its
package `__init__` files, which import all of it, are not run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pandas  # before the stand-ins, one of which it would look at

ROOT = Path(importlib.util.find_spec("lmms_eval").submodule_search_locations[0])
for package in ("", ".api", ".tasks"):
    module = types.ModuleType(f"lmms_eval{package}")
    module.__path__ = [str(ROOT / package.removeprefix("."))]
    sys.modules[module.__name__] = module
for unused in ("Levenshtein", "evaluate", "openai", "pytz", "requests", "sacrebleu"):
    sys.modules[unused] = MagicMock()


def task(name):
    return importlib.import_module(f"lmms_eval.tasks.{name}")


def or_error(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error).__name__


def relaxed(pairs):
    return [task("chartqa.utils").relaxed_correctness(said, wanted) for said, wanted in pairs]


def anls(pairs):
    from lmms_eval.api.metrics import anls

    return [anls(references, [said])["anls"] for said, references in pairs]


def mme(rows):
    """Sums of perception and cognition, and what each answer was read as."""
    utils = task("mme.utils")
    results = [utils.mme_process_results(row, [row["said"]]) for row in rows]
    kinds = ("mme_perception_score", "mme_cognition_score")
    sums = [or_error(utils.mme_aggregate_results, [r[kind] for r in results if kind in r]) for kind in kinds]
    return {"sums": sums, "read": [utils.parse_pred_ans(row["said"]) for row in rows]}


def pope(rows):
    utils = task("pope.utils")
    results = [utils.pope_process_results(row, [row["said"]]) for row in rows]
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return {n: getattr(utils, f"pope_aggregate_{n}")([r[f"pope_{n}"] for r in results]) for n in names}


def ocrbench(rows, folder):
    utils = task("ocrbench.utils")
    results = [utils.ocrbench_process_results(row, [row["said"]])["ocrbench_accuracy"] for row in rows]
    total = utils.ocrbench_aggregate_accuracy(results, SimpleNamespace(output_path=folder))
    return {"scores": [r["score"] for r in results], "total": total}


def realworldqa(pairs):
    utils = task("realworldqa.utils")
    return [utils.realworldqa_process_results({"answer": wanted}, [said])["exact_match"] for said, wanted in pairs]


def letters(pairs):
    extract = task("_task_utils.mcq_extract").extract_mcq_answer
    return [extract(said, list(choices)) for said, choices in pairs]


def mmmu_choice(pairs):
    """Letters; None where the choice is left to chance, which is taken out."""
    shared = task("_task_utils.mmmu_mcq_utils")
    shared.random.choice = lambda choices: None
    found = [shared.get_multi_choice_info(options) for _, options in pairs]
    return [
        shared.parse_mmmu_multi_choice_response(said, all_choices, index2ans)
        for (said, _), (index2ans, all_choices) in zip(pairs, found, strict=True)
    ]


def mmmu_guesses(pair, times):
    shared = task("_task_utils.mmmu_mcq_utils")
    index2ans, all_choices = shared.get_multi_choice_info(pair[1])
    return [shared.parse_mmmu_multi_choice_response(pair[0], all_choices, index2ans) for _ in range(times)]


def mmmu_open(pairs):
    utils = task("mmmu.utils")
    return [utils.eval_open(wanted, utils.parse_open_response(said)) for said, wanted in pairs]


def mmmu_pro_vision(pairs):
    utils = task("mmmu_pro.utils")
    rows = [{"id": "test_Art_1", "subject": "Art", "answer": wanted} for _, wanted in pairs]
    results = [utils.mmmu_pro_process_results(row, [said])["mmmu_acc"] for row, (said, _) in zip(rows, pairs, strict=True)]
    return [utils.mmmu_pro_aggregate_results([r]) for r in results]


def mmbench(rows):
    """Of each row, and the share of all."""
    utils = task("mmbench.en_utils")
    results = [utils.mmbench_process_results(row, [row["said"]])["gpt_eval_score"] for row in rows]
    one = utils.mmbench_evaluator.eval_sub_data
    hits = [one(pandas.DataFrame([r]), {r["index"]: r["answer"]}, static_only=True) for r in results]
    return {"hits": hits, "share": float(utils.mmbench_evaluator.eval_result(results, eval_method="static")[0])}


def texts(name, file, function, rows):
    """What a task asks, under the settings of its own file."""
    import yaml

    lines = (ROOT / "tasks" / file).read_text().splitlines()
    settings = yaml.safe_load("\n".join(line for line in lines if "!function" not in line))["lmms_eval_specific_kwargs"][
        "default"
    ]
    utils = task(name)
    if name == "mmmu.utils":
        utils.config["metadata"]["interleaved_format"] = True  # as its messages have it
    return [getattr(utils, function)(row, settings) for row in rows]


name, values = json.load(sys.stdin)
assert re.fullmatch(r"[a-z_]+", name)
with contextlib.redirect_stdout(sys.stderr):
    result = globals()[name](*values)
sys.stdout.write(json.dumps(result))
