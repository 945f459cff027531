"""The border to a checkpoint: what its files say is used whole, or refused by the file's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from episodes import begin
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import copied_at, places
from training import small
from transformers import GenerationConfig

import visionthink
from visionthink import run_batch
from visionthink.data import synth
from visionthink.durable import replace_folder
from visionthink.errors import ModelError, StorageError
from visionthink.policies import checkpoint_files
from visionthink.policies.checkpoint import describe, open_checkpoint, resolve
from visionthink.policies.local import LocalPolicy
from visionthink.policies.render import Renderer
from visionthink.train.run import train
from visionthink.train.trainer import make_trainer

EXAMPLES = synth.suite(4)


def copied(folder: Path, name: str = "tiny-base") -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(resolve(name), folder))


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def outcome(folder: Path, out: Path) -> dict[str, Any]:
    """What a model says: greedily and sampled, with log-probabilities, and sampled through TRL as in training."""
    checkpoint = open_checkpoint(str(folder))

    def episodes():
        return [begin(e, (0.25, 1), checkpoint.protocol, budget=checkpoint.budget) for e in EXAMPLES]

    said = {}
    for temperature in (0.0, 1.5):
        transcripts = run_batch(episodes(), LocalPolicy(checkpoint, max_new_tokens=6, temperature=temperature))
        said[f"temperature {temperature}"] = [(t.token_ids, [turn.logprobs for turn in t.turns]) for t in transcripts]
    # the longest turn does not end by itself, so that what ends or lengthens it is seen
    trainer = make_trainer(
        small(out, model=str(folder), max_new_tokens=6, kl_coef=0.01, temperature=1.5), EXAMPLES, checkpoint=checkpoint
    )
    torch.manual_seed(0)
    said["training"] = [c.token_ids for c in trainer.sampler.policy.complete([e.history for e in episodes()])]
    return said


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return outcome(Path(resolve("tiny-base")), tmp_path_factory.mktemp("usual"))


HOSTILE: dict[str, Any] = {
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 5.0,
    "top_k": 1,
    "top_p": 0.01,
    "min_p": 0.99,
    "top_h": 0.01,
    "typical_p": 0.01,
    "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9,
    "temperature": 0.01,
    "suppress_tokens": list(range(6, 500)),
    "begin_suppress_tokens": list(range(6, 500)),
    "forced_bos_token_id": 300,
    "forced_eos_token_id": 300,
    "sequence_bias": [[[300], 100.0]],
    "bad_words_ids": [[i] for i in range(6, 500)],
    "min_length": 4000,
    "min_new_tokens": 6,
    "max_length": 1,
    "max_new_tokens": 1,
    "max_time": 1e-9,
    "stop_strings": ["e", "a", "r", "<"],
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": [0, 100.0],
    "length_penalty": -100.0,
    "diversity_penalty": 5.0,
    "guidance_scale": 9.0,
    "num_beams": 3,
    "num_beam_groups": 3,
    "num_return_sequences": 2,
    "do_sample": True,
    "cache_implementation": "static",
    "cache_config": {"backend": "quanto"},
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 100.0},
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "num_assistant_tokens": 5,
    "compile_config": {"mode": "reduce-overhead"},
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "constraints": [[1]],
    "force_words_ids": [[300]],
    "early_stopping": "never",
    "speculation_type": "dflash",
    "decoder_start_token_id": 300,
    "continuous_batching_config": {},
    "use_cache": False,
    "transformers_version": "0.0.1",
}
"""Values of fields of transformers' GenerationConfig that would be noticed; others get one of no meaning."""
IDS = ("eos_token_id", "pad_token_id", "bos_token_id")
FIELDS = sorted(f for f in {*vars(GenerationConfig()), "custom_generate", "a_field_of_tomorrow"} - {*IDS} if f[0] != "_")
DANGEROUS = (
    "repetition_penalty top_k temperature suppress_tokens forced_bos_token_id min_new_tokens num_beams max_length stop_strings "
    "no_repeat_ngram_size cache_implementation assistant_early_exit bad_words_ids num_return_sequences return_dict_in_generate"
).split()


