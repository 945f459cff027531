"""QueCC and SeTok: their formulas by hand and by loops, and in a model. What all trained methods share is in test_trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from visionthink.compress.cells import Cells, places
from visionthink.compress.clusters import distances, owners, peaks, threshold_for, top_above
from visionthink.compress.families import make, opened
from visionthink.compress.fit import Questions, seen
from visionthink.compress.learned import Base, save
from visionthink.compress.prepare import prepare
from visionthink.compress.quecc import QueCC
from visionthink.compress.selection import VisionContext
from visionthink.compress.session import compress
from visionthink.compress.setok import SeTok, means
from visionthink.data import slots
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.recipes.fitting import Answers, questions

WIDE = Base(model_type="qwen2_5_vl", hidden=24, layers=3, tower=16, patches=4, levels=(1, 3), merger="")
KINDS = {
    "quecc": ("quecc", 0.25, {}),
    "quecc-read": ("quecc", 0.25, {"question": "read", "levels": True}),
    "quecc-blind": ("quecc", 0.25, dict(QueCC.control)),
    "setok": ("setok", 0.5, {}),
    "setok-random": ("setok", 0.5, dict(SeTok.control)),
}


PADDED = ("input_ids", "attention_mask", "mm_token_type_ids")


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shown(seed, *grids, width=24):
    """A sample of images with these grids, with levels and a question of five words."""
    sizes = tuple(t * h * w for t, h, w in grids)
    return VisionContext(
        features=10 * random(seed, sum(sizes), width),
        images=sizes,
        layers=3,
        grids=grids,
        levels={block: random(seed + block, sum(sizes), 4, 16) for block in (1, 3)},
        question=random(seed + 9, 5, width),
    )


def trained_like(module: nn.Module, seed: int = 0):
    """A module in which nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


# ------------------------------------------------------------------------------------------------------------ four slots


def test_four_slots_have_no_answer_without_the_question():
    scenes = slots.suite(480)
    assert [scene.id for scene in scenes[:2]] == ["slots-test-0-0", "slots-test-0-1"]
    best = 0.0
    for scene in scenes:
        kinds, colours = ([c.split()[i] for c in scene.metadata["captions"]] for i in (1, 0))
        assert scene.answer in (colours if "colour" in scene.question else kinds)
        best += sum(max(map(said.count, said)) / 4 for said in (kinds, colours)) / 2
    assert 0.45 < best / 480 < 0.55  # who knows the picture and the topic, and not the place
    assert len({scene.question for scene in scenes}) == 8
    assert slots.draw(3).image.tobytes() == slots.draw(3).image.tobytes() != slots.draw(3, split="train").image.tobytes()


def test_four_slots_are_asked_place_after_place():
    scene = slots.draw(0)
    colours, kinds = zip(*(caption.split() for caption in scene.metadata["captions"]), strict=True)
    marks = tuple(
        slots.draw_shape(np.random.default_rng(0), kind, i, fine=False, colour=colours[i]) for i, kind in enumerate(kinds)
    )
    found = slots.questions_about(marks)
    assert (scene.question, scene.answer) in found
    assert found[1] == ("What colour is the shape at the top right?", colours[1])
    assert found[6] == ("What shape is at the bottom left?", kinds[2])


# ------------------------------------------------------------------------------------------------------------ QueCC


def test_cells_of_a_square_are_as_many_as_the_paper_has():
    assert [len(Cells.of([(1, 24, 24)], (c, c)).members) for c in (4, 6, 12, 24)] == [36, 16, 4, 1]


def test_quecc_on_a_grid_that_cells_do_not_divide():
    context = shown(0, (1, 3, 5))
    selection = trained_like(QueCC(WIDE, 0.25)).vision(context)
    assert selection.keep.tolist() == [0, 2, 4, 10, 12, 14]
    assert selection.values.shape == (6, 24) and selection.values.isfinite().all()


