"""Vision Remember and VideoLLM-MoD: what they do between and in layers of the decoder, by hand and in the model."""

from __future__ import annotations

import contextlib

import peft
import pytest
import torch
from test_cost import TEXT, forward_flops, of_7b_widths
from test_cost import inputs_of as patches_of
from test_trained import asked, digest, logits, module_for
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from visionthink.compress.adapter import Adapter
from visionthink.compress.baselines import Pool
from visionthink.compress.families import FAMILIES, make, opened
from visionthink.compress.fit import FitConfig, Task
from visionthink.compress.learned import Base, save, trained
from visionthink.compress.selection import LayerContext, VisionContext
from visionthink.compress.session import compress
from visionthink.errors import ModelError, OptionError
from visionthink.policies.checkpoint import open_checkpoint


@pytest.fixture(scope="module", params=["tiny", pytest.param("qwen3", marks=pytest.mark.slow)])
def checkpoint(request, qwen3_folder):
    return open_checkpoint("tiny" if request.param == "tiny" else str(qwen3_folder))


@pytest.fixture
def model():
    """A tiny model of its own."""
    return open_checkpoint("tiny").model


def base_of(**facts) -> Base:
    made = {
        "model_type": "none",
        "hidden": 8,
        "layers": 4,
        "tower": 6,
        "patches": 4,
        "levels": (0, 1),
        "merger": "",
        "blocks": 2,
    } | facts
    return Base(**made)


def busy(module):
    """With no weight at 0, as after training."""
    torch.manual_seed(0)
    for weight in trained(module):
        torch.nn.init.normal_(weight, std=0.2)
    return module.eval()


def at_layer(module, vision: VisionContext, layer: int, places: torch.Tensor | None = None) -> LayerContext:
    """The visual tokens that `vision` left, between two positions of text, at the entry of a layer."""
    selection = module.vision(vision) if places is None else None
    tokens = vision.features[places] if selection is None else selection.values
    hidden = torch.nn.functional.pad(tokens, (0, 0, 1, 1))
    visual = torch.zeros(len(hidden), dtype=torch.bool)
    visual[1:-1] = True
    return LayerContext(
        layer=layer,
        layers=4,
        hidden=hidden,
        visual=visual,
        embeddings=hidden,
        attention=hidden.new_zeros(0, 0, len(hidden)),
        rows=torch.empty(0, dtype=torch.long),
        keys=None,
        total=len(vision.features),
        images=vision,
        places=selection.keep if places is None else places,
    )


@contextlib.contextmanager
def layer_seen(model, layer: int):
    """The hidden states before and behind a layer, as its last hook has them: [(before, behind), ...]."""
    seen = []

    def hook(_module, args, kwargs, output):
        seen.append((args[0] if args else kwargs["hidden_states"], output))

    handle = model.model.language_model.layers[layer].register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------------ Vision Remember


def two_images(seed: int = 0) -> VisionContext:
    """3 x 3 and 2 x 2 tokens: cells of 4, 2, 2, 1 and 4."""
    draw = torch.Generator().manual_seed(seed)
    levels = {block: torch.randn(13, 4, 6, generator=draw) for block in (0, 1)}
    features = torch.randn(13, 8, generator=draw)
    return VisionContext(features=features, images=(9, 4), layers=4, grids=((1, 3, 3), (1, 2, 2)), levels=levels)


CELLS = [0, 0, 1, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4]


def test_unfitted_it_is_average_pooling(checkpoint):
    batch = asked(checkpoint).batch("train", range(4))
    pooled = logits(checkpoint.model, Pool(keep=0.25), batch)
    for options in ({}, {"source": "pooled"}, {"locality": "all"}, {"sites": []}):
        module = make("remember", Base.of(checkpoint.model), 0.25, options)
        assert torch.equal(logits(checkpoint.model, module.eval(), batch), pooled), options


