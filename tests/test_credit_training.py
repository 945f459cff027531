"""Credit in a step of training: what TRL's loss is given, and what it makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from both_ways import EXACT, apart, both, saying
from both_ways import scenes as gradients
from scripted import speak
from test_loss import batched_logprobs
from training import rollout_batch, small

from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.protocol import Protocol
from visionthink.train.config import TrainConfig
from visionthink.train.credit import member
from visionthink.train.trainer import make_trainer
from visionthink.types import Box, Call

EVIDENCE = ((Box(0, 0, 56, 56), 1.0),)


def known(examples):
    """With evidence, so that crops have a reward."""
    return [dataclasses.replace(example, evidence=EVIDENCE) for example in examples]


def scenes(count=8):
    return known(synth.suite(count, split="train"))


def order(trainer, inputs) -> list[int]:
    """Which rollout each row of a batch is."""
    if "row" in inputs:
        return inputs["row"].tolist()
    said = [list(t.token_ids) for t in trainer.step.transcripts]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1).bool()
    return [said.index(row[there].tolist()) for row, there in zip(ids, mask, strict=True)]


def test_eq3_is_left_to_trl(tmp_path):
    """Bit by bit: z of the rewards in float32, as before there was any other credit."""
    trainer = make_trainer(small(tmp_path, group_size=6), synth.suite(8, split="train"))
    inputs = rollout_batch(trainer)
    rewards = torch.tensor([np.nan if r.score.total is None else r.score.total for r in trainer.step.rollouts]).view(-1, 6)
    mean = rewards.nanmean(1, keepdim=True)
    n = (~rewards.isnan()).sum(1, keepdim=True)
    std = (((rewards - mean) ** 2).nansum(1, keepdim=True) / (n - 1)).sqrt()
    expected = torch.nan_to_num((rewards - mean) / (std + 1e-4)).flatten()[order(trainer, inputs)]
    assert inputs["advantages"].shape == (24,) and torch.allclose(inputs["advantages"], expected, atol=1e-6)
    assert trainer.args.loss_type == "grpo"


@pytest.mark.parametrize("credit", ["sum:price=0.1", "gdpo", "centred:price=0.1"])
def test_one_advantage_for_all_tokens_of_a_member(tmp_path, credit):
    trainer = make_trainer(small(tmp_path, group_size=6, credit=credit), scenes())
    inputs = rollout_batch(trainer)
    members = [member(r) for r in trainer.step.rollouts]
    groups = [members[i : i + 6] for i in range(0, 24, 6)]
    expected = torch.tensor([float(a) for a in trainer.credit.advantages(groups)])
    assert expected.abs().max() > 0.1
    assert torch.allclose(inputs["advantages"], expected[order(trainer, inputs)])


@pytest.mark.parametrize("first, updates", [(1.0, 1), (0.5, 2)])
def test_dtpo_is_a_mean_over_first_and_one_over_last_turns(tmp_path, first, updates):
    """TRL's loss over the passes of a step, against the two means written by hand, with ratios that clip."""
    config = small(
        tmp_path,
        credit=f"dtpo:first={first}",
        group_size=6,
        micro_batch=6,
        updates_per_step=updates,
        temperature=1.0,
        share="off",
    )
    trainer = make_trainer(config, scenes())
    rollout_batch(trainer)
    assert trainer.args.loss_type == "dapo"
    trainer.current_gradient_accumulation_steps = 4 // updates
    sums, counts, losses = np.zeros(2), np.zeros(2), []
    for inputs in trainer._buffered_inputs:
        logprobs = batched_logprobs(trainer, inputs).detach()
        old = logprobs + 0.3 * torch.sin(torch.arange(logprobs.numel())).view_as(logprobs)
        inputs["old_per_token_logps"] = old
        losses.append(float(trainer.compute_loss(trainer.model, inputs).detach()))
        for row, i in enumerate(order(trainer, inputs)):
            of_rollout = member(trainer.step.rollouts[i])
            ratio = (logprobs - old)[row, : len(of_rollout.turns)].exp().numpy()
            values = expected_dtpo(trainer, i)
            for kind, (at, advantage) in enumerate(values):
                clipped = np.minimum(ratio[at] * advantage, np.clip(ratio[at], 0.8, 1.2) * advantage)
                sums[kind] -= clipped.sum()
                counts[kind] += at.sum()
    assert counts.min() > 0
    assert sum(losses) / updates == pytest.approx(first * sums[0] / counts[0] + sums[1] / counts[1], abs=1e-5)


