"""Budgets: what an episode costs, how the price of a cost moves, and that it survives a kill."""

from __future__ import annotations

import dataclasses
import json

import pytest
from both_ways import scenes
from episodes import record, turn
from scripted import speak
from training import rollout_batch, small

from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, ModelError, OptionError
from visionthink.evals.cost import episode_cost, flops_of
from visionthink.evals.flops import Architecture
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.forced import ForcedPolicy
from visionthink.recipes.measure import measure
from visionthink.rewards.budget import Budget, Dual, Seen
from visionthink.rewards.costs import DeviceTable, Work, against_full, always_full, visual
from visionthink.train.credit import stored_dual
from visionthink.train.monitors import Watch
from visionthink.train.run import train
from visionthink.train.trainer import make_trainer


def seen(share, least=0.25, most=1.25, form=1.0):
    return Seen(cost=share * 16, full=16.0, least=least, most=most, form=form)


def prices(budget, shares, dual=None, **more):
    found, dual = [], dual or Dual()
    for share in shares:
        dual = budget.after(dual, seen(share, **more), 8)
        found.append(dual.weight)
    return found


COSTS = (0.85, 0.70, 0.55, 0.42, 0.38, 0.36, 0.40)


def test_the_price_moves_with_what_is_spent():
    """b .4, eta .05, ceiling .4, from 0."""
    budget = Budget.parse("visual=0.4,eta=0.05,ceiling=0.4")
    expected = [0.0563, 0.0938, 0.1125, 0.1150, 0.1125, 0.1075, 0.1075]
    assert prices(budget, COSTS) == pytest.approx(expected, abs=1e-4)
    assert prices(budget, [4.0] * 3) == [0.4] * 3 and prices(budget, [0.3] * 3) == [0.0] * 3
    assert budget.per_cost(Dual(price=0.1)) == 0.25


def test_a_damped_price_follows_what_is_overspent():
    budget = Budget.parse("visual=0.4,damping=0.2,ceiling=0.4")
    dual = budget.after(Dual(), seen(0.6), 8)
    assert (dual.weight, dual.price) == (pytest.approx(0.025), pytest.approx(0.025 + 0.1))
    dual = budget.after(dual, seen(0.36), 8)
    assert (dual.weight, dual.price) == (pytest.approx(0.02), pytest.approx(0.0))
    plain = Budget.parse("visual=0.4,damping=0")
    assert plain.after(Dual(), seen(0.6), 8).price == plain.after(Dual(), seen(0.6), 8).weight


def test_a_running_mean_moves_the_price_where_steps_are_small():
    found = prices(Budget.parse("visual=0.4,ema=0.5"), (0.8, 0.4))
    assert found == pytest.approx([0.05, 0.05 + 0.05 * 0.5])


def test_the_ceiling_keeps_a_right_dear_answer_above_a_wrong_cheap_one():
    """b / (most - least) times the least distance of right from wrong in z: 1.87 for groups of 8."""
    budget = Budget.parse("visual=0.4")
    assert budget.bound(Dual(least=0.25, most=1.25), 8) == pytest.approx(0.4 * 1.8708, abs=1e-4)
    assert budget.bound(Dual(), 8) == float("inf") == budget.bound(Dual(least=0.25, most=0.25), 8)
    assert prices(budget, [1.25] * 200)[-1] == pytest.approx(0.4 * 1.8708, abs=1e-4)


def test_nothing_has_a_price_until_replies_keep_the_format():
    budget, dual = Budget.parse("visual=0.4"), Dual()
    for form, price in ((0.5, 0.0), (0.9, 0.0), (0.95, 0.05), (0.5, 0.1)):
        dual = budget.after(dual, seen(0.8, form=form), 8)
        assert dual.weight == pytest.approx(price)
    assert dual.steps == 4 and dual.mean == pytest.approx(0.15 / 4)


def test_a_mean_is_a_ratio_of_sums(tmp_path):
    """Over free members alone, before groups are chosen: one example has a larger image, and forced members count nowhere."""
    examples = scenes(112, 2)
    examples[1] = dataclasses.replace(examples[1], image=examples[1].image.resize((112, 56)))
    config = small(tmp_path, budget="visual=0.5", prompts_per_step=2, group_size=6, forced=1, forced_actions="direct,request")
    trainer = make_trainer(config, examples)
    request = trainer.sampler.source.protocol.request()

    def reply(question, turn, member):
        """Of the free members of the first question all ask, of those of the second one does."""
        asks = turn == 0 and (question.startswith("Which") or member == 0)
        return request if asks else "<answer>0</answer>"

    speak(trainer, reply)
    rollout_batch(trainer)
    # the first: 4 + 16 of 16 tokens for each of 4; the second: 2 + 8 of 8 for one of 4, else 2
    free = [r.transcript for r in trainer.step.rollouts if r.forced is None]
    assert sorted((t.visual_tokens, t.visual_tokens_full) for t in free) == [(2, 8)] * 3 + [(10, 8)] + [(20, 16)] * 4
    share = (4 * 20 + 10 + 3 * 2) / (4 * 16 + 4 * 8)
    assert trainer.dual.running == pytest.approx(share) and share == 1.0
    assert trainer.dual.weight == pytest.approx(0.05 * (share / 0.5 - 1))
    assert (trainer.dual.least, trainer.dual.most) == (0.25, 1.25)


