"""Shared prefixes in a run: what is computed, what is refused, what the check at the start finds, what TRL must not change."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from both_ways import saying, scenes, trained
from scripted import words
from training import small
from trl import GRPOTrainer

from visionthink.cli import main
from visionthink.data import synth
from visionthink.engine import attention
from visionthink.engine.decoding import Decode
from visionthink.engine.engine import Engine
from visionthink.engine.sampling import Sampling
from visionthink.engine.tree import PrefixTree
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.train import scoring, sharing
from visionthink.train.processes import Distribution
from visionthink.train.scoring import StepScorer
from visionthink.train.trainer import make_trainer

MIXED = [["0", "1", "?", "?2 "], ["0", "1", "2", "33"]]
ANEW = "prefixes are computed for every rollout anew: "


def reply():
    return saying(MIXED, open_checkpoint("tiny-base").protocol.request())


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if ANEW in record.getMessage()]


# ------------------------------------------------------------------------------------------------ counts


def prefixes(rows) -> set[tuple]:
    """Of sequences of tokens, all beginnings: as many as there are distinct tokens where prefixes are shared."""
    return {tuple(row[: n + 1]) for row in rows for n in range(len(row))}


def read(ids, images, pad: int) -> list:
    """Tokens as they are told apart, those of an image by it and their place."""
    visual = iter([(image.tobytes(), i) for image in images for i in range(image.width * image.height // 28**2)])
    return [next(visual) if token == pad else token for token in ids]


@pytest.mark.parametrize("lora_rank, passes", [(0, 3), (4, 1)])
def test_what_a_step_computes(tmp_path, monkeypatch, lora_rank, passes):
    """Of two questions with four members each; of one of them two ask, in different words. A tower that is trained is asked in
    generation, for the reference and in the update; one that is not, once."""
    examples = scenes(count=2)
    config = small(
        tmp_path, steps=1, prompts_per_step=2, kl_coef=0.2, shuffle=False, exclude="", lora_rank=lora_rank, max_new_tokens=40
    )
    trainer = make_trainer(config, examples)
    engine, renderer, decode = trainer.engine, trainer.sampler.policy.renderer, Engine._decode

    def scripted(self, decoding, logits, following, prompts, sampling, draws, listen):
        rows = [iter(ids) for ids in words(renderer, prompts, reply())]
        return decode(self, decoding, logits, following, prompts, sampling, rows, listen)

    monkeypatch.setattr(Engine, "_decode", scripted)
    monkeypatch.setattr(Sampling, "_drawn", lambda self, logits, before, rows: torch.tensor([next(row) for row in rows]))
    trainer._unchecked = False  # the comparison at the start would be counted, too
    trainer.train()

    rollouts = trainer.step.rollouts
    assert [r.transcript.requested for r in rollouts] == [False, False, True, True] + [False] * 4
    turns = [[r.transcript.turns[n] for r in rollouts if n < len(r.transcript.turns)] for n in (0, 1)]
    sequences = [read(r.transcript.token_ids, r.images, engine.pad) for r in rollouts]
    openings = [len(r.transcript.turns[0].prompt_ids) for r in rollouts]
    said = [[turn.token_ids for turn in of_turn] for of_turn in turns]
    opening = prefixes([row[:n] for row, n in zip(sequences, openings, strict=True)])
    known = prefixes([row[: n + len(ids) - 1] for row, n, ids in zip(sequences, openings, said[0], strict=True)])
    second = prefixes([row[: len(row) - len(ids)] for row, ids in zip((sequences[2], sequences[3]), said[1], strict=True)])
    counts = engine.counts
    assert counts.prepared == 3  # a low view each, and a full one
    assert counts.patches == passes * (16 + 16 + 64)
    assert counts.prefilled == len(opening) + len(second - known)
    assert counts.decoded == sum(len(ids) - 1 for of_turn in said for ids in of_turn)
    assert counts.calls == sum(1 + max(len(ids) - 1 for ids in of_turn) for of_turn in said)
    assert trainer.scorer.tokens == 2 * len(prefixes([row[:-1] for row in sequences]))


# ------------------------------------------------------------------------------------------------ the check at the start


def counted_along_the_pack(monkeypatch):
    pack = StepScorer._pack

    def wrong(self, rollouts):
        packed = pack(self, rollouts)
        return dataclasses.replace(packed, positions=torch.arange(packed.ids.shape[1]).expand(3, 1, -1))

    monkeypatch.setattr(StepScorer, "_pack", wrong)


def seeing_siblings(monkeypatch):
    def wrong(rows):
        tree = PrefixTree.of(rows)
        return dataclasses.replace(tree, end=np.full_like(tree.end, len(tree.end)))

    monkeypatch.setattr(scoring, "PrefixTree", SimpleNamespace(of=wrong))


def without_a_gradient(monkeypatch):
    backward = attention._InParts.backward

    def wrong(ctx, *grads):
        of_query, of_key, *others = backward(ctx, *grads)
        return of_query, torch.zeros_like(of_key), *others

    monkeypatch.setattr(attention._InParts, "backward", staticmethod(wrong))


WRONG = [counted_along_the_pack, seeing_siblings, without_a_gradient]


@pytest.mark.parametrize("mutate", WRONG)
def test_what_is_wrong_is_found_and_not_trained_with(tmp_path, monkeypatch, caplog, mutate):
    examples = scenes(count=2)
    plain = trained(tmp_path, examples, reply(), share="off")
    assert not warnings(caplog)
    mutate(monkeypatch)
    found = trained(tmp_path, examples, reply(), share="on")
    [warning] = warnings(caplog)
    assert warning.startswith(f"{ANEW}log-probabilities differ by up to ") and found.trainer.engine is None
    assert found.losses == plain.losses and found.losses[0] != 0
    assert all(torch.equal(value, plain.gradients[0][name]) for name, value in found.gradients[0].items())


def test_answers_that_were_decoded_wrongly_are_found_and_sampled_again(tmp_path, monkeypatch, caplog):
    """Passes that are learnt from are right here, and the model speaks for itself."""
    usual = Decode.attend
    monkeypatch.setattr(Decode, "attend", lambda *given: usual(*given) / 2)
    trainer = make_trainer(small(tmp_path / "run", steps=1), scenes(count=2))
    trainer.train()
    [warning] = warnings(caplog)
    assert warning.startswith(f"{ANEW}log-probabilities differ by up to ") and warning.endswith("those that were sampled with")
    assert trainer.engine is None
    assert all(turn.logprobs is None for rollout in trainer.step.rollouts for turn in rollout.transcript.turns)


@pytest.mark.slow
@pytest.mark.parametrize("mutate", WRONG)
def test_what_is_wrong_is_found_in_half_precision(tmp_path, monkeypatch, caplog, mutate):
    mutate(monkeypatch)
    found = trained(tmp_path, scenes(count=2), reply(), checkpoint=open_checkpoint("tiny-base", dtype=torch.bfloat16))
    assert len(warnings(caplog)) == 1 and found.trainer.engine is None


def test_the_check_is_done_once_and_says_nothing(tmp_path, monkeypatch, caplog):
    calls, difference = [], sharing.agreement.difference
    monkeypatch.setattr(sharing.agreement, "difference", lambda *given: calls.append(difference(*given)) or calls[-1])
    shared = trained(tmp_path, scenes(count=4), reply(), steps=2, prompts_per_step=2)
    assert calls == [""] and not warnings(caplog) and shared.trainer.engine is not None and len(shared.losses) == 2


# ------------------------------------------------------------------------------------------------ settings


def taking_no_features(monkeypatch, checkpoint):
    def forward(self, input_ids=None):
        raise AssertionError("is not called")

    monkeypatch.setattr(type(checkpoint.model), "forward", forward)
    return "this version of transformers takes no features of images; pip install --upgrade transformers"


def with_a_window(_monkeypatch, checkpoint):
    checkpoint.model.config.get_text_config().layer_types = ["full_attention", "sliding_attention", "full_attention"]
    return "its decoder has layers with a sliding window"


def divided(monkeypatch, _checkpoint, **kind):
    monkeypatch.setattr(sharing, "distribution", lambda: Distribution(processes=2, **kind))
    return "weights are divided among processes (ZeRO-3, FSDP), and are not whole outside of a pass"


def under_zero3(monkeypatch, checkpoint):
    return divided(monkeypatch, checkpoint, deepspeed=True, zero_stage=3)


def under_fsdp(monkeypatch, checkpoint):
    return divided(monkeypatch, checkpoint, fsdp=2)


@pytest.mark.parametrize("hinder", [taking_no_features, with_a_window, under_zero3, under_fsdp])
def test_where_it_cannot_be_done(tmp_path, monkeypatch, caplog, hinder):
    """Asked for, it is refused; else the run says so and goes on without."""
    checkpoint = open_checkpoint("tiny-base")
    reason = hinder(monkeypatch, checkpoint)
    with pytest.raises(OptionError) as refused:
        make_trainer(small(tmp_path, share="on"), scenes(), checkpoint=checkpoint)
    assert str(refused.value) == f"share on: {reason}; use --share auto"
    assert make_trainer(small(tmp_path, share="auto"), scenes(), checkpoint=checkpoint).engine is None
    assert warnings(caplog) == [f"{ANEW}{reason}"]
    assert make_trainer(small(tmp_path, share="off"), scenes(), checkpoint=checkpoint).engine is None
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("setting, value", [("top_p", 0.9), ("top_k", 5), ("min_p", 0.1), ("repetition_penalty", 1.2)])
def test_a_way_of_drawing_that_the_engine_does_not_know_is_not_left_out(tmp_path, caplog, setting, value):
    trainer = make_trainer(small(tmp_path, trl={setting: value}), scenes())
    assert trainer.engine is None and getattr(trainer.generation_config, setting) == value
    [warning] = warnings(caplog)
    assert warning.startswith(f"{ANEW}{setting} of TRL: ")


def test_an_unknown_value_is_refused_and_off_is_taken_from_the_command_line(tmp_path, capsys):
    with pytest.raises(OptionError, match="unknown share 'maybe'; choose auto, on or off"):
        small(tmp_path, share="maybe")
    out = tmp_path / "run"
    options = ["--steps", "1", "--prompts-per-step", "2", "--group-size", "4", "--out", str(out)]
    assert main(["train", "tiny", *options, "--share", "off"]) == 0
    assert json.loads((out / "config.json").read_text())["share"] == "off"
    assert ANEW not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ several processes


def test_what_is_sampled_does_not_depend_on_what_else_a_process_samples(tmp_path):
    """So that two processes sample what one does."""
    examples = synth.suite(4, split="train")
    ids = [e.id for e in examples]
    said = []
    for part in (ids, ids[:2], ids[2:]):
        trainer = make_trainer(small(tmp_path), examples)
        with trainer.sampling(5):
            groups = trainer.sampler.sample(part)
        said.append([r.transcript.token_ids for group in groups for r in group])
    assert said[0] == said[1] + said[2] and len(set(said[0])) > 4


# ------------------------------------------------------------------------------------------------ seams of TRL


def test_what_is_overridden_is_as_it_was():
    """`sharing.py` stands on these. Where a parameter was added, read whether the override must pass it on or answer for it."""
    expected = {
        "_generate": ["self", "prompts"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_prepare_inputs": ["self", "generation_batch"],
        "_compute_loss": ["self", "model", "inputs"],
    }
    found = {name: list(inspect.signature(getattr(GRPOTrainer, name)).parameters) for name in expected}
    assert found == expected
    taken = "self model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
    taken += (
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids mm_token_type_ids "
    )
    taken += "image_position_ids"
    assert list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters) == taken.split()
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == "f824e7fb07147956", (
        "GRPOTrainer._prepare_inputs has changed: SharedPrefixes._prepare_inputs repeats it, with whole groups permuted in the "
        "place of rows; read it again, then put the new hash here"
    )
