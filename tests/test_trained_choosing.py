"""Trained methods that choose tokens: their arithmetic against literal values, what they learn from made-up features, and a model
that reads what they left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionthink.compress.baselines import Random
from visionthink.compress.cells import places
from visionthink.compress.choosing import Importance, Selector, budget, sample_mask, soft_top
from visionthink.compress.encoder import Encoder, Images
from visionthink.compress.families import FAMILIES, check_objective, make
from visionthink.compress.fit import FitConfig, Task, seen, train
from visionthink.compress.learned import Base
from visionthink.compress.picking import top
from visionthink.compress.prepare import prepare
from visionthink.compress.products import Products
from visionthink.compress.selection import VisionContext
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.recipes.fitting import Answers, questions

FAMILY = ("select", "lis")


def base_of(hidden: int) -> Base:
    return Base(model_type="none", hidden=hidden, layers=2, tower=4, patches=4, levels=(0,), merger="")


def context_of(*images: torch.Tensor, grids=None) -> VisionContext:
    sizes = tuple(map(len, images))
    return VisionContext(features=torch.cat(images), images=sizes, grids=grids or tuple((1, 1, n) for n in sizes), layers=2)


def module_for(model, family: str, keep: float = 0.5, **options):
    """A module whose scores are far apart, as after training."""
    torch.manual_seed(0)
    made = make(family, Base.of(model), keep, options)
    made.measure([context_of(torch.randn(64, made.base.hidden))])
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.05)
    return made


@pytest.fixture(scope="module", params=["tiny", "qwen3"])
def checkpoint(request, qwen3_folder):
    return open_checkpoint("tiny" if request.param == "tiny" else str(qwen3_folder))


def asked(checkpoint, count: int = 4):
    return questions("some", *(Answers(synth.suite(count, split=split), checkpoint) for split in ("train", "test")), checkpoint)


def logits(model, method, batch):
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    if method is None:
        return model(**inputs, use_cache=False).logits
    with compress(model, method):
        return model(**inputs, use_cache=False).logits


# ------------------------------------------------------------------------------------------------ soft top-k


def test_soft_top_of_two():
    scores = torch.tensor([1.0, -1.0], requires_grad=True)
    m = soft_top(scores, 1)
    assert m.tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
    m[0].backward()
    assert scores.grad.tolist() == pytest.approx([0.0983, -0.0983], abs=1e-4)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_derivative_of_soft_top(k):
    scores = (3 * torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(k))).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_top(s, k), scores)


@pytest.mark.parametrize(
    ("spread", "dtype"), [(0.0, torch.float32), (1.0, torch.float32), (50.0, torch.float32), (1e3, torch.float64)]
)
def test_soft_top_sums_to_k(spread, dtype):
    scores = spread * torch.randn(100, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for k in (1, 20, 99, 100):
        m = soft_top(scores, k)
        assert float(m.sum()) == pytest.approx(k, rel=1e-4)
        assert (m[scores.argsort()].diff() >= 0).all()
    assert soft_top(scores, 100).tolist() == [1.0] * 100


# ------------------------------------------------------------------------------------------------ VisionSelector


def test_the_score_is_the_mean_over_all_pairs():
    torch.manual_seed(0)
    module = Importance(base_of(64)).double()
    for layer in (module.query, module.key):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    tokens = torch.randn(30, 64, dtype=torch.float64)
    pairs = module.query(tokens) @ module.key(tokens).T / 32**0.5
    assert torch.allclose(module.score(tokens), pairs.mean(1), rtol=1e-10, atol=1e-10)


def test_the_size_of_the_scorer():
    with torch.device("meta"):
        module = Importance(base_of(3584))
    assert sum(p.numel() for p in module.parameters()) == 12_848_640


def test_the_cost_of_the_score():
    module = Importance(base_of(64))
    with torch.no_grad(), Products() as products:
        module.score(torch.randn(30, 64))
    assert products.flops == 2 * (2 * 64 * 32 + 30 * 64 + 32)  # key, its product with W_q, tokens, bias
    assert products.flops == 12_096


def test_while_training_tokens_are_scaled_and_none_removed():
    torch.manual_seed(0)
    module = Importance(base_of(8), keep=0.25)
    nn.init.normal_(module.query.weight), nn.init.normal_(module.key.weight)
    images = [torch.randn(n, 8) for n in (4, 8)]
    selection = module.train().vision(context_of(*images))
    m = torch.cat([soft_top(module.score(x), k) for x, k in zip(images, (1, 2), strict=True)])
    assert selection.keep.tolist() == list(range(12))
    assert torch.equal(selection.values, torch.cat(images) * m[:, None])
    assert torch.equal(selection.mix, m.diag())
    assert module.kept(3) == [1.0, 1.0, 1.0] and module.eval().kept(3) == [0.25] * 3


def test_scores_of_one_image_do_not_depend_on_another():
    torch.manual_seed(0)
    for family in FAMILY:
        module = make(family, base_of(8), 0.5, {})
        one, two = torch.randn(6, 8), torch.randn(4, 8)
        together = module.vision(context_of(one, two)).keep.tolist()
        alone = [module.vision(context_of(x)).keep.tolist() for x in (one, two)]
        assert together == alone[0] + [6 + i for i in alone[1]], family


def test_the_polarising_loss_grows():
    module = Importance(base_of(8), keep=0.5).train()
    nn.init.zeros_(module.query.weight)
    found = []
    for done in (0.0, 0.5, 1.0):
        module.progress(done)
        module.vision(context_of(torch.randn(4, 8), torch.randn(8, 8)))
        found.append(module.losses()["polarise"].item())
    assert found == pytest.approx([0, 0.1 * 0.6931, 0.2 * 0.6931], abs=1e-4)  # m = .5 everywhere: ln 2
    assert module.losses() == {}


# ------------------------------------------------------------------------------------------------ selector


def test_the_share_costs_nothing_below_the_floor():
    mask = torch.tensor([1.0, 0, 0, 1], requires_grad=True)
    loss = budget(mask, 0.25)
    loss.backward()
    assert loss.item() == 0.5 and mask.grad.tolist() == [0.25] * 4
    mask = torch.tensor([1.0, 0, 0, 0, 0], requires_grad=True)
    loss = budget(mask, 0.25)
    loss.backward()
    assert loss.item() == 0.25 and mask.grad.tolist() == [0.0] * 5


def test_sinusoids_of_a_grid():
    found = places([(1, 3, 5)], 8)
    assert found.shape == (15, 8)
    # token 7 is in row 1, column 2; speeds are 1 and 1 / 100
    assert found[7].tolist() == pytest.approx([0.8415, 0.0100, 0.5403, 0.99995, 0.9093, 0.0200, -0.4161, 0.9998], abs=1e-4)
    assert torch.equal(places([(2, 3, 5)], 8), found.repeat(2, 1))
    assert len({tuple(x) for x in found.tolist()}) == 15


def test_a_padded_image_is_as_one_by_itself():
    torch.manual_seed(0)
    encoder = Encoder(8, 3, layers=2, width=16)
    images = [(torch.randn(15, 8), (1, 3, 5)), (torch.randn(1, 8), (1, 1, 1)), (torch.randn(4, 8), (1, 2, 2))]
    batch = Images.of(images)
    together = encoder(batch.tokens, batch)
    for found, (tokens, grid) in zip(together, images, strict=True):
        one = Images.of([(tokens, grid)])
        assert torch.allclose(found[: len(tokens)], encoder(one.tokens, one)[0], atol=1e-6)


def test_gradients_reach_the_whole_selector(tiny):
    tiny.model.requires_grad_(True)
    module = module_for(tiny.model, "select", layers=1, width=32).train()
    Task(tiny.model, module, FitConfig(objective="reconstruct"))(**asked(tiny).batch("train", range(4)))["loss"].backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name, p in tiny.model.named_parameters() if p.grad is not None]


def test_reconstruction_does_not_run_the_decoder(tiny):
    def refused(*_args):
        raise AssertionError

    hook = tiny.model.model.language_model.layers[0].register_forward_pre_hook(refused)
    try:
        loss = Task(tiny.model, module_for(tiny.model, "select").train(), FitConfig(objective="reconstruct"))(
            **asked(tiny).batch("train", range(2))
        )["loss"]
    finally:
        hook.remove()
    assert loss.isfinite()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "select"])
def test_a_reconstruction_is_refused_where_there_is_none(family):
    message = f"--objective reconstruct: {family} reconstructs nothing; choose answers or distill"
    with pytest.raises(OptionError, match=message):
        check_objective(family, "reconstruct")
    check_objective("select", "reconstruct")


def taught(module: Selector, images, steps: int, rate: float) -> float:
    """Trains a selector on images of 4 x 4 tokens that a function draws; the share that it keeps over the last 20 steps."""
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=rate)
    shares = []
    for _ in range(steps):
        drew = images()
        module.vision(context_of(*drew, grids=((1, 4, 4),) * len(drew)))
        losses = module.losses()
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            shares.append(float(sample_mask(module.logits(module.standardised([(x, (1, 4, 4)) for x in drew]))).mean()))
    module.eval()
    return sum(shares[-20:]) / 20


@pytest.mark.parametrize(
    ("floor", "low", "high"),
    [(0.5, 0.47, 0.53), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((0.25, 0.22, 0.28), (0.0, 0.0, 0.1)))],
)
def test_the_share_falls_to_the_floor(floor, low, high):
    """Of tokens of which none tells of another. A batch of 64 images: what is below the floor by chance is not pushed back."""
    torch.manual_seed(0)
    module = Selector(base_of(16), floor=floor, layers=1, width=16)
    assert low <= taught(module, lambda: list(torch.randn(64, 16, 16)), 300, 2e-3) <= high


def test_what_is_everywhere_goes_before_what_is_unique():
    """Eight tokens that are the same in all images, at other places, and eight that are drawn."""
    torch.manual_seed(0)
    module, copied = Selector(base_of(16), keep=9 / 16, layers=1, width=32), torch.randn(16)

    def images(count: int = 24):
        drew = list(torch.randn(count, 16, 16))
        for image in drew:
            image[torch.randperm(16)[:8]] = copied
        return drew

    taught(module, images, 150, 3e-3)
    for image in images(50):
        keep = module.vision(context_of(image, grids=((1, 4, 4),))).keep
        assert len(keep) == 9
        assert int((image[keep] != copied).any(-1).sum()) >= 7


# ------------------------------------------------------------------------------------------------ both, in a model


@pytest.mark.parametrize("family", FAMILY)
def test_keeping_all_is_bit_identical(checkpoint, family):
    batch = asked(checkpoint).batch("train", range(4))
    with torch.inference_mode():
        read = batch["attention_mask"].bool()  # padding is 0 where values are written, and nothing reads it
        plain = logits(checkpoint.model, None, batch)[read]
        module = module_for(checkpoint.model, family, keep=1.0)
        assert torch.equal(logits(checkpoint.model, module.eval(), batch)[read], plain)
        assert torch.equal(logits(checkpoint.model, module.train(), batch)[read], plain)


@pytest.mark.parametrize("family", FAMILY)
def test_the_control_is_a_random_choice(checkpoint, family):
    batch = asked(checkpoint).batch("train", range(4))
    torch.manual_seed(3)
    module = make(family, Base.of(checkpoint.model), 0.25, {"scores": "random"})
    with torch.inference_mode():
        expected = logits(checkpoint.model, Random(keep=0.25, seed=int(module.seed)), batch)
        assert torch.equal(logits(checkpoint.model, module, batch), expected)
    assert not list(module.parameters()) and module.control == {"scores": "random"}
    again = make(family, Base.of(checkpoint.model), 0.25, {"scores": "random"})
    again.load_state_dict(module.state_dict())
    assert int(again.seed) == int(module.seed)


@pytest.mark.parametrize("family", FAMILY)
def test_what_is_kept_is_the_highest_of_each_image(family, tiny):
    module = module_for(tiny.model, family, keep=0.3)
    images = [torch.randn(n, 160) for n in (15, 1, 16)]
    context = context_of(*images, grids=((1, 3, 5), (1, 1, 1), (1, 4, 4)))
    scores = module.scores(context).split([15, 1, 16])
    selection = module.vision(context)
    expected = [start + i for start, s, k in zip((0, 15, 16), scores, (4, 1, 5), strict=True) for i in top(s, k).tolist()]
    assert selection.keep.tolist() == expected and selection.values is None and selection.mix is None
    module.keep = 0.6
    assert len(module.vision(context).keep) == 9 + 1 + 10


def test_gradients_of_answers_are_the_same_with_and_without_hooks(checkpoint):
    checkpoint.model.requires_grad_(False)
    module = module_for(checkpoint.model, "lis").train()
    batch = asked(checkpoint).batch("train", range(4))
    found = []
    for hooked in (True, False):
        module.zero_grad()
        if hooked:
            hidden = logits(checkpoint.model, module, batch)
        else:
            ready = prepare(checkpoint.model, batch, module)
            ready.pop("labels")
            hidden = checkpoint.model.lm_head(checkpoint.model.model.language_model(**ready).last_hidden_state)
        hidden.float().logsumexp(-1).mean().backward()
        assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        found.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


def test_deepstack_is_scaled_while_training(qwen3_folder):
    """By the same m as the tokens: what is scaled away cannot come in behind."""
    checkpoint = open_checkpoint(str(qwen3_folder))
    model = checkpoint.model
    module = module_for(model, "lis", keep=1 / 16).train()
    batch = asked(checkpoint).batch("train", [0])
    ready = prepare(model, batch, module)
    plain = prepare(model, batch, module_for(model, "lis", keep=1.0).train())
    m = (ready["inputs_embeds"] / plain["inputs_embeds"])[ready["visual_pos_masks"]].mean(-1)
    assert m.sum().item() == pytest.approx(1, abs=1e-3)
    for scaled, whole in zip(ready["deepstack_visual_embeds"], plain["deepstack_visual_embeds"], strict=True):
        assert torch.allclose(scaled, whole * m[:, None], atol=1e-5)


@pytest.mark.parametrize(("family", "objective"), [("select", "reconstruct"), ("lis", "answers")])
def test_the_loss_falls(family, objective, tiny, tmp_path):
    torch.manual_seed(0)
    source = asked(tiny, 8)
    module = make(family, Base.of(tiny.model), 1 / 16, {"layers": 1, "width": 32} if family == "select" else {})
    config = FitConfig(objective=objective, steps=12, batch_size=8)
    batch = source.batch("train", range(8))

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            value = float(Task(tiny.model, module.train(), config)(**batch)["loss"])
        module.eval()
        return value

    module.measure(seen(tiny.model, module.needs, source, 8))
    before = loss()
    train(tiny.model, module, source, config, "test", tmp_path)
    module.progress(0.0)
    assert loss() < before


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("select", {"width": 30}, "select width 30: must be a multiple of 4"),
        ("select", {"layers": 0}, "select layers 0: must be at least 1"),
        ("select", {"floor": 1.5}, "select floor 1.5: a share, from 0 and at most 1"),
        ("select", {"weight": -1.0}, "select weight -1.0: must be at least 0"),
        ("lis", {"polarise": -1.0}, "lis polarise -1.0: must be at least 0"),
        ("lis", {"scores": "best"}, "lis scores 'best': choose learned or random"),
    ],
)
def test_bad_settings(family, options, message):
    with pytest.raises(OptionError, match=message):
        make(family, base_of(8), 0.5, options)