def test_quecc_without_scores_attends_evenly():
    module = trained_like(QueCC(WIDE, 0.25))
    for layer in (module.attention.query, module.attention.key):
        nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    context = shown(1, (1, 3, 5))
    cells = Cells.of(context.grids, (2, 2))
    values = module.value(module.standard(context.features) + places(context.grids, 24))
    even = module.attention.out(cells.mean(module.attention.value(values)))
    expected = cells.mean(context.features) + module.scale * module.out(even)
    assert (module.vision(context).values - expected).abs().max() < 1e-5


def test_quecc_sees_its_cell_alone():
    module, context = trained_like(QueCC(WIDE, 0.25)), shown(2, (1, 4, 4))
    order = torch.arange(16)
    order[[2, 3, 6, 7]] = torch.tensor([7, 2, 3, 6])  # the cell at the top right
    found, mixed = (module.vision(replace(context, features=context.features[o])).values for o in (torch.arange(16), order))
    assert torch.equal(found[[0, 2, 3]], mixed[[0, 2, 3]])
    assert (found[1] - mixed[1]).abs().max() > 1e-3


def test_quecc_answers_the_question():
    context = shown(3, (1, 4, 4))
    other = replace(context, question=random(99, 7, 24))
    for kind, changed in (("embedded", True), ("read", True), ("unread", False)):
        module = trained_like(QueCC(WIDE, 1 / 16, question=kind))
        assert torch.equal(module.vision(context).values, module.vision(other).values) is not changed
    last = replace(context, question=torch.cat((random(5, 3, 24), context.question[-1:])))
    module = trained_like(QueCC(WIDE, 1 / 16, question="read"))
    assert torch.equal(module.vision(context).values, module.vision(last).values)


def test_quecc_by_a_loop():
    """One cell, one head after another, in the words of the formula."""
    module, context = trained_like(QueCC(WIDE, 1 / 4)), shown(4, (1, 2, 2))
    n = context.features + places(context.grids, 24)
    t = module.text(context.question.mean(0))
    first, gelu, second, norm = module.query
    queries = [norm(second(gelu(first(n[j]) + t))) for j in range(4)]
    asking = module.attention.query(sum(module.weights[j] * queries[j] for j in range(4)))
    keys, values = (
        outer(inner(n)) for outer, inner in ((module.attention.key, module.key), (module.attention.value, module.value))
    )
    heads = []
    for head in range(8):
        part = slice(3 * head, 3 * head + 3)
        scores = torch.stack([asking[part] @ keys[j, part] / 3**0.5 for j in range(4)]).softmax(0)
        heads.append(sum(scores[j] * values[j, part] for j in range(4)))
    expected = context.features.mean(0) + module.out(module.attention.out(torch.cat(heads)))
    assert (module.vision(context).values[0] - expected).abs().max() < 1e-5


def test_quecc_has_the_size_of_the_page():
    wide = replace(WIDE, hidden=3584)
    with torch.device("meta"):
        assert sum(p.numel() for p in QueCC(wide, 1 / 16).parameters()) == 26_779_136
        assert sum(p.numel() for p in QueCC(replace(WIDE, hidden=2048), 1 / 16).parameters()) == 18_913_280


# ------------------------------------------------------------------------------------------------------------ SeTok


def test_two_lumps_are_two_clusters():
    tokens = torch.tensor([[0.0], [0], [0], [10], [10], [10]])
    distance = distances(tokens)
    scores = peaks(distance, 2)
    assert scores.tolist() == [10, 0, 0, 10, 0, 0]
    centres = top_above(scores, 0.5)
    assert centres.tolist() == [0, 3]
    assert owners(distance, centres).tolist() == [0, 0, 0, 1, 1, 1]


def test_equal_tokens_are_one_cluster():
    distance = distances(torch.ones(6, 3))
    assert top_above(peaks(distance, 5), 0.5).tolist() == [0]
    assert top_above(torch.tensor([3.0, 1, 2]), 0.5).tolist() == [0, 2]  # never all of several
    assert top_above(torch.tensor([3.0]), 0.5).tolist() == [0]