@pytest.mark.parametrize(
    "field, file",
    [
        pytest.param(field, file, marks=() if field in DANGEROUS and file == "generation_config.json" else pytest.mark.slow)
        for field in FIELDS
        for file in ("generation_config.json", "config.json")
    ],
)
def test_a_hostile_setting_of_generation_has_no_effect(field, file, tmp_path, usual):
    folder = copied(tmp_path / "model")
    change(folder / file, **{field: HOSTILE.get(field, True)})
    assert outcome(folder, tmp_path / "out") == usual


def test_fields_with_a_hostile_value_are_fields():
    assert set(DANGEROUS) | set(HOSTILE) <= set(FIELDS)


def test_hostile_settings_of_the_architectures_file_have_no_effect(tmp_path, usual):
    folder = copied(tmp_path / "model")
    hostile = {field: HOSTILE.get(field, True) for field in DANGEROUS}
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", **hostile, text_config=text | hostile)
    (folder / "generation_config.json").unlink()  # transformers would take them from there
    assert outcome(folder, tmp_path / "out") == usual


@pytest.mark.parametrize(
    "ids, message",
    [
        ({"eos_token_id": 512}, "eos_token_id 512 is none of the 512 tokens of the vocabulary"),
        ({"eos_token_id": [2, -1]}, "eos_token_id -1 is none of the 512 tokens"),
        ({"eos_token_id": [2, [0]]}, r"eos_token_id \[0\] is none of the 512 tokens"),
        ({"eos_token_id": "2"}, "eos_token_id '2' is none of the 512 tokens"),
        ({"eos_token_id": True}, "eos_token_id True is none of the 512 tokens"),
        (
            {"eos_token_id": [2, 300]},
            r"eos_token_id 300 does not end a turn of ChatML; 0 \(<\|endoftext\|>\), 2",
        ),
        ({"pad_token_id": 10**9}, "pad_token_id 1000000000 is none of the 512 tokens"),
        ({"pad_token_id": [0]}, r"pad_token_id \[0\] is none of the 512 tokens"),
        ({"bos_token_id": 2.5}, "bos_token_id 2.5 is none of the 512 tokens"),
    ],
)
def test_ids_of_special_tokens_that_cannot_be_are_refused(tmp_path, ids, message):
    folder = copied(tmp_path / "model")
    change(folder / "generation_config.json", **ids)
    with pytest.raises(ModelError, match=f"model {folder}: generation_config.json: {message}"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("ids", [{"eos_token_id": 2}, {"eos_token_id": None}, {"pad_token_id": None}, {"bos_token_id": 1}])
def test_turns_end_alike_in_training_and_inference(tmp_path, usual, ids):
    folder = copied(tmp_path / "model")
    change(folder / "generation_config.json", **ids)
    assert outcome(folder, tmp_path / "out") == usual


def test_what_is_trained_is_saved_with_its_ids_and_nothing_else(tmp_path):
    folder = copied(tmp_path / "model")
    change(folder / "generation_config.json", **{field: HOSTILE.get(field, True) for field in DANGEROUS}, bos_token_id=1)
    train(small(tmp_path / "run", model=str(folder), steps=1, save_steps=1), synth.suite(4, split="train"))
    for written in ("checkpoint-1", "final"):
        ids = json.loads((tmp_path / "run" / written / "generation_config.json").read_text())
        ids.pop("transformers_version")
        assert ids == {"eos_token_id": [0, 2], "pad_token_id": 0, "bos_token_id": 1}
        config = json.loads((tmp_path / "run" / written / "config.json").read_text())
        assert {*FIELDS} & {*config} <= {"use_cache", "transformers_version"}


def test_layers_without_a_place_in_the_architecture_are_refused(tmp_path):
    folder = copied(tmp_path / "model")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config=text | {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2})
    with pytest.raises(ModelError, match=r"model.language_model.layers.2.\S+ is in the weights and has no place"):
        open_checkpoint(str(folder))


STEERING: dict[str, Any] = {
    "return_dict": False,
    "use_return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "torchscript": True,
    "use_cache": False,
    "_attn_implementation": "flash_attention_2",
    "attn_implementation": "flash_attention_2",
    "experts_implementation": "x",
    "pruned_heads": {"0": [0]},
    "gradient_checkpointing": True,
    "chunk_size_feed_forward": 1,
    "is_encoder_decoder": True,
    "is_decoder": True,
    "problem_type": "regression",
    "id2label": {"0": "a"},
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModelForImageTextToText": "evil.Evil"},
    "_name_or_path": "/nowhere",
    "dtype": "bfloat16",
    "a_field_of_tomorrow": True,
}
"""Fields of config.json that say how a model is run or what it returns, not what it is."""


