"""Canonical escalation: after a request all members go on from one context, and the transcript keeps what each of them said."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import numpy as np
import pytest
import torch
from episodes import begin, record, turn
from PIL import Image
from training import small

from visionthink import Completion, Example, Protocol, ScriptedPolicy, Transcript, load, run_async, run_batch
from visionthink.cli import main
from visionthink.engine.sampling import Said
from visionthink.errors import ModelError, OptionError, VisionThinkError
from visionthink.evals.cost import episode_cost
from visionthink.evals.flops import Architecture, DecoderShape, decoder_flops, generation_flops
from visionthink.policies.checkpoint import save_settings
from visionthink.policies.checkpoint_files import read_protocol
from visionthink.train import sharing
from visionthink.train.config import TrainConfig
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.train.sequences import sequences
from visionthink.train.trainer import make_trainer

COMPACT = Protocol("compact", canonical=True)
ASK = COMPACT.request()
RED = "<answer>red</answer>"
BROKEN = "<tool_call>NOT JSON</tool_call>"

OPENING = (1, 481, 205, 3, 5, 5, 5, 5, 4, 56, 413, 37, 494, 37, 2, 205, 1, 496, 205)  # <image>Red? Closer?
ASKED = (497, 2)  # the request is one token of the tiny model
BRIDGE = (205, 1, 481, 205, 3, *[5] * 16, 4, 2, 205, 1, 496, 205)
ANSWERED = (504, 331, 505, 2)


def red(size: int = 112) -> Example:
    return Example("e", "Red?", Image.new("RGB", (size, size), (200, 30, 30)), answer="red")


def play(tiny, renderer, *script, protocol: Protocol = COMPACT, levels=(0.25, 1.0), example: Example | None = None, **options):
    episode = begin(example or red(), levels, protocol, budget=tiny.budget, **options)
    [transcript] = run_batch([episode], ScriptedPolicy(script, renderer))
    return transcript


def read(transcript: Transcript) -> list[tuple[list[int], list[int], int]]:
    return [(s.ids.tolist(), s.columns.tolist(), s.views) for s in sequences(transcript)]


def test_ids_of_one_episode(tiny, renderer):
    t = play(tiny, renderer, f"a bit {ASK}", RED)
    first, second = t.turns
    assert first.text == f"a bit {ASK}" and first.token_ids == (71, 297, 79, 90, 227, *ASKED)  # as it was said
    assert (first.prompt_ids, first.restarted) == (OPENING, False)
    assert (second.prompt_ids, second.restarted) == ((*ASKED, *BRIDGE), True)
    assert second.prompt == f"{ASK}\n<image>" and second.token_ids == ANSWERED
    assert t.token_ids == (*OPENING, *first.token_ids, *ASKED, *BRIDGE, *ANSWERED)
    assert t.loss_mask == (*[0] * 19, *[1] * 7, *[0] * 29, *[1] * 4)
    one, other = read(t)
    assert one == ([*OPENING, *first.token_ids], list(range(26)), 1)
    assert other == ([*OPENING, *ASKED, *BRIDGE, *ANSWERED], [-1] * 19 + list(range(26, 59)), 2)
    masks = [s.mask(t.loss_mask).tolist() for s in sequences(t)]
    assert masks == [[0] * 19 + [1] * 7, [0] * 48 + [1] * 4]
    # the second context is 48 ids, of which 4 + 16 are visual
    assert [(u.usage.visual_tokens, u.usage.text_tokens, u.usage.output_tokens) for u in t.turns] == [(4, 15, 7), (16, 28, 4)]


def test_members_that_ask_in_different_words_go_on_from_one_prompt(tiny, renderer):
    prompts = []

    class Listening(ScriptedPolicy):
        def complete(self, histories):
            prompts.append([tuple(renderer.prompt_ids(history)) for history in histories])
            return super().complete(histories)

    for canonical, different in ((True, 1), (False, 3)):
        prompts.clear()
        words = iter([f"a bit {ASK}", f"it is small {ASK}", ASK, RED, RED, RED])
        protocol = dataclasses.replace(COMPACT, canonical=canonical)
        episodes = [begin(red(), (0.25, 1.0), protocol, budget=tiny.budget) for _ in range(3)]
        ended = run_batch(episodes, Listening(lambda _, words=words: next(words), renderer))
        assert [len(set(of_round)) for of_round in prompts] == [1, different]
        assert [t.stop_reason.value for t in ended] == ["answered_after_request"] * 3
        if canonical:
            assert prompts[1][0] == (*OPENING, *ASKED, *BRIDGE)


def test_only_a_request_that_is_followed_is_written_anew(tiny, renderer):
    """Answers, calls that cannot be followed and whatever ends an episode are as they are without the option."""
    usual = dataclasses.replace(COMPACT, canonical=False)
    for script in ([RED], [BROKEN, RED], [BROKEN, BROKEN], [Completion("on and on", "length")]):
        one, other = (play(tiny, renderer, *script, protocol=p) for p in (COMPACT, usual))
        assert one == other and not any(t.restarted for t in one.turns)
        [(ids, columns, views)] = read(one)
        assert (ids, columns, views) == (list(one.token_ids), list(range(len(one.token_ids))), 1)
    failed = play(tiny, None, f"a bit {ASK}", Completion.failed("timeout", "timeout"))
    assert [t.restarted for t in failed.turns] == [False, True] and failed.stop_reason == "policy_error"


def test_a_turn_that_was_never_read_begins_no_sequence(tiny, renderer):
    class Failing(ScriptedPolicy):
        def complete(self, histories):
            said = super().complete(histories)
            return [Completion.failed("context", "too long") if c.text == RED else c for c in said]

    [t] = run_batch([begin(red(), (0.25, 1.0), COMPACT, budget=tiny.budget)], Failing([f"a bit {ASK}", RED], renderer))
    assert read(t) == [(list(t.token_ids), list(range(26)), 1)]


def test_contexts_chain_over_several_requests(tiny, renderer):
    """The third prompt goes on from the second; a call that could not be followed stays in the context after it."""
    levels, big = (0.0625, 0.25, 1.0), red(224)
    budget = dataclasses.replace(tiny.budget, max_pixels=224 * 224)
    tiny = dataclasses.replace(tiny, budget=budget)
    t = play(tiny, renderer, f"a bit {ASK}", f"no {ASK}", RED, levels=levels, example=big)
    assert [turn.restarted for turn in t.turns] == [False, True, True]
    assert [turn.usage.visual_tokens for turn in t.turns] == [4, 16, 64]
    a, b, c = sequences(t)
    assert (a.views, b.views, c.views) == (1, 2, 3)
    assert b.ids.tolist() == [*OPENING, *ASKED, *BRIDGE, *t.turns[1].token_ids]
    wider = [*BRIDGE[:5], *[5] * 64, *BRIDGE[21:]]
    assert c.ids.tolist() == [*OPENING, *ASKED, *BRIDGE, *ASKED, *wider, *ANSWERED]
    columns = np.concatenate([s.columns for s in (a, b, c)])
    assert sorted(columns[columns >= 0].tolist()) == list(range(len(t.token_ids)))
    assert sum(int(s.mask(t.loss_mask).sum()) for s in (a, b, c)) == sum(t.loss_mask)

    t = play(tiny, renderer, BROKEN, f"a bit {ASK}", RED, levels=levels, example=big)
    assert [turn.restarted for turn in t.turns] == [False, False, True]
    one, other = sequences(t)
    before = [i for turn in t.turns[:2] for i in (*turn.prompt_ids, *turn.token_ids)]
    assert one.ids.tolist() == before
    said = len(t.turns[1].token_ids)
    assert other.ids.tolist() == [*before[:-said], *ASKED, *BRIDGE, *ANSWERED]
    assert other.mask(t.loss_mask).sum() == len(ANSWERED)  # what was said in the first turn is learnt from once


def test_both_drivers_and_a_run_of_training_give_one_transcript(tiny, tmp_path):
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.policies.render import Renderer

    checkpoint = open_checkpoint("tiny")  # its own copy: it is trained
    renderer, script = Renderer(checkpoint.tokenizer), [f"a bit {ASK}", RED]
    policy = ScriptedPolicy(script, renderer)
    batched, other = (
        run_batch([begin(red(), (0.25, 1.0), COMPACT, budget=tiny.budget)], policy)[0],
        asyncio.run(run_async(begin(red(), (0.25, 1.0), COMPACT, budget=tiny.budget), policy)),
    )
    assert batched == other
    config = small(tmp_path, steps=1, prompts_per_step=1, group_size=2, exclude="", canonical=True, max_new_tokens=32)
    trainer = make_trainer(config, [red()], checkpoint=checkpoint)
    speak(trainer, renderer, lambda turn, member: script[turn])
    trainer.train()
    for trained in trainer.transcripts():
        turns = tuple(
            dataclasses.replace(t, logprobs=None, usage=dataclasses.replace(t.usage, seconds=0.0)) for t in trained.turns
        )
        assert turns == batched.turns and read(trained) == read(batched)
    assert trainer.checkpoint.protocol == COMPACT  # is stored beside what is trained, which then asks as it has learnt to


def speak(trainer, renderer, reply) -> None:
    """Replace what the model under training says; what is made of it is the trainer's. `reply(turn, member)`."""

    def complete(prompts, images, banned):
        texts = [reply(len(row) - 1, member) for member, row in enumerate(images)]
        said = [(*renderer.plain(text), renderer.end_id) for text in texts]
        return [Said(ids=ids, logprobs=()) for ids in said]

    trainer.complete = complete