def test_a_permuted_image_has_the_permuted_clusters():
    found = 0
    for seed in range(10):
        tokens, order = random(seed, 12, 4), torch.randperm(12, generator=torch.Generator().manual_seed(seed))

        def clusters(x, names):
            distance = distances(x)
            centres = top_above(peaks(distance, 5), 0.3)
            owner = owners(distance, centres)
            return {frozenset(names[owner == i].tolist()) for i in range(len(centres))}

        assert clusters(tokens, torch.arange(12)) == clusters(tokens[order], order)
        found += len(clusters(tokens, torch.arange(12)))
    assert found > 20


def test_the_threshold_leaves_what_is_wanted_on_average():
    scores = [random(seed, 16).abs() for seed in range(50)]
    for keep in (0.1, 0.25, 0.45, 0.8):
        threshold = threshold_for(scores, keep)
        left = sum(len(top_above(score, threshold)) for score in scores)
        assert keep * 800 - 1 < left <= keep * 800
    assert threshold_for([torch.tensor([3.0, 1, 2, 0.5])], 0.5) == pytest.approx(1)


def test_setok_measures_its_threshold_and_says_what_is_left():
    module = SeTok(WIDE, 0.4)
    assert module.kept(2) == [pytest.approx(0.4)] * 2
    contexts = [shown(seed, (1, 4, 4), (1, 3, 5)) for seed in range(20)]
    module.measure(contexts)
    left = sum(len(module.vision(context).keep) for context in contexts)
    assert 0.4 * 20 * 31 - 1 < left <= 0.4 * 20 * 31
    assert module.kept(3) == [pytest.approx(left / (20 * 31))] * 3
    assert module.threshold != 0.5
    assert len({len(module.vision(context).keep) for context in contexts}) > 1


def test_a_saved_setok_has_its_threshold(tmp_path, tiny):
    module = SeTok(Base.of(tiny.model), 0.4)
    module.measure([shown(seed, (1, 4, 4), width=160) for seed in range(5)])
    save(tmp_path / "it", module, {}, {})
    again = opened(tmp_path / "it", tiny.model)
    assert again.threshold == module.threshold != 0.5 and again.kept(3) == module.kept(3)
    with pytest.raises(OptionError, match=r"setok leaves the share that it was fitted with, 0.4"):
        opened(tmp_path / "it", tiny.model, 0.125)


def test_setok_in_one_pass_is_setok_in_a_loop():
    module = trained_like(SeTok(WIDE, 0.5))
    module.measure([shown(5, (1, 4, 4))])
    context = shown(5, (1, 4, 4))
    standard = module.standard(context.features) + places(context.grids, 24)
    distance = distances(standard)
    centres = top_above(peaks(distance, 5), float(module.threshold))
    owner = owners(distance, centres)
    assert 1 < len(centres) < 16

    def alone(blocks, x):
        for block in blocks:
            x = block(x, torch.ones(len(x), len(x), dtype=torch.bool))
        return x

    inside = [alone(module.within, module.enter(standard[owner == i])).mean(0) for i in range(len(centres))]
    made = alone(module.among, torch.stack(inside))
    plain = torch.stack([context.features[owner == i].mean(0) for i in range(len(centres))])
    selection = module.vision(context)
    assert selection.keep.tolist() == centres.tolist()
    assert (selection.values - plain - module.scale * module.out(made)).abs().max() < 1e-4
    assert (selection.mix @ context.features - plain).abs().max() < 1e-5


def test_means_by_hand():
    assert means(torch.tensor([0, 0, 2])).tolist() == [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 1]]


def test_random_centres_are_as_many_and_the_same_each_time():
    contexts = [shown(seed, (1, 4, 4)) for seed in range(20)]
    found, drawn = SeTok(WIDE, 0.4), SeTok(WIDE, 0.4, centres="random")
    kept = []
    for module in (found, drawn, drawn):
        module.measure(contexts)
        kept.append([module.vision(context).keep.tolist() for context in contexts])
    assert [len(keep) for keep in kept[0]] == [len(keep) for keep in kept[1]]
    assert kept[1] == kept[2] and sum(a != b for a, b in zip(kept[0], kept[1], strict=True)) > 15
    assert len({tuple(keep) for keep in kept[1]}) > 10