@pytest.mark.parametrize("token", range(13))
def test_a_token_looks_at_its_own_cell_alone(token):
    module, vision = busy(make("remember", base_of(), 0.25, {})), two_images()
    before = module.select(at_layer(module, vision, 1)).values
    vision.levels[1][token, 2, 3] += 1
    moved = (module.select(at_layer(module, vision, 1)).values - before).abs().sum(1)
    assert moved.nonzero()[:, 0].tolist() == [CELLS[token]]


@pytest.mark.parametrize(("token", "tokens"), [(4, [0, 1, 2, 3]), (11, [4])])
def test_or_at_all_of_its_image(token, tokens):
    module, vision = busy(make("remember", base_of(), 0.25, {"locality": "all"})), two_images()
    before = module.select(at_layer(module, vision, 1)).values
    vision.levels[0][token, 0, 0] += 1
    moved = (module.select(at_layer(module, vision, 1)).values - before).abs().sum(1)
    assert moved.nonzero()[:, 0].tolist() == tokens


@pytest.mark.parametrize("locality", ["cell", "all"])
def test_the_control_reads_nothing_but_the_mean(locality):
    """Exchanged tokens within a cell, and other levels, are the same to it."""
    module = busy(make("remember", base_of(), 0.25, {"source": "pooled", "locality": locality}))
    vision, other = two_images(), two_images(1)
    before = module.select(at_layer(module, vision, 1)).values
    other.features.copy_(vision.features[[4, 3, 5, 1, 0, 2, 7, 6, 8, 12, 11, 10, 9]])
    assert torch.allclose(module.select(at_layer(module, other, 1)).values, before, atol=1e-6)
    vision.features[0, 0] += 1
    moved = (module.select(at_layer(module, vision, 1)).values - before).abs().sum(1)
    assert moved.nonzero()[:, 0].tolist() == ([0] if locality == "cell" else [0, 1, 2, 3])
    assert not module.needs.levels


def test_attention_by_hand():
    """One cell of two tokens of one patch: the mean of its values where queries are 0; of one of them where it is alone."""
    module = busy(make("remember", base_of(tower=2, hidden=4, patches=1, levels=(0,), blocks=1), 0.5, {"sites": [1]}))
    site = module.sites["1"]
    with torch.no_grad():
        site.attention.query.weight.zero_(), site.attention.query.bias.zero_()
    levels = {0: torch.tensor([[[1.0, 0]], [[0.0, 3]], [[2.0, 2.5]]])}
    vision = VisionContext(features=torch.eye(4)[:3], images=(3,), layers=4, grids=((1, 1, 3),), levels=levels)
    values = site.attention.value(site.features([levels[0]]))[:, 0]
    expected = torch.stack([site.attention.out((values[0] + values[1]) / 2), site.attention.out(values[2])])
    context = at_layer(module, vision, 1)
    found = module.select(context).values - context.hidden[context.visual]
    assert torch.allclose(found, expected, atol=1e-6)
    module.scale.fill_(3.0)
    assert torch.allclose(module.select(context).values - context.hidden[context.visual], 3 * expected, atol=1e-5)


def test_text_is_untouched_by_a_site_and_the_model_by_both(checkpoint):
    model, batch = checkpoint.model, asked(checkpoint).batch("train", range(4))
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    module, before, plain = module_for(checkpoint, "remember", busy=True), digest(model), model(**inputs).logits
    site = min(module.at(module.base.layers))
    seen = []
    for method in (Pool(keep=0.25), module):
        with torch.inference_mode(), layer_seen(model, site) as states, compress(model, method) as session:
            model(**inputs)
        prompt = session.prompt
        seen.append(states[0][0])
    text = prompt.valid & ~prompt.visual
    assert torch.equal(seen[0][text], seen[1][text])
    moved = (seen[0] - seen[1]).abs().sum(-1)
    assert (moved[prompt.visual] > 0).all() and prompt.counts == [4] * 4
    assert torch.equal(model(**inputs).logits, plain) and digest(model) == before


