"""Supervised fine-tuning on transcripts: what is chosen, what is learnt from, and the command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sft_run import run, scripted

from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, ImageError, OptionError
from visionthink.menu import Menu
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.recipes.cold_start import SFT_RECIPES, sft_recipe
from visionthink.rewards.judge import judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.demonstrations import choose, collate, demonstrate
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.sft import fine_tune
from visionthink.train.sft_config import SftConfig
from visionthink.transcript import Transcript

EXACT = RulesJudge(closed=True)


@pytest.fixture(scope="module")
def source(tiny_base):
    examples = {e.id: e for e in synth.suite(60, split="train")}
    return EpisodeSource(examples=examples, menu=Menu(), protocol=tiny_base.protocol, budget=tiny_base.budget)


@pytest.fixture(scope="module")
def transcripts(source):
    return load("tiny-base", max_new_tokens=8, batch_size=60).run(list(source.examples.values()))


@pytest.fixture(scope="module")
def verdicts(transcripts):
    return judge_transcripts(EXACT, transcripts)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Training data on disk: 40 generated questions."""
    folder = tmp_path_factory.mktemp("table")
    rows = []
    for example in synth.suite(40, split="train"):
        example.images[0].save(folder / f"{example.id}.png")
        rows.append({"id": example.id, "question": example.question, "image": f"{example.id}.png", "answer": example.answer})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def evaluated(table, tmp_path_factory) -> Path:
    """The folder of an evaluation of the base model on it, which may ask."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    options = ["--model", "tiny-base", "--judge", "exact", "--max-new-tokens", "8", "--out", str(out)]
    assert main(["eval", str(table), *options]) == 0
    return out


def command(out: Path, *more: str) -> list[str]:
    return ["sft", "cold_start_tiny", "--out", str(out), "--steps", "2", "--batch-size", "4", *more]


def test_as_many_requests_as_answers_all_correct(source, transcripts, verdicts):
    chosen = choose(transcripts, verdicts, source.protocol)
    right = [t.requested for t in transcripts if t.answer in (t.reference, *t.aliases)]
    assert min(right.count(True), right.count(False)) > 10
    assert [t.requested for t in chosen].count(True) == [t.requested for t in chosen].count(False)
    assert len(chosen) == 2 * min(right.count(True), right.count(False))
    assert all(t.answer == t.reference or t.answer in t.aliases for t in chosen)
    few = choose(transcripts, verdicts, source.protocol, most=7)
    assert [t.requested for t in few].count(True) == [t.requested for t in few].count(False) == 3
    direct = [t for t in transcripts if not t.requested]
    with pytest.raises(DataError, match=r"0 good transcripts with a request, .* both are needed"):
        choose(direct, judge_transcripts(EXACT, direct), source.protocol)


def test_a_saved_transcript_gets_its_ids_back(source, transcripts, renderer):
    saved = [Transcript.from_dict(t.to_dict()) for t in transcripts]
    replayed = demonstrate(saved, source, renderer)
    assert [d.transcript.token_ids for d in replayed] == [t.token_ids for t in transcripts]
    assert [d.transcript.loss_mask for d in replayed] == [t.loss_mask for t in transcripts]
    other = dataclasses.replace(transcripts[0], example_id="nobody")
    with pytest.raises(DataError, match="transcript nobody: its example is missing"):
        demonstrate([other], source, renderer)


def test_ids_of_another_tokenizer_are_left_for_the_text(source, transcripts, renderer):
    foreign = [
        dataclasses.replace(t, turns=tuple(dataclasses.replace(turn, token_ids=(151_000, 9)) for turn in t.turns))
        for t in transcripts[:3]
    ]
    assert [d.transcript.token_ids for d in demonstrate(foreign, source, renderer)] == [t.token_ids for t in transcripts[:3]]


def test_transcripts_of_another_wording_or_menu_are_refused(source, transcripts, renderer):
    asked = next(t for t in transcripts if t.requested)
    with pytest.raises(DataError, match=r"the prompt of turn 1 was '.*' and is '.*another dialect, menu or ladder"):
        demonstrate([asked], dataclasses.replace(source, protocol=source.protocol.with_dialect("agent")), renderer)
    with pytest.raises(DataError, match="replayed as answered; was it sampled with another dialect, menu"):
        demonstrate([asked], dataclasses.replace(source, menu=Menu().full()), renderer)
    with pytest.raises(DataError, match=r"takes \d+ tokens, and the model reads 20; set max_image_tokens"):
        demonstrate([asked], source, renderer, context=20)


def test_images_are_opened_when_their_turn_comes(table, tiny_base, renderer):
    """After the check, which reads headers, an image that is gone is missed only by its own demonstration."""
    from visionthink.data.examples import read_examples

    examples = read_examples(str(table))
    source = EpisodeSource(examples=examples, menu=Menu(), protocol=tiny_base.protocol, budget=tiny_base.budget)
    ids = list(examples)[:2]
    said = [load("tiny-base", max_new_tokens=8).run([examples[i]])[0] for i in ids]
    demonstrations = demonstrate(said, source, renderer)
    gone = Path(str(examples[ids[1]].images[0]))
    kept = gone.read_bytes()
    gone.unlink()
    try:
        assert demonstrations[0].images[0].size == (56, 56)
        with pytest.raises(ImageError, match=gone.name):
            demonstrations[1]
    finally:
        gone.write_bytes(kept)


def test_labels_are_what_the_model_said(source, transcripts, tiny_base, renderer):
    batch = list(demonstrate(transcripts[:6], source, renderer))
    inputs = collate(batch, renderer, tiny_base.image_processor)
    for row, d in zip(inputs["labels"], batch, strict=True):
        said = [i for turn in d.transcript.turns for i in turn.token_ids]
        assert row[row != -100].tolist() == said
    assert len(inputs["image_grid_thw"]) == sum(len(d.images) for d in batch)


def test_a_run_learns_and_saves(source, transcripts, verdicts, renderer, tmp_path):
    chosen = demonstrate(choose(transcripts, verdicts, source.protocol), source, renderer)
    config = SftConfig(out=tmp_path / "sft", steps=3, batch_size=8, learning_rate=1e-4, lr_schedule="cosine")
    final = fine_tune(config, chosen)
    before, after = (open_checkpoint(m).model.state_dict() for m in ("tiny-base", str(final)))
    assert any(not torch.equal(before[k], after[k]) for k in before)
    lines = [json.loads(line) for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-4, 0.75e-4, 0.25e-4])


def test_an_update_is_a_mean_over_its_tokens(tmp_path):
    """However it is divided into passes. By means of means the weights would differ by 7e-4."""
    one, other = (open_checkpoint(str(run(tmp_path / str(m), micro_batch=m))).model.state_dict() for m in (0, 2))
    start = open_checkpoint("tiny-base").model.state_dict()
    assert max(float((one[k] - start[k]).abs().max()) for k in one) > 1e-3
    assert max(float((one[k] - other[k]).abs().max()) for k in one) < 1e-6
    losses = [json.loads((tmp_path / m / "metrics.jsonl").read_text().splitlines()[0])["loss"] for m in ("0", "2")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_an_adapter_is_merged_exactly_and_kept_beside(tmp_path, tiny_base, renderer):
    from peft import PeftModel

    final = run(tmp_path, lora_rank=4, gradient_checkpointing=True)
    merged, base = open_checkpoint(str(final)).model, open_checkpoint("tiny-base").model
    adapted = PeftModel.from_pretrained(base, str(final / "adapter")).eval()
    inputs = collate(list(scripted(tiny_base, 6)), renderer, tiny_base.image_processor)
    inputs.pop("labels")
    with torch.no_grad():
        one, other = merged(**inputs).logits, adapted(**inputs).logits
        with adapted.disable_adapter():
            without = adapted(**inputs).logits
    largest = float(other.abs().max())
    assert float((one - other).abs().max()) / largest < 1e-5
    assert float((one - without).abs().max()) / largest > 1e-2


def test_from_an_evaluation_to_a_model(evaluated, tmp_path, capsys):
    """The command takes data and verdicts from the folder; `--judge` and `--data` say otherwise."""
    out = tmp_path / "run"
    assert main(command(out, "--demonstrations", str(evaluated), "--samples", "10")) == 0
    error = capsys.readouterr().err
    assert "replaying 10 demonstrations" in error and f"saved to {out / 'final'}" in error
    assert open_checkpoint(str(out / "final")).protocol.dialect == "compact"
    assert main(command(out, "--demonstrations", str(evaluated), "--samples", "10")) == 2
    assert capsys.readouterr().err == f"error: --out {out}: holds a run already; give --resume or another folder\n"
    assert main(command(out, "--demonstrations", str(evaluated), "--samples", "8", "--resume")) == 2
    assert f"error: --resume: samples was 10 in {out} and is 8 now" in capsys.readouterr().err


def test_transcripts_without_verdicts_need_a_judge(evaluated, table, tmp_path, capsys):
    file = tmp_path / "said.jsonl"
    lines = [json.loads(line) for line in (evaluated / "transcripts.jsonl").read_text().splitlines()]
    fields = ("verdict", "by", "reason")
    file.write_text("".join(json.dumps({k: v for k, v in line.items() if k not in fields}) + "\n" for line in lines))
    given = ("--demonstrations", str(file), "--data", str(table))
    assert main(command(tmp_path / "run", *given)) == 2
    assert f"{file}, line 1: not a judged transcript: verdict: is missing; give --judge" in capsys.readouterr().err
    assert main(command(tmp_path / "run", *given, "--judge", "exact", "--dry-run")) == 0
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_learnt_from_is_one_line(evaluated, table, tmp_path, capsys):
    def refused(demonstrations: object, *more: str) -> str:
        assert main(command(tmp_path / "run", "--demonstrations", str(demonstrations), *more)) == 2
        assert not (tmp_path / "run").exists()
        [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        return error

    curated, unfinished, several = (tmp_path / name for name in ("curated", "unfinished", "several"))
    for folder in (curated / "counts", unfinished, several / "a", several / "b"):
        folder.mkdir(parents=True)
    (unfinished / "progress.jsonl").touch()
    for name in ("a", "b"):
        (several / name / "transcripts.jsonl").touch()
    assert "is a curation; its answers were sampled at one resolution each, and nobody could ask" in refused(curated)
    assert f"visionthink eval {curated / 'curated.parquet'} --policy adaptive" in refused(curated)
    assert "the evaluation is not finished; run it again" in refused(unfinished)
    assert "holds several evaluations; name some of a, b" in refused(several)
    assert "no such file or folder" in refused(tmp_path / "none")
    assert "holds no transcripts.jsonl" in refused(tmp_path)
    assert "--data: is missing, and" in refused(several / "a" / "transcripts.jsonl")
    assert "4 demonstrations of an update cannot be split into passes of 3" in refused(evaluated, "--micro-batch", "3")
    assert (
        main(["eval", "mini", "--limit", "4", "--model", "tiny-base", "--max-new-tokens", "8", "--out", str(tmp_path / "m")]) == 0
    )
    assert "of mini, which is for evaluation; use training data" in refused(tmp_path / "m")
    low = ["--policy", "low", "--judge", "exact", "--model", "tiny-base", "--max-new-tokens", "8", "--limit", "4"]
    assert main(["eval", str(table), *low, "--out", str(tmp_path / "low")]) == 0
    assert "in none of its transcripts anything could be asked for; evaluate with --policy adaptive" in refused(tmp_path / "low")
    assert main(["sft", "cold_start_7b", "--out", str(tmp_path / "run"), "--model", "tiny-base"]) == 2
    assert "--demonstrations: is missing; name the folder of visionthink eval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"batch_size": 6, "micro_batch": 4}, "6 demonstrations of an update cannot be split into passes of 4"),
        ({"samples": 1}, "samples 1: must be at least 2"),
        ({"lr_schedule": "steep"}, "unknown lr_schedule 'steep'; choose constant, linear, cosine"),
        ({"learning_rate": 0.0}, "learning_rate 0.0: must be a number of at least"),
        ({"dialect": "general"}, "asks for nothing"),
    ],
)
def test_settings_that_cannot_be(settings, error):
    with pytest.raises(OptionError, match=error):
        SftConfig(**settings)


def test_an_update_is_divided_among_processes_or_refused():
    assert SftConfig(batch_size=32, micro_batch=1).per_process(8) == 4
    with pytest.raises(OptionError, match="batch_size 32: cannot be divided among 5 processes; use a multiple of 5"):
        SftConfig(batch_size=32).per_process(5)
    with pytest.raises(OptionError, match="4 demonstrations of an update on each process cannot be split into passes of 3"):
        SftConfig(batch_size=24, micro_batch=3).per_process(6)


def test_every_recipe_says_what_it_takes():
    for name, build in SFT_RECIPES.items():
        assert all(word in (build.__doc__ or "") for word in ("Hardware", "Time", "Expected:", f"sft {name}"))
    config = sft_recipe("cold_start_7b").config
    assert (config.samples, config.model) == (2000, "Qwen/Qwen2.5-VL-7B-Instruct")  # Table 9: 2K, and 8K


@pytest.mark.slow
def test_the_large_recipe_can_be_rehearsed(evaluated, tmp_path, capsys):
    """With a random model of the architecture: on scripted demonstrations, or on real ones that another model said."""
    assert main(["sft", "cold_start_7b", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "dry run: one step taken, nothing saved" in capsys.readouterr().err
    given = ["--demonstrations", str(evaluated), "--dialect", "compact"]
    assert main(["sft", "cold_start_7b", "--out", str(tmp_path / "run"), "--dry-run", *given]) == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(evaluated, tmp_path):
    def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
        options = ["--demonstrations", str(evaluated), "--steps", "8", "--save-steps", "2", "--learning-rate", "1e-3"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "visionthink", *command(out, *options, *more)], env=environment)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(300) == 0
    process = start(killed)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-4").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "final").exists(), "the kill came after the end"
    assert start(killed, "--resume").wait(300) == 0
    lines = [[json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()] for out in (whole, killed)]
    assert [x["step"] for x in lines[1]] == list(range(1, 9))
    assert [x["loss"] for x in lines[0]] == [x["loss"] for x in lines[1]]
    one, other = (open_checkpoint(str(out / "final")).model.state_dict() for out in (whole, killed))
    assert all(torch.equal(one[k], other[k]) for k in one)