# ------------------------------------------------------------------------------------------------------------ both, alone


def test_unfitted_it_gives_means(kind):
    family, keep, options = kind
    context = shown(6, (1, 4, 4), (1, 3, 5))
    torch.manual_seed(1)
    one, other = (make(family, WIDE, keep, options) for _ in range(2))
    for module in (one, other):
        module.measure([context])
    first, second = one.vision(context), other.vision(context)
    assert torch.equal(first.values, second.values)  # whatever else it begins with
    assert (first.values - first.mix @ context.features).abs().max() < 1e-5
    for row, (place, mixed) in enumerate(zip(first.keep, first.mix, strict=True)):
        members = mixed.nonzero()[:, 0]
        assert place in members
        assert (first.values[row] - context.features[members].mean(0)).abs().max() < 1e-5
    assert trained_like(one).vision(context).values.sub(first.values).abs().max() > 1e-2


def test_images_are_seen_one_by_one(kind):
    family, keep, options = kind
    module = trained_like(make(family, WIDE, keep, options))
    grids = ((1, 1, 3), (1, 4, 4), (1, 1, 1), (1, 3, 5), (1, 2, 2))
    whole = shown(7, *grids)
    found, before = module.vision(whole), 0
    parts = []
    for grid, size in zip(grids, whole.images, strict=True):
        here = slice(before, before + size)
        levels = {block: level[here] for block, level in whole.levels.items()}
        part = module.vision(replace(whole, features=whole.features[here], images=(size,), grids=(grid,), levels=levels))
        assert (part.keep < size).all()
        parts.append((part.keep + before, part.values, part.mix))
        before += size
    keeps, values, mixes = zip(*parts, strict=True)
    assert found.keep.tolist() == torch.cat(keeps).tolist()
    assert (found.values - torch.cat(values)).abs().max() < 1e-4
    assert torch.equal(found.mix, torch.block_diag(*mixes))


def test_an_image_without_its_last_token_is_refused(kind):
    family, keep, options = kind
    with pytest.raises(OptionError, match=f"{family}: needs images with all their tokens"):
        make(family, WIDE, keep, options).vision(replace(shown(8, (1, 4, 4)), grids=None))


def test_options_are_checked():
    for family, keep, options, said in (
        ("quecc", 0.3, {}, "quecc keep 0.3: mixes whole cells"),
        ("quecc", 0.25, {"question": "guessed"}, "quecc question 'guessed': choose unread, embedded or read"),
        ("setok", 0.3, {"centres": "left"}, "setok centres 'left': choose peaks or random"),
        ("setok", 0, {}, "setok keep 0: a share"),
    ):
        with pytest.raises(OptionError, match=said):
            make(family, WIDE, keep, options)


# ------------------------------------------------------------------------------------------------------------ both, in a model


@pytest.fixture(scope="module", params=["qwen2.5", pytest.param("qwen3", marks=pytest.mark.slow)])
def checkpoint(request, qwen3_folder):
    found = open_checkpoint("tiny" if request.param == "qwen2.5" else str(qwen3_folder))
    found.model.requires_grad_(False)
    return found


def asked_of(checkpoint, count=6) -> Questions:
    found = [list(Answers(slots.suite(count, split=split), checkpoint)) for split in ("train", "test")]
    return questions("slots", *found, checkpoint)


def ready(checkpoint, kind):
    """A module that is as if it were fitted, for a model."""
    family, keep, options = kind
    torch.manual_seed(0)
    module = trained_like(make(family, Base.of(checkpoint.model), keep, options))
    module.measure(seen(checkpoint.model, module.needs, asked_of(checkpoint), 6))
    return module


def read(checkpoint, module, batch):
    """Last logits, and the record, of a batch without its labels."""
    with compress(checkpoint.model, module) as session, torch.no_grad():
        logits = checkpoint.model(**{name: x for name, x in batch.items() if name != "labels"}, use_cache=False).logits[:, -1]
    return logits, session