def test_gradients_reach_the_last_layer_first_and_then_all(model):
    checkpoint = open_checkpoint("tiny")
    batch, module = asked(checkpoint).batch("train", range(4)), make("remember", Base.of(model), 0.25, {})
    model.requires_grad_(False)
    task = Task(model, module, FitConfig())
    task(**batch)["loss"].backward()
    silent = {name for name, p in module.named_parameters() if not p.grad.any()}
    assert {name for name, _ in module.named_parameters()} - silent == {
        f"sites.{i}.attention.out.{x}" for i in (1, 2) for x in ("weight", "bias")
    }
    for name, p in module.named_parameters():
        p.grad = None
        if name.endswith("out.weight"):
            torch.nn.init.normal_(p, std=0.02)
    task(**batch)["loss"].backward()
    silent = {name for name, p in module.named_parameters() if p.grad.abs().max() < 1e-8}
    assert silent <= {f"sites.{i}.attention.key.bias" for i in (1, 2)}  # the softmax does not know it
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("layers", "first", "sites"),
    [(3, 1, [1, 2]), (28, 1, [7, 14]), (36, 3, [9, 18]), (6, 2, [2, 3]), (2, 1, [1]), (36, 12, [12, 18])],
)
def test_sites_stand_at_a_quarter_and_a_half(layers, first, sites):
    assert list(make("remember", base_of(layers=layers, first=first), 0.25, {}).at(layers)) == sites


# ------------------------------------------------------------------------------------------------ VideoLLM-MoD


def routed(**options):
    return make("mod", base_of(), options.pop("keep", 0.25), options)


@pytest.mark.parametrize(
    ("layers", "first", "found"), [(2, 1, [1]), (3, 1, [1]), (28, 1, [*range(1, 27, 2)]), (36, 3, [*range(3, 35, 2)])]
)
def test_every_second_layer_but_the_last(layers, first, found):
    assert list(make("mod", base_of(layers=layers, first=first), 0.2, {}).at(layers).items()) == [(i, "none") for i in found]


def test_the_cosine_of_p_mod():
    module = make("mod", base_of(layers=32), 0.15, {"schedule": "cosine"})
    assert module.share(16) == pytest.approx(0.4747, abs=5e-5) and module.share(30) == 0.15
    assert list(module.at(32)) == list(range(8, 31))  # before, more than 0.85 would go through
    assert module.kept(32)[:9] == [*[1.0] * 8, module.share(8)] and module.kept(32)[31] == 1


def test_the_highest_of_each_image_go_through_and_among_equals_the_first():
    module = routed(layers=[1])
    vision = VisionContext(features=torch.zeros(12, 8), images=(8, 4), layers=4)
    assert module.select(at_layer(module, vision, 1, torch.arange(12))).keep.tolist() == [0, 1, 8]
    with torch.no_grad():
        module.routers["1"].weight[0, 0] = 1
    vision.features[[3, 6, 7, 10], 0] = torch.tensor([2.0, 5.0, 5.0, -1.0])
    selection = module.select(at_layer(module, vision, 1, torch.arange(12)))
    assert selection.keep.tolist() == [6, 7, 8] and selection.others == "pass"
    assert selection.gate.tolist() == pytest.approx([1.19998, 1.19998, 1.0], abs=1e-5)  # 1 + 0.2 tanh(5)
    # where tokens have left before, of what is left: three of the first image, one of the second
    assert module.select(at_layer(module, vision, 1, torch.tensor([1, 3, 6, 10]))).keep.tolist() == [2, 3]


def test_the_raw_gate():
    module = routed(layers=[1], gate="raw", keep=1.0)
    vision = VisionContext(features=torch.ones(3, 8), images=(3,), layers=4)
    assert module.select(at_layer(module, vision, 1, torch.arange(3))).gate.tolist() == [0, 0, 0]
    with torch.no_grad():
        module.routers["1"].weight.fill_(0.25)
    assert module.select(at_layer(module, vision, 1, torch.arange(3))).gate.tolist() == [2, 2, 2]