@pytest.fixture(scope="module")
def transcripts():
    """Of the embedded model: answered at once, and after a look."""
    model = load("tiny")
    found = {}
    for name, script in (("direct", [None]), ("request", [model.protocol.request()])):
        policy = ForcedPolicy(model.policy, model.protocol, script)
        episode = model.episode(synth.draw("scene", 3))
        while not episode.done:
            episode.step(policy.complete([episode.history])[0])
        found[name] = episode.transcript()
    return model, found


def test_costs_in_visual_tokens(transcripts):
    _, found = transcripts
    assert [visual(found[name]) for name in ("direct", "request")] == [(4, 16), (20, 16)]


def test_costs_in_operations(transcripts):
    """Those of the exact count; of always-full for the full view in one turn, which is what a model at the top level does."""
    model, found = transcripts
    config = open_checkpoint("tiny").model.config
    architecture = Architecture.of(config)
    meter = against_full(flops_of(config), model.menu, model.budget)
    full = always_full(found["direct"], model.menu, model.budget)
    assert [view.visual_tokens for view in full.views] == [16] and len(full.turns) == 1
    for transcript in found.values():
        spent, of_full = meter(transcript)
        assert spent == episode_cost(transcript, architecture).flops_cached
        assert of_full == episode_cost(always_full(transcript, model.menu, model.budget), architecture).flops_cached
    assert meter(found["direct"])[0] < meter(found["direct"])[1] < meter(found["request"])[0]


def test_costs_in_milliseconds(transcripts):
    model, found = transcripts
    table = DeviceTable(model="m", device="d", k0=100, k1=1, k2=0.5, k3=10, calls=9, error=0.0)
    direct, request = found["direct"], found["request"]
    [turn] = direct.turns
    text, output = turn.usage.text_tokens, turn.usage.output_tokens
    assert Work.of(direct) == Work(turns=1, prefilled=text + 4, patches=16, output=output)
    first, second = request.turns
    ids = len(first.prompt_ids) + len(second.prompt_ids) + 1  # the last token of a turn was never read in it
    assert Work.of(request).prefilled == ids and Work.of(request).patches == 80 and Work.of(request).turns == 2
    meter = against_full(table, model.menu, model.budget)
    assert meter(direct) == (
        pytest.approx(100 + text + 4 + 0.5 * 16 + 10 * output),
        pytest.approx(100 + text + 16 + 0.5 * 64 + 10 * output),
    )


def test_what_is_read_in_turns_that_begin_anew_restart_or_fail():
    """Turns of 10 tokens of text and one that is said; a fourth of 9."""
    low, full, none = turn(0.25, 4), turn(1.0, 16), turn(1.0, 16, text_tokens=0, output_tokens=0)
    anew, restarted = dataclasses.replace(full, anew=True), dataclasses.replace(turn(1.0, 16, text_tokens=20), restarted=True)
    said = turn(0.25, 4, output_tokens=9)

    def work(*turns):
        return Work.of(record("e", *turns))

    assert work(low, anew) == Work(turns=2, prefilled=14 + 26, patches=80, output=2)
    assert work(said, restarted) == Work(turns=2, prefilled=14 + (40 - 14), patches=80, output=10)
    assert work(low, none) == Work(turns=1, prefilled=14, patches=80, output=1)
    once_more = turn(0.25, 0, text_tokens=20)
    assert work(said, anew, once_more) == Work(turns=3, prefilled=14 + 26 + (36 - 26), patches=80, output=11)


def test_a_table_is_fitted_to_timed_calls():
    work = [Work(turns=1, prefilled=p, patches=v, output=o) for p in (20, 90, 400) for v in (4, 64, 256) for o in (1, 8, 32)]
    times = [5 + 0.02 * w.prefilled + 0.05 * w.patches + 3 * w.output for w in work]
    table = DeviceTable.fitted("m", "d", work, times)
    assert [table.k0, table.k1, table.k2, table.k3] == pytest.approx([5, 0.02, 0.05, 3]) and table.error < 1e-9
    free = DeviceTable.fitted("m", "d", work, [5 - 1e-4 * w.prefilled + 3 * w.output for w in work])
    assert [free.k1, free.k2] == pytest.approx([0, 0], abs=1e-12) and free.k3 == pytest.approx(3, rel=1e-2)
    with pytest.raises(DataError, match="too few or too alike"):
        DeviceTable.fitted("m", "d", work[:1] * 20, times[:1] * 20)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not a table of visionthink measure"),
        ('{"model": "m"}', r"not a table of visionthink measure \(device table.device: is missing\)"),
        ('{"model": "m", "device": "d", "k0": -1, "k1": 0, "k2": 0, "k3": 0, "calls": 9, "error": 0}', "k0 -1: must be a number"),
        ('{"model": "m", "device": "d", "k0": 0, "k1": 0, "k2": 0, "k3": 0, "calls": 9, "error": 0}', "all of k0 to k3 are 0"),
        ('{"model": "m", "device": "d", "k0": 1%s, "k1": 0, "k2": 0, "k3": 0, "calls": 9, "error": 0}' % ("0" * 400), "k0: 10"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path, text, message):
    (tmp_path / "device.json").write_text(text)
    with pytest.raises(OptionError, match=f"--device-table .*device.json: .*{message}"):
        DeviceTable.read(tmp_path / "device.json")