def test_settings_of_running_a_model_have_no_effect(tmp_path, usual):
    folder = copied(tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    parts = {part: record[part] | STEERING for part in ("text_config", "vision_config")}
    change(folder / "config.json", **STEERING, **parts)
    assert outcome(folder, tmp_path / "out") == usual


@pytest.mark.parametrize("field", STEERING)
def test_a_setting_of_running_a_model_has_no_effect_alone(tmp_path, field):
    folder = copied(tmp_path / "model")
    usual = checkpoint_files.read_config("m", str(folder)).to_dict()
    change(folder / "config.json", **{field: STEERING[field]})
    said = checkpoint_files.read_config("m", str(folder)).to_dict()
    assert {key for key in said | usual if said.get(key) != usual.get(key)} <= {field} & {"dtype"}


@pytest.mark.parametrize(
    "part, changes, message",
    [
        ("text_config", None, "text_config is missing"),
        ("vision_config", None, "vision_config is missing"),
        (
            "text_config",
            {},
            "text_config lacks vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads",
        ),
        ("vision_config", {}, "vision_config lacks depth, hidden_size, num_heads"),
        ("text_config", {"rope_parameters": None}, "a model of this architecture cannot be run (split_with_sizes expects"),
        (
            "text_config",
            {"rope_scaling": {"type": "linear", "factor": 8.0}},
            "a model of this architecture cannot be run (split_with_sizes expects",
        ),
        (
            "text_config",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]}},
            "a model of this architecture cannot be run (split_with_sizes expects",
        ),
        ("text_config", {"layer_types": ["sliding_attention"] * 3}, "a model of this architecture cannot be run ("),
        ("text_config", {"vocab_size": 600}, "lm_head.weight would be [600, 160], and is [512, 160] in the weights"),
        (
            "vision_config",
            {"in_channels": 4},
            "model.visual.patch_embed.proj.weight would be [128, 4, 2, 14, 14], and is [128, 3, 2, 14, 14] in the weights",
        ),
    ],
)
def test_an_architecture_that_cannot_be_is_refused_in_one_line(tmp_path, caplog, capfd, part, changes, message):
    folder = copied(tmp_path / "model", "tiny")
    record = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", **{part: record[part] | changes if changes else changes})
    with pytest.raises(ModelError) as refused:
        open_checkpoint(str(folder))
    assert str(refused.value).startswith(f"model {folder}: config.json: {message}") and "\n" not in str(refused.value)
    assert "LOAD REPORT" not in caplog.text + "".join(capfd.readouterr())


def test_a_flat_file_of_an_architecture_is_read(tmp_path, usual):
    folder = copied(tmp_path / "model")
    record = json.loads((folder / "config.json").read_text())
    text = record.pop("text_config")
    (folder / "config.json").write_text(json.dumps({**text, **record}))
    assert outcome(folder, tmp_path / "out") == usual


def test_trying_a_model_out_leaves_nothing_in_it():
    assert open_checkpoint("tiny-base").model.model.rope_deltas is None