def test_chance_is_new_at_each_step_and_afterwards_the_same():
    module = routed(layers=[1], router="random").train()
    vision = VisionContext(features=torch.zeros(64, 8), images=(64,), layers=4)

    def chosen():
        return module.select(at_layer(module, vision, 1, torch.arange(64)))

    drawn = [tuple(chosen().keep.tolist()) for _ in range(3)]
    assert len(set(drawn)) == 3 and {len(d) for d in drawn} == {16} and chosen().gate is None
    module.eval()
    assert chosen().keep.tolist() == chosen().keep.tolist()
    assert not list(trained(module))


def test_at_full_capacity_it_is_the_model(checkpoint):
    """Unfitted, with an adapter, and choosing all: bit for bit."""
    batch = asked(checkpoint).batch("train", range(4))
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    with torch.inference_mode():
        plain = checkpoint.model(**inputs, use_cache=False).logits[:, -1].float()
    for options in ({}, {"router": "random"}, {"schedule": "cosine"}):
        module = make("mod", Base.of(checkpoint.model), 1.0, options).adapt(checkpoint.model).eval()
        assert torch.equal(logits(checkpoint.model, module, batch), plain), options


def test_what_is_skipped_stands_unchanged_and_is_not_cached(checkpoint):
    """A fifth of 16 tokens is 3: the cache of the layer has 13 fewer than the others."""
    model, batch = checkpoint.model, asked(checkpoint).batch("train", range(3))
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    module = make("mod", base := Base.of(model), 0.2, {}).adapt(model)
    layer = min(module.at(base.layers))
    caught = []

    def before(_module, args, kwargs):
        caught.append(args[0] if args else kwargs["hidden_states"])

    handle = model.model.language_model.layers[layer].register_forward_pre_hook(before, with_kwargs=True)
    with torch.inference_mode(), compress(model, busy(module)) as session, layer_seen(model, layer) as seen:
        cache = model(**inputs, use_cache=True).past_key_values
    handle.remove()
    _, behind = seen[0]
    same = (behind == caught[0]).all(-1)
    valid, visual = batch["attention_mask"].bool(), batch["mm_token_type_ids"].bool()
    tokens = int(visual[0].sum())
    chosen = round(0.2 * tokens)
    assert chosen == 3 and (same & visual).sum(1).tolist() == [13] * 3
    assert not (same & valid & ~visual).any()
    length = batch["input_ids"].shape[1]
    lengths = [x.keys.shape[2] for x in cache.layers]
    assert lengths == [length - 13 if i in module.routed else length for i in range(base.layers)]
    assert [counts[0] for counts in session.tokens[0]] == [3 if i in module.routed else 16 for i in range(base.layers)]
    assert module.kept(base.layers) == [0.2 if i in module.routed else 1.0 for i in range(base.layers)]


def test_the_router_learns_by_its_gate_and_in_the_last_layer_not_at_all(model):
    checkpoint = open_checkpoint("tiny")
    batch = asked(checkpoint).batch("train", range(4))
    model.requires_grad_(False)
    for layer in (1, 2):
        module = make("mod", Base.of(model), 0.25, {"layers": [layer]})
        scores = []

        def keep_gradient(_module, _args, output, scores=scores):
            output.retain_grad()
            scores.append(output)

        router = module.routers[str(layer)]
        handle = router.register_forward_hook(keep_gradient)
        Task(model, module, FitConfig())(**batch)["loss"].backward()
        handle.remove()
        assert len(scores) == 4
        for own in scores:  # unfitted, the first four of sixteen go through
            learns = (own.grad[:, 0] != 0).tolist()
            assert learns == [layer == 1] * 4 + [False] * 12
        assert bool(router.weight.grad.any()) == (layer == 1)


def test_a_router_takes_the_operations_it_is_billed(model):
    """One product with every visual token: 2 n D."""
    checkpoint = open_checkpoint("tiny")
    batch = asked(checkpoint).batch("train", range(2))
    with torch.inference_mode(), compress(model, make("mod", Base.of(model), 0.2, {}).eval()) as session:
        model(**{name: x for name, x in batch.items() if name != "labels"})
    assert session.flops == [[2 * 16 * 160] * 2]


