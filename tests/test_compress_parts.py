"""What methods may ask for beside the tokens, and may answer beside their choice: grids, levels of the tower, the question and
places; layers without attention, gates and mixtures. And labels that follow what is left."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

import pytest
import torch
from episodes import begin
from test_compress import (  # noqa: F401  (the fixture)
    Every,
    close,
    deepest,
    dropped_by,
    histories,
    inputs_of,
    logits_of,
    masked,
    policy,
    raw_inputs,
    with_answer,
)

from visionthink.compress.prepare import prepare
from visionthink.compress.selection import Needs, Rows, Selection
from visionthink.compress.session import compress
from visionthink.errors import CompressionError, OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.policies.render import views
from visionthink.types import Message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed(Every):
    """Every `step`-th token goes through some layers, the others pass them by."""

    layers: tuple[int, ...] = ()
    gate: float | None = None

    def at(self, layers: int) -> Mapping[int, Rows]:
        return dict.fromkeys(self.layers, self.rows)

    def vision(self, context):
        return None

    def select(self, context):
        keep = torch.arange(0, int(context.visual.sum()), self.step)
        gate = None if self.gate is None else torch.full((len(keep),), self.gate)
        return Selection(keep, others="pass", gate=gate)

    def kept(self, layers: int) -> list[float]:
        return [1 / self.step if i in self.layers else 1.0 for i in range(layers)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeing(Every):
    """Remembers what it is shown."""

    seen: list = dataclasses.field(default_factory=list)

    def vision(self, context):
        self.seen.append(context)
        return self._kept(len(context.features))

    def select(self, context):
        self.seen.append(context)
        return self._kept(int(context.visual.sum()))

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {self.layer: "none"} if self.layer else {}


@contextlib.contextmanager
def hooked(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_two_layers_in_succession_are_passed_by(policy):  # noqa: F811
    model, last = policy.checkpoint.model, deepest(policy)
    inputs, method = inputs_of(policy, histories(policy, 3, asked=True)), Routed(layers=(last - 1, last), rows="none")
    with compress(model, method) as session, torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    whole = with_answer(inputs, output.sequences)
    dropped = dropped_by(whole, method, model.config.image_token_id)

    def restore(_module, args, kwargs, result):
        hidden = args[0] if args else kwargs["hidden_states"]
        return torch.where(dropped[..., None], hidden, result)

    layers = [model.model.language_model.layers[i] for i in method.layers]
    with (
        hooked(*(layer.register_forward_hook(restore, with_kwargs=True) for layer in layers)),
        masked(model, dropped, last - 1),
        torch.inference_mode(),
    ):
        expected = model(**whole).logits[:, -4:-1].float()
    assert close(torch.stack(output.logits, 1).float(), expected)
    counts = [sum(c) for c in session.tokens[0]]
    assert counts[:-2] == [counts[0]] * (last - 1) and counts[-2] == counts[-1] < counts[0]
    with pytest.raises(OptionError, match="tokens skipped the layer before it"), compress(model, Routed(layers=method.layers)):
        logits_of(policy, inputs)


def test_a_gate_scales_what_the_layer_adds(policy):  # noqa: F811
    """x = 2, Layer(x) = 5, g = 0.5: 3.5 for what goes through, 2 for what passes by, and 5 for text."""
    model, layer = policy.checkpoint.model, deepest(policy)
    module, inputs, found = model.model.language_model.layers[layer], inputs_of(policy, histories(policy, 3)), []

    def two(_module, args, kwargs):
        return (torch.full_like(args[0], 2.0), *args[1:]), kwargs

    with (
        hooked(
            module.register_forward_pre_hook(two, with_kwargs=True),
            module.register_forward_hook(lambda m, a, out: torch.full_like(out, 5.0)),
        ),
        compress(model, Routed(layers=(layer,), rows="none", gate=0.5)),
        hooked(module.register_forward_hook(lambda m, a, out: found.append(out))),
    ):
        logits_of(policy, inputs)
    visual = inputs["input_ids"] == model.config.image_token_id
    for out, own, valid in zip(found[0], visual, inputs["attention_mask"].bool(), strict=True):
        assert out[own][::2].unique().tolist() == [3.5] and out[own][1::2].unique().tolist() == [2.0]
        assert out[valid & ~own].unique().tolist() == [5.0]


def test_a_gate_of_ones_is_none(policy):  # noqa: F811
    model, layer = policy.checkpoint.model, deepest(policy)
    inputs = inputs_of(policy, histories(policy, 3, asked=True))

    def read(method):
        with compress(model, method):
            return logits_of(policy, inputs)

    assert torch.equal(read(Routed(step=1, layers=(layer,), rows="none", gate=1.0)), logits_of(policy, inputs))
    early = (layer - 1,)  # what is scaled behind the last layer, no text reads
    with_ones = read(Routed(layers=early, rows="none", gate=1.0))
    assert torch.equal(with_ones, read(Routed(layers=early, rows="none")))
    assert not close(with_ones, read(Routed(layers=early, rows="none", gate=0.9)))


def test_a_gate_of_another_length_is_told(policy):  # noqa: F811
    class Wrong(Routed):
        def select(self, context):
            return Selection(torch.arange(2), gate=torch.ones(3))

    method = Wrong(layers=(deepest(policy),), rows="none")
    with pytest.raises(OptionError, match=r"gate is \[3\] for 2 tokens"), compress(policy.checkpoint.model, method):
        logits_of(policy, inputs_of(policy, histories(policy, 1)))


def test_levels_stand_in_the_order_of_the_tokens(policy, monkeypatch):  # noqa: F811
    """The merger makes the tokens of the last level; in windows of 2 x 2 tokens they stand elsewhere in the tower."""
    model = policy.checkpoint.model
    tower, image = model.model.visual, model.config.image_token_id
    if hasattr(tower, "window_size"):
        monkeypatch.setattr(tower, "window_size", 2 * 2 * tower.patch_size)
    grids = [(1, 8, 12), (1, 10, 6), (1, 2, 2)]
    rows = [[0, 270, *[image] * 24, 271, *[image] * 15, 300], [*range(270, 270 + 41), image, 300]]
    inputs = raw_inputs(policy, rows, grids)
    inputs["attention_mask"][0, :1] = 0
    last = len(tower.blocks) - 1
    method = Seeing(needs=Needs(levels=(0, last)), layer=deepest(policy))
    with compress(model, method):
        logits_of(policy, inputs)
    first, second = method.seen[:2]
    assert [first.grids, second.grids] == [((1, 4, 6), (1, 5, 3)), ((1, 1, 1),)]
    for context in (first, second):
        assert context.levels[0].shape == (*context.features.shape[:1], 4, tower.blocks[0].norm1.weight.shape[0])
        with torch.inference_mode():
            assert close(tower.merger(context.levels[last].flatten(0, 1)), context.features)
    assert not torch.equal(first.levels[0], first.levels[last])
    beyond = Seeing(needs=Needs(levels=(last + 1,)))
    with (
        pytest.raises(OptionError, match=rf"block {last + 1} of the vision tower: must be from 0 to {last}"),
        compress(model, beyond),
    ):
        pass


def test_places_are_those_before_anything_left(policy):  # noqa: F811
    """Every second token leaves before the decoder, and every second one of those at a layer; padded, two images."""
    model, layer = policy.checkpoint.model, deepest(policy)
    inputs = inputs_of(policy, histories(policy, 3, asked=True))
    method = Seeing(layer=layer)
    with compress(model, method):
        logits_of(policy, inputs)
    before, within = method.seen[:3], method.seen[3:]
    grids = [(int(t), int(h) // 2, int(w) // 2) for t, h, w in inputs["image_grid_thw"]]
    for i, (images, context) in enumerate(zip(before, within, strict=True)):
        assert images.grids == tuple(grids[2 * i : 2 * i + 2]) and images.images == tuple(h * w for _, h, w in images.grids)
        assert context.images is images
        assert context.places.tolist() == list(range(0, sum(images.images), 2))
        assert torch.equal(context.embeddings[context.visual], images.features[context.places])
        assert context.attention.shape == (0, 0, len(context.hidden)) and len(context.rows) == 0


def test_images_that_the_method_does_not_act_on_have_no_grid_and_no_place(policy):  # noqa: F811
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 2, asked=True))
    method = Seeing(layer=deepest(policy), needs=Needs(levels=(0,)))
    with compress(model, method, views=[[False, True]] * 2):
        logits_of(policy, inputs)
    _, height, width = (int(n) for n in inputs["image_grid_thw"][1])
    context = method.seen[0]
    assert context.grids == ((1, height // 2, width // 2),)
    assert len(context.features) == len(context.levels[0]) == height * width // 4
    assert method.seen[2].places.tolist() == list(range(0, height * width // 4, 2))


def words_of(policy, embeddings):  # noqa: F811
    """The text that embeddings [length, D] are those of."""
    table = policy.checkpoint.model.get_input_embeddings().weight
    with torch.inference_mode():
        return policy.checkpoint.tokenizer.decode(torch.cdist(embeddings, table).argmin(1))


def test_the_question_is_that_of_the_turn_with_the_first_image(policy, example):  # noqa: F811
    """Beside another prompt, with a second image and an answer behind it: neither of those is of the question."""
    model = policy.checkpoint.model
    [view] = views(begin(example, (1,), policy.checkpoint.protocol, budget=policy.checkpoint.budget).history)
    found = [
        [
            Message("system", ("You are helpful.",)),
            Message("user", (view, "What colour is it?")),
            Message("assistant", ("green",)),
            Message("user", (view, "And now?")),
            Message("assistant", ("blue",)),
        ],
        [Message("user", (view, "How many?"))],
    ]
    inputs = inputs_of(policy, found)
    embedded, read = Seeing(needs=Needs(question="embedded")), Seeing(needs=Needs(question="read"))
    for method in (embedded, read):
        with compress(model, method) as session:
            logits_of(policy, inputs)
    asked = ["What colour is it?", "How many?"]
    for context, question in zip(embedded.seen, asked, strict=True):
        words = words_of(policy, context.question).lstrip()
        assert question in words and words.startswith("<|im_start|>user") and words.endswith("<|im_end|>")
        assert not any(other in words for other in ("helpful", "green", "And now", "blue"))
    for context, plain in zip(read.seen, embedded.seen, strict=True):
        with torch.inference_mode():
            expected = model.model.language_model(inputs_embeds=plain.question[None]).last_hidden_state[0]
        assert close(context.question, expected) and not context.question.requires_grad
    assert min(session.flops[0]) > 0 and len(session.totals) == 1  # what is read aside is counted, and is no prompt


def test_labels_follow_what_is_left(policy):  # noqa: F811
    model, layer = policy.checkpoint.model, deepest(policy)
    inputs = inputs_of(policy, histories(policy, 3, asked=True))
    labels, image = inputs["input_ids"], model.config.image_token_id
    text = inputs["attention_mask"].bool() & (labels != image)
    for method in (Every(), Every(layer=layer), Routed(layers=(layer,), rows="none")):
        with compress(model, method) as session, torch.inference_mode():
            logits = model(**inputs).logits
        aligned = session.aligned(labels)
        assert aligned.shape == logits.shape[:2]
        if isinstance(method, Routed):  # whoever passed the last layer by stands there again
            assert torch.equal(aligned, labels.masked_fill(~inputs["attention_mask"].bool(), -100))
        for row, own, valid in zip(aligned, labels, text, strict=True):
            assert torch.equal(row[(row != -100) & (row != image)], own[valid])
        assert (aligned == image).sum() == sum(session.tokens[0][-1]) or isinstance(method, Routed)
    with pytest.raises(CompressionError, match="no prompt was read"), compress(model, Every()) as session:
        session.aligned(labels)


class Mixing(Every):
    """Means of neighbours."""

    def vision(self, context):
        count = len(context.features) // 2
        mix = torch.eye(count).repeat_interleave(2, 1) / 2
        return Selection(torch.arange(0, 2 * count, 2), mix=torch.nn.functional.pad(mix, (0, len(context.features) - 2 * count)))


@pytest.fixture(scope="module")
def qwen3(qwen3_folder):
    return LocalPolicy(open_checkpoint(str(qwen3_folder)), max_new_tokens=6)


def test_a_mixture_mixes_the_features_of_deepstack(qwen3):
    """Of both images of three samples, in the tokens and in what is added to the outputs of the first layers."""
    model, inputs = qwen3.checkpoint.model, inputs_of(qwen3, histories(qwen3, 3, asked=True))
    whole, found = prepare(model, inputs, Every(step=1)), prepare(model, inputs, Mixing())
    counts = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()

    def means(features):
        return torch.cat([x.unflatten(0, (-1, 2)).mean(1) for x in features.split(counts)])

    assert len(found["deepstack_visual_embeds"]) == 2
    for mixed, features in zip(found["deepstack_visual_embeds"], whole["deepstack_visual_embeds"], strict=True):
        assert close(mixed, means(features))
    tokens = [batch["inputs_embeds"][batch["visual_pos_masks"]] for batch in (found, whole)]
    assert close(tokens[0], means(tokens[1]))


def test_a_mixture_of_single_tokens_is_a_choice(policy):  # noqa: F811
    class One(Every):
        def vision(self, context):
            keep = torch.arange(0, len(context.features), 2)
            return Selection(keep, mix=torch.eye(len(context.features))[keep])

    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    with compress(model, Every()):
        expected = logits_of(policy, inputs)
    with compress(model, One()):
        assert torch.equal(logits_of(policy, inputs), expected)


def test_a_mixture_of_another_shape_is_told(policy):  # noqa: F811
    class Wrong(Every):
        def vision(self, context):
            return Selection(torch.arange(2), context.features[:2], mix=torch.eye(2))

    inputs = inputs_of(policy, histories(policy, 1))
    with pytest.raises(OptionError, match=r"mix is \[2, 2\] for 2 of \d+ tokens"), compress(policy.checkpoint.model, Wrong()):
        logits_of(policy, inputs)