def test_files_of_different_models_are_refused_without_their_weights(tmp_path):
    folder = copied(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert describe(str(folder)).budget.max_pixels == 12544
    change(folder / "preprocessor_config.json", temporal_patch_size=1)
    message = "temporal_patch_size is 1 in the image processor and 2 in config.json"
    with pytest.raises(ModelError, match=message):
        describe(str(folder))
    with pytest.raises(ModelError, match=message):  # before anything is asked of the endpoint
        visionthink.load("http://127.0.0.1:9/v1#m", checkpoint=str(folder))
    change(folder / "preprocessor_config.json", temporal_patch_size=2)
    change(folder / "config.json", image_token_id=6)
    with pytest.raises(ModelError, match=r"<\|image_pad\|> is 5 in the tokenizer and 6 in config.json"):
        describe(str(folder))


@pytest.mark.parametrize("settings", ["{}", '{"dialect": "agent"}', '{"boundary": "chatml"}'])
def test_a_protocol_that_is_not_said_is_agent_in_chatml(tmp_path, settings):
    (tmp_path / "visionthink.json").write_text(settings)
    protocol = checkpoint_files.read_protocol("m", str(tmp_path))
    assert (protocol.dialect, protocol.boundary) == ("agent", "chatml")


# ------------------------------------------------------------------------------------------------ special tokens


def called_special(folder: Path, *tokens: str) -> None:
    """As a fine-tune does that registers `tokens`: in both files that hold what is special."""
    file = folder / "tokenizer.json"
    record = json.loads(file.read_text())
    for token in tokens:
        [known] = [t for t in record["added_tokens"] if t["content"] == token] or [
            {"id": record["model"]["vocab"][token], "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        ]
        record["added_tokens"] = [t for t in record["added_tokens"] if t["content"] != token]
        record["added_tokens"].append(known | {"normalized": False, "special": True})
    record["added_tokens"].sort(key=lambda token: token["id"])
    file.write_text(json.dumps(record))
    change(folder / "tokenizer_config.json", extra_special_tokens=[*tokens])


def test_a_special_token_that_is_text_stays_in_what_was_said(tmp_path):
    folder = copied(tmp_path / "model", "tiny")
    called_special(folder, "4", "<tool_call>")
    tokenizer = checkpoint_files.read("m", str(folder)).tokenizer
    assert tokenizer.decode([26, 498, 25], skip_special_tokens=True) == "3"  # what transformers leaves of it
    assert Renderer(tokenizer).decode([26, 498, 25]) == "4<tool_call>3"
    assert Renderer(tokenizer).decode([1, 3, 5, 6, 4, 26, 2, 0]) == "4"


@pytest.mark.parametrize("field", ["extra_special_tokens", "cls_token", "added_tokens_decoder"])
def test_an_answer_that_is_a_special_token_is_an_answer(tmp_path, field):
    folder = copied(tmp_path / "model", "tiny")
    value = {"extra_special_tokens": ["4"], "cls_token": "4", "added_tokens_decoder": {"26": {"content": "4", "special": True}}}
    change(folder / "tokenizer_config.json", **{field: value[field]})
    [transcript] = visionthink.load(str(folder), max_new_tokens=24).run([EXAMPLES[1]])
    assert transcript.turns[-1].text == "<answer>4</answer>" and transcript.answer == "4"


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    folder = copied(tmp_path / "model")
    change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    with pytest.raises(ModelError, match=f"model {folder}: tokenizer.json, tokenizer_config.json: cannot be used"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eos_token": "4"}, 'eos_token "4" does not end a turn of ChatML; Qwen-VL has "<|im_end|>"'),
        ({"eos_token": None}, 'eos_token is missing; Qwen-VL has "<|im_end|>"'),
        ({"pad_token": "4"}, 'pad_token "4" is text that a model can say; Qwen-VL has "<|endoftext|>"'),
        ({"pad_token": "<answer>"}, 'pad_token "<answer>" is text that a model can say; Qwen-VL has "<|endoftext|>"'),
        ({"bos_token": "4"}, 'bos_token "4" is text that a model can say; Qwen-VL has none'),
        ({"unk_token": "4"}, 'unk_token "4" is text that a model can say; Qwen-VL has none'),
    ],
)
def test_a_control_token_that_is_text_is_refused(tmp_path, changes, message):
    folder = copied(tmp_path / "model")
    change(folder / "tokenizer_config.json", **changes)
    with pytest.raises(ModelError) as refused:
        open_checkpoint(str(folder))
    assert str(refused.value) == f"model {folder}: tokenizer_config.json: {message}"


# ------------------------------------------------------------------------------------------------ image processor

USUAL = (28, 784, 12544)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"min_pixels": 784, "max_pixels": 12544}},
        {"size": {"min_pixels": 784, "max_pixels": 12544}, "min_pixels": 784, "max_pixels": 12544},
        {"size": {"shortest_edge": 784, "longest_edge": 12544, "height": None, "max_height": None}},
        {"size": None, "min_pixels": 784, "max_pixels": 12544},
        {"size": {}, "min_pixels": 784, "max_pixels": 12544},
        {"size": {"shortest_edge": 784}, "max_pixels": 12544},
        {"temporal_patch_size": None},
        {"merge_size": None, "patch_size": None},
        {"image_processor_type": "Qwen2VLImageProcessorFast", "crop_size": None, "device": None, "do_center_crop": None},
        {"image_processor_type": None},
    ],
)
@pytest.mark.parametrize("nested", [False, True], ids=["preprocessor_config.json", "processor_config.json"])
def test_limits_on_pixels_are_understood_under_all_their_names(tmp_path, changes, nested):
    file = tmp_path / "preprocessor_config.json"
    file.write_text((Path(resolve("tiny")) / file.name).read_text())
    change(file, **changes)
    if nested:
        record = json.loads(file.read_text())
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": record, "processor_class": "x"}))
        file.write_text("{}")  # as in transformers, the newer file counts
    processor = checkpoint_files.read_image_processor("m", str(tmp_path))
    budget = checkpoint_files.pixel_budget(processor)
    assert (budget.factor, budget.min_pixels, budget.max_pixels) == USUAL and processor.temporal_patch_size == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": {"height": 224, "width": 224}}, "size has height, width: expected shortest_edge and longest_edge"),
        ({"size": 224}, "size 224: expected shortest_edge and longest_edge"),
        ({"size": {"shortest_edge": 784}}, r"size lacks longest_edge \(older name: max_pixels\)"),
        ({"size": {}}, r"size lacks shortest_edge and longest_edge \(older name: min_pixels and max_pixels\)"),
        ({"size": None, "min_pixels": 784}, r"size lacks longest_edge"),
        ({"max_pixels": 1003520}, "size.longest_edge 12544 and max_pixels 1003520 disagree"),
        (
            {"size": {"shortest_edge": 784, "min_pixels": 3136, "longest_edge": 12544}},
            "size.shortest_edge 784 and size",
        ),
        (
            {"size": {"shortest_edge": 12545, "longest_edge": 12544}},
            "size .* leaves no pixels: shortest_edge is above",
        ),
        ({"size": {"shortest_edge": 0, "longest_edge": 12544}}, "size.shortest_edge 0: expected a whole number of at least 1"),
        ({"size": {"shortest_edge": "784", "longest_edge": 12544}}, "size.shortest_edge '784': expected a whole number"),
        ({"patch_size": 14.0}, "patch_size 14.0: expected a whole number"),
        ({"merge_size": True}, "merge_size True: expected a whole number"),
        ({"do_resize": False}, "do_resize False: images must be resized"),
        ({"do_normalize": "no"}, "do_normalize 'no': expected true or false"),
        ({"resample": 9}, "resample 9: not a filter of Pillow"),
        ({"rescale_factor": 0}, "rescale_factor 0: expected a number above 0"),
        ({"image_mean": 0.5}, "image_mean 0.5: expected three numbers"),
        ({"image_std": [0, 1, 1]}, "image_std 0: expected a number above 0"),
        (
            {"image_processor_type": "CLIPImageProcessor"},
            "image_processor_type CLIPImageProcessor: not an image",
        ),
    ],
)
def test_an_image_processor_that_cannot_be_understood_is_refused(tmp_path, changes, message):
    file = tmp_path / "preprocessor_config.json"
    file.write_text((Path(resolve("tiny")) / file.name).read_text())
    change(file, **changes)
    with pytest.raises(ModelError, match=f"model m: preprocessor_config.json: {message}"):
        checkpoint_files.read_image_processor("m", str(tmp_path))