@pytest.mark.slow
def test_a_model_is_measured(tmp_path, capsys):
    """Real calls; an output token takes longer than a token that is read."""
    assert main(["measure", "--model", "tiny", "--out", str(tmp_path / "device.json"), "--json"]) == 0
    told, table = json.loads(capsys.readouterr().out), DeviceTable.read(tmp_path / "device.json")
    assert told == dataclasses.asdict(table) and table.calls == 36
    assert table.k3 > table.k1 >= 0 and table.k0 + table.k1 > 0
    config = small(tmp_path / "run", budget="ms=0.9", device_table=str(tmp_path / "device.json"), steps=1)
    train(config, synth.suite(8, split="train"))
    [line] = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert line["budget/cost"] > 0


def test_what_cannot_be_measured(tmp_path, capsys):
    assert main(["measure", "--model", "http://localhost:1/v1", "--out", str(tmp_path / "d.json")]) == 2
    assert "is an endpoint, whose device is not ours to time" in capsys.readouterr().err
    assert main(["measure", "--out", str(tmp_path / "none" / "d.json")]) == 2
    assert "name a file in a folder that exists" in capsys.readouterr().err
    with pytest.raises(OptionError, match="times a model that transformers runs"):
        measure(load("http://localhost:1/v1"), "m")


def logged(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_price_goes_on_where_it_was(tmp_path):
    """Of a run that is stopped and resumed, and of one that is not."""
    examples = synth.suite(24, split="train")
    settings = {"budget": "visual=0.5", "save_steps": 1, "lr_schedule": "constant"}
    train(small(tmp_path / "whole", steps=4, **settings), examples)
    train(small(tmp_path / "stopped", steps=2, **settings), examples)
    state = json.loads((tmp_path / "stopped" / "checkpoint-2" / "budget.json").read_text())
    assert state["steps"] == 2
    train(small(tmp_path / "stopped", steps=4, resume=True, **settings), examples)
    whole, resumed = logged(tmp_path / "whole"), logged(tmp_path / "stopped")
    names = (
        "budget/price",
        "budget/lambda",
        "budget/mean_lambda",
        "budget/cost",
        "budget/used",
        "budget/at_ceiling",
        "budget/held",
    )
    assert [[line[name] for name in names] for line in resumed] == [[line[name] for name in names] for line in whole]
    ended = [json.loads((tmp_path / run / "checkpoint-4" / "budget.json").read_text()) for run in ("whole", "stopped")]
    assert ended[0] == ended[1] and whole[2]["budget/price"] == pytest.approx(state["price"])
    (tmp_path / "stopped" / "checkpoint-4" / "budget.json").write_text('{"price": "much"}')
    with pytest.raises(ModelError, match=r"checkpoint-4.budget.json: damaged or missing \(price: 'much' is not a number\)"):
        train(small(tmp_path / "stopped", steps=5, resume=True, **settings), examples)


def test_a_price_that_is_no_number_is_refused(tmp_path):
    (tmp_path / "budget.json").write_text('{"weight": NaN}')
    with pytest.raises(ModelError, match="its numbers must be finite"):
        stored_dual(tmp_path / "budget.json")
    (tmp_path / "budget.json").write_text('{"weight": 0.5}')
    assert stored_dual(tmp_path / "budget.json") == Dual(weight=0.5)


def test_alarms():
    watch = Watch()
    logs = [{"budget/at_ceiling": float(i % 4 == 0), "budget/held": 0.0} for i in range(20)]
    [said] = [text for record in logs for text in watch.see(record)]
    assert said.startswith("the price of looking is at its ceiling in a fifth of the steps or more: the budget cannot be met")
    quiet = Watch()
    assert not [text for i in range(40) for text in quiet.see({"budget/at_ceiling": float(i % 10 == 0), "budget/held": 0.0})]
    held = Watch()
    [said] = [text for _ in range(30) for text in held.see({"budget/held": 1.0})]
    assert said.startswith("fewer than 90 % of the replies keep the format, so the budget does nothing yet")
