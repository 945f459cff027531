"""What every trained compression method shares, FCoT-VL's convolution, and the driver that fits them."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from visionthink.cli import main
from visionthink.compress import learned
from visionthink.compress.baselines import Pool, Uniform
from visionthink.compress.cells import Cells, shape_of
from visionthink.compress.families import FAMILIES, make, opened
from visionthink.compress.fit import FitConfig, Questions, Task, divergence, fit, measured, seen, teacher_logits
from visionthink.compress.learned import RECORD, WEIGHTS, Base, describe, save, trained
from visionthink.compress.names import parse
from visionthink.compress.selection import VisionContext
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.errors import CompressionError, ModelError, OptionError
from visionthink.evals.policy_spec import PolicySpec
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.recipes.fits import FITS
from visionthink.recipes.fitting import Answers, questions
from visionthink.recipes.frontier import _slug, with_method
from visionthink.types import Example

FAMILY = list(FAMILIES)


@pytest.fixture(scope="module", params=["tiny", pytest.param("qwen3", marks=pytest.mark.slow)])
def checkpoint(request, qwen3_folder):
    return open_checkpoint("tiny" if request.param == "tiny" else str(qwen3_folder))


@pytest.fixture(scope="module")
def tiny_model():
    return open_checkpoint("tiny")


def asked(checkpoint, train: int = 8, test: int = 8) -> Questions:
    parts = (Answers(synth.suite(n, split=split), checkpoint) for n, split in ((train, "train"), (test, "test")))
    return questions("some", *parts, checkpoint)


def module_for(checkpoint, family: str, *, busy: bool = False):
    """A new module; `busy`: with no weight at 0, as after training."""
    torch.manual_seed(0)
    made = make(family, Base.of(checkpoint.model), FITS[family].keep, FITS[family].options)
    made.adapt(checkpoint.model).measure(seen(checkpoint.model, made.needs, asked(checkpoint), 8))
    if busy:
        for weight in trained(made):
            torch.nn.init.normal_(weight, std=0.02)
    return made.eval()


def logits(model, module, batch):
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    with torch.inference_mode(), compress(model, module):
        return model(**inputs, use_cache=False).logits[:, -1].float()


def digest(model) -> str:
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------ cells


def test_cells_of_a_grid_that_does_not_divide():
    cells = Cells.of([(1, 3, 5)], (2, 2))
    assert cells.keep.tolist() == [0, 2, 4, 10, 12, 14]
    assert cells.mean(torch.arange(1.0, 16.0)[:, None])[:, 0].tolist() == [4, 6, 7.5, 11.5, 13.5, 15]
    assert cells.average[2].nonzero()[:, 0].tolist() == [4, 9] and cells.average.sum(1).tolist() == pytest.approx([1] * 6)


def test_cells_stay_within_frames_and_images():
    assert Cells.of([(2, 1, 3), (1, 2, 2)], (2, 2)).keep.tolist() == [0, 2, 3, 5, 6]
    assert Cells.of([(1, 1, 1)], (4, 4)).keep.tolist() == [0]
    assert Cells.of([(1, 1, 7)], (2, 2)).keep.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(("share", "shape"), [(0.5, (1, 2)), (0.25, (2, 2)), (0.125, (2, 4)), (0.0625, (4, 4)), (1, (1, 1))])
def test_shares_of_cells(share, shape):
    assert shape_of("fcot", share) == shape


def test_other_shares_are_refused():
    with pytest.raises(OptionError, match=r"fcot keep 0.3: mixes whole cells; choose 0.5, 0.25, 0.125, 0.0625, 1"):
        shape_of("fcot", 0.3)
    with pytest.raises(OptionError, match=r"pool keep 0.3: mixes whole cells"):
        Pool(keep=0.3)


# ------------------------------------------------------------------------------------------------ FCoT-VL


def test_the_convolution_begins_as_average_pooling(checkpoint):
    batch = asked(checkpoint).batch("train", range(4))
    pooled = logits(checkpoint.model, Pool(keep=0.25), batch)
    assert torch.equal(logits(checkpoint.model, module_for(checkpoint, "fcot"), batch), pooled)


@pytest.mark.parametrize("weights", ["full", "channel", "mean"])
def test_the_convolution_as_a_formula(weights):
    base = Base(model_type="none", hidden=2, layers=2, tower=4, patches=4, levels=(0,), merger="")
    module = make("fcot", base, 0.25, {"weights": weights})
    tokens = torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [10, 1], [20, 1]])
    context = VisionContext(features=tokens, images=(4, 2), grids=((1, 2, 2), (1, 2, 1)), layers=2)
    assert module.vision(context).values.tolist() == [[2.5, 0], [15, 1]]
    with torch.no_grad():
        if weights == "full":
            module.weights[1, 0, 1] = 1.0  # the second token of a cell, from its first channel to its second
            module.weights[3, 0, 0] = 0.5
            # the second cell has rows only: its second and fourth tokens are its mean, 15
            assert module.vision(context).values.tolist() == [[4.5, 2], [22.5, 16]]
        if weights == "channel":
            module.weights[0, 1] = 1.0
            assert module.vision(context).values.tolist() == [[2.5, 0], [15, 2]]


def test_settings_of_the_convolution():
    base = Base(model_type="none", hidden=2, layers=2, tower=4, patches=4, levels=(0,), merger="")
    with pytest.raises(OptionError, match=r"fcot weights 'half': choose full, channel or mean"):
        make("fcot", base, 0.25, {"weights": "half"})
    with pytest.raises(OptionError, match=r"unknown trained method 'fcott'; choose from fcot, quecc, setok"):
        make("fcott", base, 0.25, {})


# ------------------------------------------------------------------------------------------------ shared by all


@pytest.mark.parametrize("family", FAMILY)
def test_a_batch_is_as_one_by_one(checkpoint, family):
    module, source = module_for(checkpoint, family, busy=True), asked(checkpoint)
    together = logits(checkpoint.model, module, source.batch("train", range(4)))
    alone = torch.cat([logits(checkpoint.model, module, source.batch("train", [i])) for i in range(4)])
    assert (together - alone).abs().max() <= 2e-5 * alone.abs().max()


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("size", [(28, 28), (28, 196), (140, 84), (112, 112)])
def test_images_of_any_grid(tiny_model, family, size):
    module = module_for(tiny_model, family, busy=True)
    examples = [Example("one", "How many?", Image.new("RGB", size, "red"), answer="1")]
    examples += [Example("two", "How many?", (Image.new("RGB", (112, 112)), Image.new("RGB", size)), answer="2")]
    batch = questions("some", Answers(examples, tiny_model), [], tiny_model).batch("train", [0, 1])
    assert logits(tiny_model.model, module, batch).isfinite().all()


@pytest.mark.parametrize("family", FAMILY)
def test_generation_with_a_cache_is_recomputation(checkpoint, family):
    model, module = checkpoint.model, module_for(checkpoint, family, busy=True)
    batch = asked(checkpoint).batch("train", range(2))
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    with torch.inference_mode():
        found = []
        for cached in (True, False):
            with compress(model, module):
                found.append(model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=cached))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", FAMILY)
def test_half_precision(family, tiny_model):
    half = open_checkpoint("tiny", dtype="bfloat16")
    batch = asked(tiny_model).batch("train", range(2))
    batch = {name: x.to(torch.bfloat16) if x.is_floating_point() else x for name, x in batch.items()}
    assert logits(half.model, module_for(half, family, busy=True), batch).isfinite().all()


@pytest.mark.parametrize("family", FAMILY)
def test_saved_and_opened(tmp_path, tiny_model, family):
    module = module_for(tiny_model, family, busy=True)
    save(tmp_path / "it", module, FITS[family].options, {"seconds": 1.0})
    again = opened(tmp_path / "it", tiny_model.model)
    batch = asked(tiny_model).batch("train", range(2))
    assert torch.equal(logits(tiny_model.model, module, batch), logits(tiny_model.model, again, batch))
    assert again.name == module.name and describe(tmp_path / "it").fit == {"seconds": 1.0}
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("family", FAMILY)
def test_another_base_is_refused(tmp_path, tiny_model, qwen3_folder, family):
    save(tmp_path / "it", module_for(tiny_model, family), FITS[family].options, {})
    with pytest.raises(CompressionError, match=r"another model .model_type qwen2_5_vl, here qwen3_vl, hidden 160, here 64"):
        opened(tmp_path / "it", open_checkpoint(str(qwen3_folder)).model)
    changed = open_checkpoint("tiny").model
    with torch.no_grad():
        next(changed.model.visual.merger.parameters()).add_(0.1)
    with pytest.raises(CompressionError, match=r"fitted to another model .of the same architecture, with other weights.; fit it"):
        opened(tmp_path / "it", changed)


@pytest.mark.parametrize("family", FAMILY)
def test_only_the_module_is_trained_and_the_same_seed_gives_the_same(tmp_path, family):
    checkpoint = open_checkpoint("tiny")
    before = digest(checkpoint.model)
    config = FitConfig(objective=FITS[family].config.objective, steps=2, batch_size=4, seed=3)
    reports = [
        fit(checkpoint.model, family, FITS[family].keep, asked(checkpoint), tmp_path / name, config, FITS[family].options)
        for name in ("one", "two")
    ]
    assert digest(checkpoint.model) == before
    assert not any(p.grad is not None for p in checkpoint.model.parameters())
    one, two = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("one", "two"))
    assert one == two
    record = json.loads((tmp_path / "one" / RECORD).read_text())
    assert record["family"] == family and record["fit"]["trained"]["accuracy"] == reports[0]["trained"]["accuracy"]
    assert record["fit"]["steps"] == 2 and set(record["fit"]) >= {"full", "untrained", "control", "trained"}
    assert describe(tmp_path / "one" / "control").options == dict(FITS[family].options) | dict(FAMILIES[family].control)


@pytest.mark.parametrize("family", FAMILY)
def test_nothing_stays_behind_an_exception(tiny_model, family):
    model = tiny_model.model
    before = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    with pytest.raises(ZeroDivisionError), compress(model, module_for(tiny_model, family)):
        raise ZeroDivisionError
    assert [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()] == before


# ------------------------------------------------------------------------------------------------ the driver


def test_divergence():
    teacher, student = (torch.tensor([p]).log() for p in ([0.5, 0.5], [0.9, 0.1]))
    assert float(divergence(teacher, student)) == pytest.approx(0.5108, abs=1e-4)
    assert float(divergence(teacher, teacher + 3)) == pytest.approx(0, abs=1e-7)
    warm = divergence(teacher, student, temperature=2.0)
    assert float(warm) == pytest.approx(4 * 0.1438, abs=1e-3)  # softmax of half the logits: 0.75 and 0.25


def test_what_diverged_is_not_saved(tmp_path):
    checkpoint = open_checkpoint("tiny")
    config = FitConfig(steps=3, batch_size=2, learning_rate=1e30)
    with pytest.raises(OptionError, match=r"--learning-rate 1e.30: fcot, trained learnt weights that are no numbers; choose a l"):
        fit(checkpoint.model, "fcot", 0.25, asked(checkpoint), tmp_path / "it", config)
    assert not (tmp_path / "it").exists()


def test_the_objectives():
    checkpoint = open_checkpoint("tiny")
    batch, module = asked(checkpoint).batch("train", range(4)), module_for(checkpoint, "fcot", busy=True)

    def loss(**settings) -> float:
        return Task(checkpoint.model, module, FitConfig(**settings))(**batch)["loss"].item()

    alone = loss(objective="distill", answers_weight=0.0)
    assert loss(objective="distill") == pytest.approx(loss(objective="answers") + alone, rel=1e-5) and alone > 0


def test_the_model_without_a_method_is_its_own_teacher(tiny_model):
    found = measured(tiny_model.model, None, asked(tiny_model))
    assert found.tokens == 16 and found.divergence == pytest.approx(0, abs=1e-6) and 0.5 < found.accuracy <= 1
    pooled = measured(tiny_model.model, Pool(keep=0.25), asked(tiny_model))
    assert pooled.tokens == 4 and pooled.divergence > 0.01


def test_the_teacher_reads_all_visual_tokens(tiny_model):
    batch = asked(tiny_model).batch("train", range(2))
    assert len(teacher_logits(tiny_model.model, batch)) == int((batch["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"objective": "guess"}, "--objective 'guess': choose from answers, distill, reconstruct"),
        ({"steps": 0}, "--steps 0: must be above 0"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0: must be above 0"),
        ({"learning_rate": float("inf")}, "--learning-rate inf: must be above 0"),
        ({"temperature": float("inf")}, "--temperature inf: must be above 0"),
        ({"answers_weight": -1.0}, "--answers-weight -1.0: must be at least 0"),
        ({"answers_weight": float("nan")}, "--answers-weight nan: must be at least 0"),
        ({"seed": -1}, "--seed -1: must be at least 0 and below 4294967296"),
        ({"seed": 2**32}, "--seed 4294967296: must be at least 0 and below 4294967296"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(OptionError, match=message):
        FitConfig(**setting)


# ------------------------------------------------------------------------------------------------ by name


def test_by_name(tmp_path, tiny_model):
    folder = tmp_path / "a@b"
    save(folder, module_for(tiny_model, "fcot"), {}, {})
    spec = PolicySpec.parse(f"adaptive+learned:{folder}@full")
    assert (spec.method, spec.which, spec.routing) == (f"learned:{folder}", "full", "adaptive")
    assert PolicySpec.parse(f"learned:{folder}").method == f"learned:{folder}"
    assert parse(f"learned:{folder}", tiny_model.model).name == "fcot:0.25"
    assert parse(f"learned:{folder}").name == "fcot:0.25"
    for model in (tiny_model.model, None):
        with pytest.raises(OptionError, match=r"fcot leaves the share that it was fitted with, 0.25"):
            parse(f"learned:{folder}:0.5", model)


@pytest.mark.parametrize("name", ["learned:", "learned", "learned::0.5", "learned: "])
def test_a_folder_is_wanted(name):
    with pytest.raises(OptionError, match=r"say the folder that visionthink fit wrote, as in learned:runs/fcot"):
        parse(name)


def test_a_later_format_is_named_before_its_fields_are_read(tmp_path, tiny_model):
    save(tmp_path / "it", module_for(tiny_model, "fcot"), {}, {})
    record = json.loads((tmp_path / "it" / RECORD).read_text()) | {"format": 2, "device": "cuda"}
    (tmp_path / "it" / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"compressor.json: format 2; this version reads 1"):
        describe(tmp_path / "it")


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("fcot", {"depth": 3}, "options.depth: there is no such option; choose from weights"),
        ("fcot", {"keep": 0.5}, "options.keep: there is no such option; choose from weights"),
        ("fcot", {"weights": 3}, "options.weights: 3 is not one of full, channel, mean"),
        ("quecc", {"levels": "yes"}, "options.levels: 'yes' is not true or false"),
        ("setok", {"centres": "all"}, "options.centres: 'all' is not one of peaks, random"),
        ("remember", {"sites": [1, "2"]}, "options.sites[1]: '2' is not a whole number"),
        ("select", {"layers": "3"}, "options.layers: '3' is not a whole number"),
        ("select", {"width": 1.5}, "options.width: 1.5 is not a whole number"),
        ("lis", {"polarise": "x"}, "options.polarise: 'x' is not a number"),
        ("mod", {"layers": [1.5]}, "options.layers[0]: 1.5 is not a whole number"),
        ("mod", {"layers": "13"}, "options.layers: '13' is not a list"),
    ],
)
def test_an_option_of_another_type_is_named(tmp_path, tiny_model, family, options, message):
    save(tmp_path, module_for(tiny_model, family), {}, {})
    record = json.loads((tmp_path / RECORD).read_text()) | {"options": options}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelError) as error:
        parse(f"learned:{tmp_path}")
    assert str(error.value) == f"{tmp_path}/compressor.json: damaged ({message})"


def test_damaged_folders(tmp_path, tiny_model):
    for name in ("nowhere", "~nobody/nowhere"):
        with pytest.raises(ModelError, match=r"nowhere: no compressor.json there; visionthink fit FAMILY --out"):
            parse(f"learned:{name}")
    folder = tmp_path / "it"
    save(folder, module_for(tiny_model, "fcot"), {}, {})
    whole = json.loads((folder / RECORD).read_text())

    def said(**changes) -> str:
        (folder / RECORD).write_text(json.dumps(whole | changes))
        found = []
        for model in (tiny_model.model, None):
            with pytest.raises(ModelError) as error:
                parse(f"learned:{folder}", model)
            found.append(str(error.value))
        assert found[0] == found[1]
        return found[0]

    assert "format 2; this version reads 1" in said(format=2)
    assert "damaged (keep: 'half' is not a number)" in said(keep="half")
    assert "damaged (unknown trained method 'fcott'" in said(family="fcott")
    assert "damaged (fcot keep 0.3: mixes whole cells" in said(keep=0.3)
    assert "compressor.json: damaged (" in said(family="select", options={"width": 10**12})
    (folder / RECORD).write_text("{")
    with pytest.raises(ModelError, match=r"damaged"):
        parse(f"learned:{folder}")
    (folder / RECORD).write_text(json.dumps(whole))
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"norm.bias": weights["norm.bias"] * float("nan")}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"compressor.safetensors: damaged .norm.bias is not finite"):
        parse(f"learned:{folder}", tiny_model.model)
    save_file(weights | {"norm.bias": torch.zeros(3)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"compressor.safetensors: damaged .Error.s. in loading .* size mismatch for norm.bias"):
        parse(f"learned:{folder}", tiny_model.model)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"compressor.safetensors: missing or damaged"):
        parse(f"learned:{folder}", tiny_model.model)


@pytest.mark.parametrize("name", ["learned:{}", "adaptive+learned:{}@full"])
def test_an_evaluation_is_of_what_was_fitted_when_it_began(tmp_path, capsys, tiny_model, name):
    """The folder of a method that is fitted again has the same name and other weights."""
    folder = tmp_path / "it"
    save(folder, module_for(tiny_model, "fcot", busy=True), {}, {"seconds": 1.0})
    options = ["eval", "mini", "--limit", "2", "--max-new-tokens", "4", "--out", str(tmp_path / "run"), "--policy"]
    options.append(name.format(folder))
    assert main(options) == 0
    save(folder, module_for(tiny_model, "fcot", busy=True), {}, {"seconds": 2.0})  # the same weights
    assert main(options) == 0
    save(folder, module_for(tiny_model, "fcot"), {}, {"seconds": 1.0})
    capsys.readouterr()
    assert main(options) == 2
    assert re.search(r"run: method was 'sha256:\w+' there and is 'sha256:\w+' now; use another folder", capsys.readouterr().err)


def test_an_evaluation_whose_workers_have_the_weights(tmp_path, tiny_model):
    save(tmp_path / "it", module_for(tiny_model, "fcot"), {}, {})
    model = with_method(PolicySpec.parse(f"learned:{tmp_path / 'it'}"), load("tiny", device="meta"))
    assert model.policy.method.name == "fcot:0.25"


def test_names_of_folders_have_an_end():
    long = [f"tiny-learned:/{'d' * 300}/{name}" for name in "ab"]
    one, two = map(_slug, long)
    assert one != two and len(one) == len(two) == 197
    assert _slug("tiny-learned:runs/fcot") == "tiny-learned-runs-fcot"


def test_method_and_control_appear_together(tmp_path, tiny_model, monkeypatch):
    """An interrupted fit leaves what was there, which here is nothing; and no fit touches other files of its folder."""
    folder, module, plain = tmp_path / "real", module_for(tiny_model, "fcot", busy=True), module_for(tiny_model, "fcot")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(folder)
    write, written = learned.save_file, []

    def interrupted(weights, path):
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(weights, path)

    monkeypatch.setattr(learned, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "link", module, {}, {}, (plain, {}))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    save(tmp_path / "link", module, {}, {}, (plain, {}))
    assert sorted(path.name for path in folder.iterdir()) == ["compressor.json", "compressor.safetensors", "control", "notes.txt"]
    before = (folder / WEIGHTS).read_bytes()
    del written[1:]
    with pytest.raises(KeyboardInterrupt):
        save(folder, plain, {}, {}, (plain, {}))
    assert (folder / WEIGHTS).read_bytes() == before != (folder / "control" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("family", ["pool", "fcot", "quecc", "remember"])
def test_half_of_a_column_is_the_column(tiny_model, family):
    """Cells of (1, 2) on a grid of one token a row hold one token each."""
    module = Pool(keep=0.5) if family == "pool" else make(family, Base.of(tiny_model.model), 0.5, {})
    examples = [Example("one", "How many?", Image.new("RGB", (28, 196), "red"), answer="1")]
    batch = questions("some", Answers(examples, tiny_model), [], tiny_model).batch("train", [0])
    assert torch.equal(logits(tiny_model.model, module, batch), logits(tiny_model.model, Uniform(keep=1.0), batch))