def by_itself(trainer, ids, images) -> torch.Tensor:
    """Log-probabilities of all ids but the first, [ids - 1], by the model's own forward on one sequence."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    pixels = trainer.checkpoint.image_processor(images=list(images), return_tensors="pt")
    row = torch.tensor([ids])
    logits = model(
        input_ids=row,
        attention_mask=torch.ones_like(row),
        mm_token_type_ids=(row == trainer.engine.pad).long(),
        **pixels,
    ).logits
    return logits[0, :-1].log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0]


def test_a_step_learns_from_both_sequences(tmp_path):
    """Log-probabilities and gradients of what was sampled, against one plain pass for each sequence that was read. A pass over
    the ids in a row, which no model has read, gives others."""
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.policies.render import Renderer

    checkpoint = open_checkpoint("tiny")
    renderer = Renderer(checkpoint.tokenizer)
    scripts = [[f"a bit {ASK}", RED], [f"it is small {ASK}", "<answer>blue</answer>"], [RED], ["<answer>blue</answer>"]]
    config = small(tmp_path, prompts_per_step=1, exclude="", judge="exact", canonical=True, max_new_tokens=32)
    trainer = make_trainer(config, [red()], checkpoint=checkpoint)

    def reply(turn: int, member: int) -> str:
        return scripts[member][turn]

    speak(trainer, renderer, reply)
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert trainer.engine is not None  # the comparison at the start has found no difference
    rows = inputs["row"].tolist()
    rollouts = [trainer.step.rollouts[i] for i in rows]
    assert sorted(len(sequences(r.transcript)) for r in rollouts) == [1, 1, 2, 2]
    width = inputs["completion_ids"].shape[1]
    trainer._chosen = rows
    shared, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, inputs["completion_ids"], inputs["completion_mask"], width
    )
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]

    def plain(in_a_row: bool) -> torch.Tensor:
        found = torch.zeros(len(rollouts), width)
        for i, rollout in enumerate(rollouts):
            t = rollout.transcript
            opening = len(t.turns[0].prompt_ids)
            if in_a_row:
                read = [(list(t.token_ids), list(range(len(t.token_ids))), rollout.images)]
            else:
                read = [(s.ids.tolist(), s.columns.tolist(), rollout.images[: s.views]) for s in sequences(t)]
            for ids, columns, images in read:
                of_ids = by_itself(trainer, ids, images)
                for j, column in enumerate(columns):
                    if column >= 0 and rollout.loss_mask[column]:
                        found[i, column - opening] = of_ids[j - 1]
        return found

    alone, wrong = plain(in_a_row=False), plain(in_a_row=True)
    assert (shared - alone).abs().max() < 1e-5
    assert (shared - wrong).abs().max() > 1e-2
    weights = torch.linspace(-1, 1, width)
    ours, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad((x * weights).sum(), parameters, retain_graph=True)])
        for x in (shared, alone)
    )
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    packed = trainer.scorer.packed(rows)
    read = {tuple(s.ids[:n].tolist()) for r in rollouts for s in sequences(r.transcript) for n in range(1, len(s.ids))}
    assert packed.ids.shape[1] == len(read)  # a token is read once for all that have the same before it, and the last ones never
    assert packed.ids[0].tolist().count(trainer.engine.pad) == 4 + 16  # the full view of both members that asked, once


def test_two_requests_in_different_words_are_prefilled_once(tmp_path):
    """The words of the real engine: the second round reads the canonical request, the bridge and the full view once for all."""
    from visionthink.policies.checkpoint import open_checkpoint

    checkpoint = open_checkpoint("tiny")
    trainer = make_trainer(small(tmp_path, canonical=True, max_new_tokens=1), [red()], checkpoint=checkpoint)
    policy, renderer = trainer.sampler.policy, trainer.sampler.policy.renderer
    words = [f"a bit {ASK}", f"it is small {ASK}"]
    counts = {}
    for canonical in (True, False):
        protocol = dataclasses.replace(COMPACT, canonical=canonical)
        episodes = [begin(red(), (0.25, 1.0), protocol, budget=checkpoint.budget) for _ in words]
        with trainer.sampling(0):
            policy.complete([episode.history for episode in episodes])
            first = trainer.engine.counts.prefilled
            for episode, text in zip(episodes, words, strict=True):
                episode.step(renderer.dress(Completion(text), episode.history))
            policy.complete([episode.history for episode in episodes])
        counts[canonical] = trainer.engine.counts.prefilled - first
    longest = sum(len(renderer.plain(text)) + 1 for text in words)
    assert counts == {True: 29, False: longest + 2 * 27}


def test_demonstrations_are_learnt_from_as_two_rows(tiny, renderer):
    t = play(tiny, renderer, f"a bit {ASK}", RED)
    images = tuple(Image.new("RGB", (v.width, v.height)) for v in t.views)
    batch = collate([Demonstration(t, images)], renderer, tiny.image_processor)
    assert batch["input_ids"].shape == (2, 52) and len(batch["image_grid_thw"]) == 3
    assert batch["attention_mask"].sum(1).tolist() == [26, 52]
    labels = [[i for i in row if i != -100] for row in batch["labels"].tolist()]
    assert labels == [list(t.turns[0].token_ids), list(ANSWERED)]


def test_what_is_billed():
    """With a prefix cache the opening (14 tokens) is found again, what was said after it (6) is not; without one all is read."""
    decoder = DecoderShape(layers=2, hidden=4, ffn=8, heads=2, kv_heads=1, head_size=2, vocabulary=10)
    architecture = dataclasses.replace(Architecture.of(load("tiny").policy.config), decoder=decoder)
    asked = turn(0.25, 4, action="request", text_tokens=10, output_tokens=6)
    answer = turn(1.0, 16, text_tokens=18, output_tokens=2)
    cost = {}
    for restarted in (False, True):
        t = record("e", asked, dataclasses.replace(answer, restarted=restarted))
        cost[restarted] = episode_cost(t, architecture)
    assert (cost[False].prefill_tokens, cost[True].prefill_tokens) == (14 + 38, 14 + 38)
    assert (cost[False].prefill_tokens_cached, cost[True].prefill_tokens_cached) == (14 + 38 - 19, 14 + 38 - 14)
    said = generation_flops(decoder, 14, 6) + generation_flops(decoder, 38, 2)
    decoded = decoder_flops(decoder, 14) + decoder_flops(decoder, 24, 14) + said
    assert cost[True].flops_cached == decoded + cost[True].vision_flops
    assert cost[False].flops == cost[True].flops


def test_transcripts_as_json():
    t = record("e", turn(0.25, 4, action="request"), dataclasses.replace(turn(1.0, 16), restarted=True))
    written = t.to_dict()
    assert [x["restarted"] for x in written["turns"]] == [False, True]
    assert Transcript.from_dict(json.loads(json.dumps(written))) == t
    for x in written["turns"]:
        del x["restarted"]  # as before there was the option
    assert [x.restarted for x in Transcript.from_dict(written).turns] == [False, False]


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"share": "off"}, "canonical: share off reads a rollout as one sequence, not as two; use --share on --vllm off"),
        ({"vllm": "server"}, "canonical: vllm server reads a rollout as one sequence, not as two; use --share on --vllm off"),
    ],
)
def test_what_reads_rollouts_as_one_sequence_is_refused(changes, why):
    with pytest.raises(OptionError) as refused:
        TrainConfig(canonical=True, **changes)
    assert str(refused.value) == why


def test_a_model_whose_prefixes_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "_hindrance", lambda *_: "this decoder has a sliding window")
    with pytest.raises(OptionError, match=r"^canonical: this decoder has a sliding window, and a rollout by itself must be one"):
        make_trainer(small(tmp_path, canonical=True), [red()])


def test_a_difference_at_the_start_ends_the_run(tmp_path, monkeypatch):
    """Without the option it ends the sharing; here there is no other way to compute a rollout."""
    trainer = make_trainer(small(tmp_path, canonical=True, steps=1), [red()])
    monkeypatch.setattr(sharing.agreement, "difference", lambda *_: "log-probabilities differ by up to 1.0e+00")
    with pytest.raises(VisionThinkError, match=r"^canonical: shared prefixes cannot be used \(log-probabilities differ"):
        trainer.train()


def test_stored_beside_a_checkpoint(tmp_path):
    for protocol, said in ((COMPACT, {"canonical": True}), (dataclasses.replace(COMPACT, canonical=False), {})):
        save_settings(tmp_path, protocol)
        assert json.loads((tmp_path / "visionthink.json").read_text()) == {"dialect": "compact", "boundary": "chatml"} | said
        assert read_protocol("m", str(tmp_path)) == protocol
        assert protocol.with_dialect("agent").canonical == protocol.canonical
    (tmp_path / "visionthink.json").write_text('{"dialect": "compact", "canonical": "yes"}')
    with pytest.raises(ModelError, match="expected an object with dialect, boundary and canonical"):
        read_protocol("m", str(tmp_path))


def test_option_of_the_command_line(tmp_path, capsys):
    red().image.save(tmp_path / "red.png")
    assert [load("tiny", canonical=choice).protocol.canonical for choice in (None, True, False)] == [False, True, False]
    for more in ([], ["--canonical"], ["--no-canonical"]):
        assert main(["ask", str(tmp_path / "red.png"), "-q", "Red?", *more, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["stop_reason"].startswith("answered")