def test_a_processor_file_without_an_image_processor_does_not_stand_for_one(tmp_path):
    folder = copied(tmp_path / "model")
    (folder / "preprocessor_config.json").rename(folder / "processor_config.json")
    with pytest.raises(ModelError, match=r"preprocessor_config.json is missing"):
        open_checkpoint(str(folder))


def test_limits_on_pixels_beside_the_image_processor_are_refused(tmp_path):
    folder = copied(tmp_path / "model")
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor", "max_pixels": 3136}')
    message = "processor_config.json: max_pixels is outside of image_processor and would not be read"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(str(folder))


def test_a_checkpoint_with_older_names_answers_alike(tmp_path, usual):
    folder = copied(tmp_path / "model")
    change(folder / "preprocessor_config.json", size={"min_pixels": 784, "max_pixels": 12544}, temporal_patch_size=None)
    assert outcome(folder, tmp_path / "out") == usual
    change(folder / "preprocessor_config.json", temporal_patch_size=1)
    with pytest.raises(ModelError, match=r"temporal_patch_size is 1 in the image processor and 2 in config.json"):
        open_checkpoint(str(folder))


# ------------------------------------------------------------------------------------------------ any content

BY_PART = {
    "config.json": "is not supported",  # the model's name says which
    "preprocessor_config.json": "in the image processor and",
    "tokenizer_config.json": "the tokenizer has no",
    "generation_config.json": "generation_config.json",
    "visionthink.json": "visionthink.json",
}
"""Other ways than by its name to say which file is meant."""
TEXT, TEXT_IDS = "How many shapes?\n<tool_call>", [385, 439, 440, 37, 205, 498]
FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json", "visionthink.json")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([14, 28, 10**12, 2.5, 1e400, float("nan"), "x", "right", [], [None], [0.5] * 3, {}, {"shortest_edge": 1}]),
)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of the checkpoint, and other content for it."""
    file = draw(st.sampled_from(FILES))
    record = json.loads((Path(resolve("tiny-base")) / file).read_text())
    kind = draw(st.sampled_from(["value", "without", "more", "cut", "bytes"]))
    text = json.dumps(record)
    if kind == "bytes":
        return file, draw(st.sampled_from([b"", b"[]", b"null", b"1", b"\xff{", b"{" * 9, b"[" * 99_999, b'{"a": 1} {}']))
    if kind == "cut":
        return file, text[: draw(st.integers(0, len(text) - 1))].encode()
    if kind == "more":
        record[draw(st.sampled_from([*FIELDS, "auto_map", "quantisation"]))] = draw(VALUES)
        return file, json.dumps(record).encode()
    record, parent, last = copied_at(record, draw(st.sampled_from(places(record))))
    if kind == "without":
        del parent[last]
    else:
        parent[last] = draw(VALUES)
    return file, json.dumps(record).encode()


@pytest.fixture(scope="module")
def mutated(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("mutated") / "model")


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutation=mutations())
@example(mutation=("generation_config.json", b"[1, 2]"))
@example(mutation=("config.json", b'{"model_type": ["qwen2_5_vl"]}'))
def test_files_with_any_content_are_read_whole_or_refused_by_name(mutated, mutation):
    """Everything that is read before the weights. Of config.json only what no model can be is known to be wrong."""
    file, content = mutation
    usual = (mutated / file).read_bytes()
    (mutated / file).write_bytes(content)
    name, path = "m", str(mutated)
    try:
        parts = checkpoint_files.read(name, path)
    except ModelError as error:
        said = str(error)
        assert said.startswith("model m: ") and len(said) < 500 and (file in said or BY_PART[file] in said)
        return
    finally:
        (mutated / file).write_bytes(usual)
    assert {k for k, v in parts.generation.to_dict().items() if v is not None} <= {*IDS, "transformers_version"}
    assert parts.generation.eos_token_id == [0, 2]
    if file != "config.json":
        assert parts.tokenizer(TEXT, add_special_tokens=False, split_special_tokens=True)["input_ids"] == TEXT_IDS
        assert Renderer(parts.tokenizer).decode([1, *TEXT_IDS, 2, 0]) == TEXT
    if file not in ("config.json", "preprocessor_config.json"):
        assert parts.budget.max_pixels == 12544
    if file != "visionthink.json":
        assert (parts.protocol.dialect, parts.protocol.boundary) == ("compact", "chatml")


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "it"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with pytest.raises(StorageError, match=r"it: cannot be written \(no space\)"), replace_folder(folder) as partial:
        (partial / "new.txt").write_text("half")
        raise OSError("no space")
    assert [path.name for path in tmp_path.rglob("*")] == ["it", "old.txt"]
    with replace_folder(folder) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "new.txt").write_text("whole")
        (partial / "inner" / "new.txt").chmod(0o600)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inner", "it", "new.txt"]
    assert (folder / "inner" / "new.txt").stat().st_mode & 0o777 == 0o644