@pytest.mark.parametrize("family", ["remember", "mod"])
@pytest.mark.parametrize(
    ("size", "whole", "cells", "half"), [((10, 6), 15, 6, 8), ((16, 22), 88, 24, 44), ((40, 40), 400, 100, 200)]
)
def test_the_bill_is_what_pytorch_counts(family, size, whole, cells, half):
    config = of_7b_widths("tiny")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    module = make(family, Base.of(model), 0.25 if family == "remember" else 0.5, {}).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), compress(model, module) as session:
        model(**patches_of(config, *size), logits_to_keep=1)
    [(visual_by_layer, selection_flops)] = session.samples()
    assert visual_by_layer == ((cells,) * 3 if family == "remember" else (whole, half, whole))
    ours = forward_flops(config, size, [TEXT + n for n in visual_by_layer]) + selection_flops
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.001)


# ------------------------------------------------------------------------------------------------ the adapter


def test_the_adapter_is_in_the_model_for_the_session_only(model):
    checkpoint = open_checkpoint("tiny")
    batch, before = asked(checkpoint).batch("train", range(2)), digest(model)
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    plain = model(**inputs).logits
    module = busy(make("mod", Base.of(model), 1.0, {"router": "random"}).adapt(model))
    assert digest(model) == before and [name for name, p in model.named_parameters() if p.requires_grad] == trainable
    assert not torch.equal(logits(model, module, batch), plain[:, -1])
    with pytest.raises(ZeroDivisionError), compress(model, module):
        raise ZeroDivisionError
    assert torch.equal(model(**inputs).logits, plain) and digest(model) == before
    assert not hasattr(model, "peft_config")
    # a second one does not meet the first
    other = make("mod", Base.of(model), 1.0, {"router": "random"}).adapt(model).eval()
    assert torch.equal(logits(model, other, batch), plain[:, -1])
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(OptionError, match="an adapter is in the model already: merge it into the weights first"):
        Adapter(model, FAMILIES["mod"].lora)


def test_the_decoder_is_tuned_and_nothing_else(checkpoint):
    adapter = Adapter(checkpoint.model, FAMILIES["mod"].lora)
    layers = Base.of(checkpoint.model).layers
    assert len(adapter.layers) == 7 * layers and len(adapter.parameters()) == 14 * layers
    assert all(".language_model." in name for name in adapter.parameters())
    assert {p.dtype for p in adapter.parameters().values()} == {torch.float32}


def test_peft_opens_what_is_saved(tmp_path, model):
    checkpoint = open_checkpoint("tiny")
    batch = asked(checkpoint).batch("train", range(2))
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    module = busy(make("mod", Base.of(model), 0.25, {}).adapt(model))
    save(tmp_path / "it", module, {}, {})
    assert sorted(x.name for x in (tmp_path / "it" / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with torch.inference_mode():
        with module.adapter.on():
            expected = model(**inputs).logits
        theirs = peft.PeftModel.from_pretrained(checkpoint.model, str(tmp_path / "it" / "adapter")).eval()
        assert torch.equal(theirs(**inputs).logits, expected)
    again = opened(tmp_path / "it", model)
    assert torch.equal(logits(model, again, batch), logits(model, module, batch))
    assert not list(trained(again))
    assert opened(tmp_path / "it", model, keep=1.0).kept(3) == [1.0, 1.0, 1.0]
    (tmp_path / "it" / "adapter" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: missing or damaged"):
        opened(tmp_path / "it", model)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("remember", {"source": "text"}, "remember source 'text': choose levels or pooled"),
        ("remember", {"locality": "window"}, "remember locality 'window': choose cell or all"),
        ("mod", {"router": "uniform"}, "mod router 'uniform': choose learned or random"),
        ("mod", {"gate": "none"}, "mod gate 'none': choose tanh or raw"),
        ("mod", {"schedule": "all"}, "mod schedule 'all': choose interleaved or cosine"),
        ("mod", {"layers": []}, "mod: a decoder of 4 layers has none to route"),
    ],
)
def test_bad_options(family, options, message):
    with pytest.raises(OptionError, match=message):
        make(family, base_of(), 0.25, options)
