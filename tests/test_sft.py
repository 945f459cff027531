"""Supervised fine-tuning on transcripts of the base model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import visionthink
from visionthink.data import synth
from visionthink.errors import DataError
from visionthink.menu import Menu
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.sft import SftConfig, choose, collate, demonstrate, fine_tune
from visionthink.transcript import Transcript

EXACT = RulesJudge(closed=True)


@pytest.fixture(scope="module")
def source(tiny_base):
    examples = {e.id: e for e in synth.suite(60, split="train")}
    return EpisodeSource(examples=examples, menu=Menu(), protocol=tiny_base.protocol, budget=tiny_base.budget)


@pytest.fixture(scope="module")
def transcripts(source):
    return visionthink.load("tiny-base", max_new_tokens=8, batch_size=60).run(list(source.examples.values()))


def test_as_many_requests_as_answers_all_correct(source, transcripts):
    chosen = choose(transcripts, source, EXACT)
    right = [t.requested for t in transcripts if t.answer in (t.reference, *t.aliases)]
    assert min(right.count(True), right.count(False)) > 10
    assert [t.requested for t in chosen].count(True) == [t.requested for t in chosen].count(False)
    assert len(chosen) == 2 * min(right.count(True), right.count(False))
    assert all(t.answer == t.reference or t.answer in t.aliases for t in chosen)
    with pytest.raises(DataError, match="0 good transcripts with a request"):
        choose([t for t in transcripts if not t.requested], source, EXACT)


def test_a_saved_transcript_gets_its_ids_back(source, transcripts, tiny_base, renderer):
    saved = [Transcript.from_dict(t.to_dict()) for t in transcripts]
    replayed = demonstrate(saved, source, renderer)
    assert [d.transcript.token_ids for d in replayed] == [t.token_ids for t in transcripts]
    assert [d.transcript.loss_mask for d in replayed] == [t.loss_mask for t in transcripts]
    other = dataclasses.replace(transcripts[0], example_id="nobody")
    with pytest.raises(DataError, match="transcript nobody: its example is missing"):
        demonstrate([other], source, renderer)


def test_labels_are_what_the_model_said(source, transcripts, tiny_base, renderer):
    batch = demonstrate(transcripts[:6], source, renderer)
    inputs = collate(batch, renderer, tiny_base.image_processor)
    for row, d in zip(inputs["labels"], batch, strict=True):
        said = [i for turn in d.transcript.turns for i in turn.token_ids]
        assert row[row != -100].tolist() == said
    assert len(inputs["image_grid_thw"]) == sum(len(d.images) for d in batch)


def test_a_run_learns_and_saves(source, transcripts, renderer, tmp_path):
    chosen = demonstrate(choose(transcripts, source, EXACT), source, renderer)
    final = fine_tune(SftConfig(model="tiny-base", out=tmp_path / "sft", steps=3, batch_size=8, learning_rate=1e-4), chosen)
    before, after = (open_checkpoint(m).model.state_dict() for m in ("tiny-base", str(final)))
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert len((tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()) == 3
