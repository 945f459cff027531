"""The embedded model that can look: what it is taught, and its recipe."""

from __future__ import annotations

import numpy as np
import pytest

from visionthink.data import places
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.recipes.tiny_look_base import CROPS, FRAMES, LOOKING, PROTOCOL, Looks, extended, look_tokens
from visionthink.recipes.tiny_look_trials import TRIALS, Decisions, Trial, trials


@pytest.fixture(scope="module")
def looks():
    return Looks(FRAMES, Renderer(extended(open_checkpoint("tiny-base").tokenizer), PROTOCOL.boundary))


def test_each_offer_and_each_word_of_the_questions_is_one_token(looks):
    tokenizer = looks.renderer.tokenizer
    assert look_tokens() == [f"<look>{name}</look>" for name in (*"012345678", "all")]
    assert all(len(tokenizer(text).input_ids) == 1 for text in look_tokens())
    assert len(tokenizer("<look>0</look><look>3</look>").input_ids) == 2
    question = "Are the digits in the red and the blue frame the same?"
    assert tokenizer.decode(tokenizer(question).input_ids) == question
    assert len(tokenizer(question).input_ids) == 13
    assert len(tokenizer) <= 576


def test_what_is_learnt_and_what_is_only_shown(looks):
    """A look that shows the evidence is ours; one that the model is taught to say is at a place of its own."""
    ours, taught = [], []
    for i in range(800):
        demonstration, shown = looks.lesson(np.random.default_rng(i))
        transcript = demonstration.transcript
        if transcript.looks:
            (ours if shown else taught).append(transcript)
        else:
            assert not shown
    assert 0.15 < len(taught) / (len(taught) + len(ours)) < 0.45
    assert all(t.stop_reason == "answered_after_request" for t in (*ours, *taught))
    boxes = [t.turns[0].looks[0].boxes[0] for t in taught if t.looks == 1]
    counts = [boxes.count(crop) for crop in CROPS.values()]
    assert min(counts) > 0 and max(counts) < 3 * len(boxes) / len(CROPS)


def test_labels_hold_no_look_of_ours(looks):
    ids = {looks.renderer.tokenizer.convert_tokens_to_ids(text) for text in look_tokens()}
    said = shown = 0
    for i in range(12):
        inputs = looks.batch(np.random.default_rng((1, i)), 0)
        for row, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True):
            looked = [at for at, token in enumerate(row) if token in ids]
            learnt = [labels[at] != -100 for at in looked]
            assert len(set(learnt)) <= 1
            said += any(learnt)
            shown += bool(looked) and not any(learnt)
            assert any(label != -100 for label in labels)
    assert said > 10 and shown > 20


def test_a_batch_depends_on_its_number_alone(looks):
    looks.first = 0
    first = next(iter(looks))
    again = next(iter(Looks(FRAMES, looks.renderer)))
    assert all((first[name] == again[name]).all() for name in first)
    assert LOOKING.seed != FRAMES.seed


def test_trials_keep_the_cheapest_ways_to_an_answer_that_is_no_guess():
    """Of a base that was never shown a crop: for hard questions, looks that show the evidence, and no answer without one."""
    examples = places.suite(12, split="train", seed=77, cells=(("named", False), ("named", True)))
    found = {trial.example.id: trial for trial in trials("tiny-base", examples)}
    hard = [trial for trial in found.values() if trial.example.need == "hard"]
    assert len(hard) >= 3 and len(found) >= 6
    for trial in hard:
        crops = [CROPS[text.removeprefix("<look>").removesuffix("</look>")] for text in trial.first]
        [(box, _)] = trial.example.evidence
        assert all(box.covered_by([crop]) == 1 for crop in crops)
        assert len({crop.area for crop in crops}) == 1
    assert any(trial.first == (None,) for trial in found.values() if trial.example.need == "easy")


def test_a_decision_is_learnt_with_its_answer(looks):
    example = places.draw("framed", 1, hard=True, split="train")
    decisions = Decisions(TRIALS, looks.renderer, [Trial(example, ("<look>2</look>",))])
    inputs = decisions.batch(np.random.default_rng(0), 0)
    said = looks.renderer.tokenizer.decode([i for i in inputs["labels"][0].tolist() if i != -100])
    assert said == f"<look>2</look><|im_end|><answer>{example.answer}</answer><|im_end|>"