def expected_dtpo(trainer, i):
    """Of a rollout: where its first and last turns are, and their advantage before any scaling."""
    size = trainer.config.group_size
    start = i - i % size
    group = [r.score for r in trainer.step.rollouts[start : start + size]]
    scored = [s for s in group if s.total is not None]
    own = group[i - start]
    of_rollout = member(trainer.step.rollouts[i])
    if own.total is None:
        return [(of_rollout.turns >= 0, 0.0), (of_rollout.turns >= 0, 0.0)]

    def z(values, value):
        return (value - np.mean(values)) / (np.std(values, ddof=1) + 1e-6)

    areas = [s.area for s in scored if s.crop == 1 and s.accuracy == 1]

    def tool(s):
        effective = s.crop == 1 and s.accuracy == 1
        return s.crop - (2 * np.clip(s.area / np.mean(areas) - 1, 0, 1) if effective else 0)

    outcome = z([s.total for s in scored], own.total)
    call = 0.3 * z([tool(s) for s in scored], tool(own))
    first = (of_rollout.turns >= 0) & (of_rollout.turns < of_rollout.last)
    return [(first, outcome + call), (of_rollout.turns == of_rollout.last, outcome + (0 if of_rollout.last else call))]


CASES = {
    "dtpo": {"credit": "dtpo", "kl_coef": 0.05},
    "dtpo in passes": {"credit": "dtpo:first=0.5", "micro_batch": 4},
    "branches": {"credit": "branches:price=0.1", "forced": 1, "penalty": "none"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_shared_prefixes_give_the_same(tmp_path, name):
    rows = [["0", "1", "?", "?2 "], ["0", "?", "2", "33"]]
    shared, plain = both(
        tmp_path, known(gradients(count=2)), saying(rows, open_checkpoint("tiny-base").protocol.request()), **CASES[name]
    )
    assert shared.trainer.engine is not None and apart(shared, plain) <= EXACT
    assert any(loss != 0 for loss in shared.losses)


def test_what_is_forced_and_what_is_learnt_from_it(tmp_path, tiny):
    """Two members for each of the evidence, the centre and the whole image; ten regions are on offer."""
    config = small(
        tmp_path,
        menu="ten",
        forced=2,
        forced_actions="evidence,4,all",
        credit="branches:price=0.1",
        group_size=10,
        temperature=1.0,
    )
    trainer = make_trainer(config, scenes())
    inputs = rollout_batch(trainer)
    names = [None] * 4 + ["evidence"] * 2 + ["4"] * 2 + ["all"] * 2
    rollouts = trainer.step.rollouts
    assert [r.forced for r in rollouts[:10]] == names
    for r in rollouts:
        m = member(r)
        if r.forced == "evidence":
            assert [look.boxes for look in m.action] == [(Box(0, 0, 56, 56),)] and m.kind == "crop"
        elif r.forced == "all":
            assert [look.boxes for look in m.action] == [(Box(0, 0, 112, 112),)] and m.kind == "whole"
        elif r.forced == "4":
            assert [look.boxes for look in m.action] == [(Box(28, 28, 84, 84),)] and m.kind == "crop"
        if m.forced:
            assert set(m.turns) <= {-1, 1} and r.transcript.turns[0].by == "forced"
    assert inputs["advantages"].shape == inputs["completion_ids"].shape
    trainer.compute_loss(trainer.model, inputs).backward()


def test_how_probable_an_action_was(tmp_path, tiny):
    """Members of one question have the same policy: who takes the same action says the same probability, and both make 1."""
    config = small(tmp_path, forced=1, credit="branches:price=0.1", group_size=8, temperature=1.0)
    trainer = make_trainer(config, scenes())
    inputs = rollout_batch(trainer)
    learnt = inputs["completion_mask"] * inputs["tool_mask"]
    assert inputs["advantages"].abs().max() > 0 and not (inputs["advantages"] * (1 - learnt)).any()
    found: dict[str, dict[bool, set[float]]] = {}
    for r in trainer.step.rollouts:
        m = member(r)
        assert (m.probability is None) == m.forced
        assert (m.decision == 0) == (m.kind == "answer")
        if m.probability is not None:
            of_example = found.setdefault(r.transcript.example_id, {True: set(), False: set()})
            of_example[r.transcript.requested].add(round(m.probability, 3))
    assert all(len(values) <= 1 for of_example in found.values() for values in of_example.values())
    both = [of_example for of_example in found.values() if all(of_example.values())]
    assert both
    for of_example in both:
        assert sum(max(values) for values in of_example.values()) == pytest.approx(1, abs=0.01)


def test_members_over_a_limit(tmp_path):
    """Deep in a menu of five turns one member asks until it may not: masked by default, and in the statistics."""
    settings = {name: TrainConfig(menu=name).over_limits() for name in ("visionthink", "awares", "ladder", "minio3")}
    assert settings == {"visionthink": "penalise", "awares": "penalise", "ladder": "mask", "minio3": "mask"}
    protocol = Protocol("compact_ids")

    def reply(question, turn, member):
        if member == 3 or turn:
            return protocol.request(Call(regions=(str(turn),)))
        return "<answer>0</answer>" if member < 2 else "<answer>1</answer>"

    found = {}
    for name in ("mask", "exclude", "penalise"):
        config = small(tmp_path, menu="ten", over_limit=name, penalty="none", exclude="")
        trainer = make_trainer(config, gradients(count=4))
        speak(trainer, reply)
        rollout_batch(trainer)
        group = trainer.step.rollouts[:4]
        assert [r.transcript.stop_reason for r in group] == ["answered"] * 3 + ["over_limit"]
        learnt = [any(r.loss_mask) for r in group]
        found[name] = ([r.score.total for r in group], learnt)
    assert found == {
        "mask": ([1.5, 1.5, 0.5, 0.0], [True, True, True, False]),
        "exclude": ([1.5, 1.5, 0.5, None], [True, True, True, False]),
        "penalise": ([1.5, 1.5, 0.5, 0.0], [True] * 4),
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"credit": "x"}, "unknown credit 'x'"),
        ({"credit": "branches"}, "credit branches: needs members that are made to act; use --forced 2 or more"),
        ({"credit": "branches", "forced": 1, "penalty": "eq5"}, "penalty eq5: credit branches takes none; use --penalty none"),
        ({"benefit": "none:2"}, "benefit 'none:2': nobody is paid, so there is no amount"),
        ({"budget": "visual=0.4,damping=-1"}, "budget 'visual=0.4,damping=-1': damping must be a number of at least 0"),
        ({"budget": "visual=40"}, "budget visual=40: no episode costs more than 1.25 times the full view"),
        ({"budget": "visual=0.4", "credit": "gdpo:price=0.3"}, "budget visual=0.4: sets the price by itself; leave it out"),
        ({"benefit": "value"}, "benefit value: is measured on members that are made to act"),
        (
            {"benefit": "value", "credit": "branches", "forced": 1},
            "benefit value: credit branches measures by itself what looking",
        ),
        ({"benefit": "x"}, "unknown benefit 'x'; choose from none, adatooler, value"),
        ({"over_limit": "x"}, "unknown over_limit 'x'; choose mask, exclude, penalise"),
        ({"forced": 1, "forced_actions": "direct"}, "forced_actions 'direct': name at least two different ones"),
        ({"forced": 1, "forced_actions": "direct,3"}, "forced_actions '3': what can be asked for here is direct, request"),
        ({"forced_actions": "x"}, "forced_actions x: nobody is made to act; use --forced 2 or more"),
        ({"forced": 1, "menu": "ten"}, "forced_actions 'request': what can be asked for here is direct, whole, evidence, 0, 1"),
        ({"budget": "0.4"}, "budget '0.4': expected UNIT=SHARE with a unit of visual, flops, ms, as visual=0.4"),
        ({"budget": "visual=much"}, "budget 'visual=much': visual and its settings are numbers"),
        ({"budget": "visual=0.4,x=1"}, "budget 'visual=0.4,x=1': no setting 'x'; choose eta, damping, ema or ceiling"),
        ({"budget": "visual=0.4,eta=0.1,eta=0.2"}, "budget 'visual=0.4,eta=0.1,eta=0.2': eta is named twice"),
        ({"budget": "visual=-1"}, "budget 'visual=-1': visual must be a number above 0"),
        ({"budget": "visual=0.4,ema=2"}, "budget 'visual=0.4,ema=2': ema must be a number above 0 and at most 1"),
        ({"budget": "visual=0.2"}, "budget visual=0.2: the first view alone is 0.25 of the full one; take a larger share"),
        ({"budget": "visual=0.4", "ladder": "1"}, "budget visual=0.4: with the levels 1 nothing can be asked for"),
        ({"budget": "visual=0.4", "credit": "eq3"}, "budget visual=0.4: credit eq3 has no price that it could set"),
        ({"budget": "visual=0.4", "credit": "centred:price=1"}, "budget visual=0.4: sets the price by itself"),
        ({"budget": "visual=0.4", "penalty": "eq5"}, "budget visual=0.4: sets what looking costs; use --penalty none"),
        ({"budget": "ms=0.4"}, "budget ms=0.4: needs the times of a device: visionthink measure"),
        ({"budget": "ms=0.4", "device_table": "none.json"}, "--device-table none.json: no such file"),
        ({"device_table": "none.json"}, "device_table none.json: is for a budget in milliseconds"),
    ],
)
def test_settings_of_credit_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(OptionError) as error:
        small(tmp_path, **changes)
    assert str(error.value).startswith(message)


def test_a_budget_in_operations_needs_a_count_of_them(tmp_path):
    with pytest.raises(OptionError, match="budget flops: nothing counts operations"):
        make_trainer(small(tmp_path, budget="flops=0.5"), synth.suite(4, split="train"))