def without_padding(batch, row, patches):
    padding = int((batch["attention_mask"][row] == 0).sum())
    found = {name: batch[name][row : row + 1, padding:] for name in PADDED}
    found["pixel_values"] = batch["pixel_values"][row * patches : (row + 1) * patches]
    found["image_grid_thw"] = batch["image_grid_thw"][row : row + 1]
    return found


def test_a_batch_is_its_samples(checkpoint, kind):
    asked, module = asked_of(checkpoint), ready(checkpoint, kind)
    batch = asked.batch("test", range(6))
    assert (batch["attention_mask"][:, 0] == 0).any()  # questions of different lengths
    together, session = read(checkpoint, module, batch)
    for row, record in enumerate(session.samples()):
        alone, own = read(checkpoint, module, without_padding(batch, row, int(batch["image_grid_thw"][row].prod())))
        assert (alone[0] - together[row]).abs().max() < 1e-4 * together.abs().max()
        assert own.samples() == [record]
    counts = {left[0] for left, _ in session.samples()}
    assert len(counts) > 1 if kind[0] == "setok" else counts == {4}
    plain, _ = read(checkpoint, trained_like(module, seed=5), batch)
    assert (plain - together).abs().max() > 1e-3


def test_the_bill_is_what_was_computed(checkpoint, kind):
    asked, module, contexts = asked_of(checkpoint), ready(checkpoint, kind), []
    inner = module.vision
    module.vision = lambda context: contexts.append(context) or inner(context)
    _, session = read(checkpoint, module, asked.batch("test", range(4)))
    module.vision = inner
    for context, (_, flops) in zip(contexts, session.samples(), strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.vision(context)
            if module.needs.question == "read":
                checkpoint.model.model.language_model(inputs_embeds=context.question[None], use_cache=False)
        assert flops == counter.get_total_flops() > 0


def test_prepared_and_hooked_have_the_same_gradients(checkpoint, kind):
    asked = asked_of(checkpoint)
    if checkpoint.model.config.model_type == "qwen3_vl":
        pytest.skip("its prepared batches are for the decoder, not for the model")
    batch, found = asked.batch("train", range(3)), []
    for prepared in (False, True):
        module = ready(checkpoint, kind).requires_grad_(True)
        if prepared:
            loss = checkpoint.model(**prepare(checkpoint.model, batch, module)).loss
        else:
            with compress(checkpoint.model, module) as session:
                inputs = {name: x for name, x in batch.items() if name != "labels"}
                logits = checkpoint.model(**inputs, use_cache=False).logits
            labels = session.aligned(batch["labels"])
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in module.named_parameters()}))
    (one, gradients), (other, others) = found
    assert (one - other).abs() < 1e-5
    for name, gradient in gradients.items():
        assert gradient is not None and (gradient - others[name]).abs().max() <= 1e-4 * gradient.abs().max() + 1e-7, name
    assert all(p.grad is None for p in checkpoint.model.parameters())


def test_what_is_generated_with_a_cache_is_what_is_computed_anew(checkpoint, kind):
    asked, module = asked_of(checkpoint), ready(checkpoint, kind)
    batch = asked.batch("test", range(3))
    said = (batch["labels"] != -100).any(0).nonzero()[0, 0]
    prompt = {name: x[:, :said] if name in PADDED else x for name, x in batch.items() if name != "labels"}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with compress(checkpoint.model, module), torch.inference_mode():
        found = checkpoint.model.generate(**prompt, **options, output_logits=True, return_dict_in_generate=True)
    new = found.sequences[:, said:]
    whole = dict(prompt) | {"input_ids": found.sequences}
    whole["attention_mask"] = torch.cat((prompt["attention_mask"], torch.ones_like(new)), 1)
    whole["mm_token_type_ids"] = torch.cat((prompt["mm_token_type_ids"], torch.zeros_like(new)), 1)
    with compress(checkpoint.model, module), torch.inference_mode():
        anew = checkpoint.model(**whole, use_cache=False).logits[:, -5:-1]
    assert (torch.stack(found.logits, 1) - anew).abs().max() < 1e-4 * anew.abs().max()
