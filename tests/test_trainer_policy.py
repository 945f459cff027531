"""The model under training as a policy, and what it leaves behind: memory, precision, and processes that generate together."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from scripted import speak
from training import rollout_batch, small

from visionthink.cli import main
from visionthink.data import synth
from visionthink.engine.checkpoints import naming
from visionthink.engine.sampling import Streams
from visionthink.errors import ModelError
from visionthink.policies import memory
from visionthink.policies.render import Renderer
from visionthink.train.checks import refuse_distribution
from visionthink.train.precision import loaded_dtype, saved_dtype
from visionthink.train.processes import Distribution, distribution
from visionthink.train.saving import merged
from visionthink.train.together import TogetherPolicy
from visionthink.train.trainer import make_trainer
from visionthink.train.vllm import Sampled


def history(trainer) -> list:
    source = trainer.sampler.source
    [episode] = source.episodes(trainer.example_ids[0], 1)
    return episode.history


def saying_how_many(trainer, most: int = 1000) -> list[int]:
    """The rows of each call to `generate`, which runs out of memory above `most`; each row is answered by its number there."""
    calls: list[int] = []
    renderer = Renderer(trainer.checkpoint.tokenizer)

    def generate(input_ids, **_):
        if len(input_ids) > most:
            raise torch.OutOfMemoryError
        calls.append(len(input_ids))
        said = torch.tensor([[*renderer.plain(str(i % 10)), renderer.end_id] for i in range(len(input_ids))])
        return torch.cat([input_ids, said], 1)

    trainer.model.generate = generate
    return calls


# ------------------------------------------------------------------------------------------------ memory


def test_generation_is_split_by_what_fits(tmp_path, monkeypatch):
    trainer = make_trainer(small(tmp_path, share="off"), synth.suite(8, split="train"))
    calls = saying_how_many(trainer)
    asked = history(trainer)
    per_token = memory.bytes_per_token(trainer.model.config, 4)
    longest = len(trainer.sampler.policy.renderer.prompt_ids(asked)) + 8
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(3 * longest * per_token / 0.6) + 1)
    said = [c.text for c in trainer.sampler.policy.complete([asked] * 8)]
    assert calls == [3, 3, 2]
    assert said == ["0", "1", "2", "0", "1", "2", "0", "1"]


def test_generation_is_halved_where_memory_runs_out(tmp_path):
    trainer = make_trainer(small(tmp_path, share="off", gradient_checkpointing=True), synth.suite(8, split="train"))
    trainer.model.gradient_checkpointing_enable()  # as training does when it begins
    calls = saying_how_many(trainer, most=2)
    asked = history(trainer)
    assert [c.text for c in trainer.sampler.policy.complete([asked] * 6)] == ["0", "0", "1", "0", "0", "1"]
    assert calls == [1, 2, 1, 2]
    assert trainer.model.is_gradient_checkpointing
    saying_how_many(trainer, most=0)
    [failed] = trainer.sampler.policy.complete([asked])
    assert failed.error is not None and failed.error.kind == "out_of_memory"


def test_all_of_a_small_models_rollouts_are_generated_at_once(tmp_path):
    trainer = make_trainer(small(tmp_path, share="off"), synth.suite(8, split="train"))
    calls = saying_how_many(trainer)
    trainer.sampler.policy.complete([history(trainer)] * 100)
    assert calls == [100]


def test_shared_generation_is_halved_where_memory_runs_out(tmp_path):
    trainer = make_trainer(small(tmp_path), synth.suite(8, split="train"))
    trainer.model.train()
    complete, calls = trainer.engine.complete, []

    def limited(prompts, *given, **named):
        calls.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return complete(prompts, *given, **named)

    trainer.engine.complete = limited
    asked = history(trainer)
    said = trainer.sampler.policy.complete([asked] * 6)
    assert calls == [6, 3, 1, 2, 3, 1, 2] and trainer.model.training
    trainer.streams = Streams("0")
    trainer.engine.complete = complete
    assert [c.token_ids for c in trainer.sampler.policy.complete([asked] * 6)] == [c.token_ids for c in said]


# ------------------------------------------------------------------------------------------------ precision


def test_generation_has_the_precision_of_training(tmp_path, monkeypatch):
    """An adapter is in float32; without autocast it would be computed so."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    trainer = make_trainer(small(tmp_path, lora_rank=4), synth.suite(8, split="train"))
    kinds = set()
    for name, module in trainer.model.named_modules():
        if "lora_B" in name and isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, output: kinds.add(output.dtype))
    trainer.sampler.policy.complete([history(trainer)])
    assert kinds == {torch.bfloat16}


GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    "lora_rank, spread, device, loaded, saved",
    [
        (0, Distribution(processes=1), CPU, torch.float32, None),
        (0, Distribution(processes=1), GPU, torch.float32, torch.bfloat16),
        (0, Distribution(processes=8), GPU, torch.float32, torch.bfloat16),
        (0, Distribution(processes=8, deepspeed=True, zero_stage=2), GPU, torch.bfloat16, torch.bfloat16),
        (0, Distribution(processes=8, deepspeed=True, zero_stage=3), GPU, torch.bfloat16, torch.bfloat16),
        (0, Distribution(processes=8, fsdp=2), GPU, torch.bfloat16, torch.bfloat16),
        (0, Distribution(processes=8, fsdp=2), CPU, torch.float32, None),
        (8, Distribution(processes=1), GPU, torch.bfloat16, torch.float32),
        (8, Distribution(processes=1), CPU, torch.float32, torch.float32),
    ],
)
def test_precision_of_weights(tmp_path, lora_rank, spread, device, loaded, saved):
    """Loaded in half where nothing is lost, saved as they were computed with."""
    config = small(tmp_path, lora_rank=lora_rank)
    assert loaded_dtype(config, spread, device) == loaded
    assert saved_dtype(config, device) == saved


def test_a_small_adapter_survives_its_merging():
    """In bfloat16 most of it would be rounded away."""
    torch.manual_seed(0)
    base = torch.randn(64, 64).bfloat16()
    down, up = torch.randn(4, 64), 1e-5 * torch.randn(64, 4)
    prefix = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    state = {
        f"{prefix}.base_layer.weight": base,
        f"{prefix}.base_layer.bias": torch.ones(64).bfloat16(),
        f"{prefix}.lora_A.default.weight": down,
        f"{prefix}.lora_B.default.weight": up,
        "base_model.model.lm_head.weight": base,
    }
    own = "model.language_model.layers.0.self_attn.q_proj"
    weights = dict(merged(state, SimpleNamespace(lora_alpha=8, r=4)))
    assert weights.keys() == {f"{own}.weight", f"{own}.bias", "lm_head.weight"}
    assert {value.dtype for value in weights.values()} == {torch.float32}
    delta = 2 * up @ down
    assert float((weights[f"{own}.weight"] - base.float() - delta).abs().max()) < 1e-6
    assert float(((base + delta.bfloat16()).float() - base.float() - delta).abs().max()) > 1e-5  # what PEFT does to such a base


# ------------------------------------------------------------------------------------------------ several processes


def test_what_no_run_can_use_is_refused_before_a_model_is_opened(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert main(["train", "tiny", "--model", "./nowhere", "--out", str(tmp_path / "run")]) == 2
    assert "error: DeepSpeed at stage 3 would not gather the weights that are saved: set zero3_save_16bit_model: true" in (
        capsys.readouterr().err
    )
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert distribution() == Distribution(processes=1, deepspeed=True, zero_stage=3)
    assert main(["train", "tiny", "--model", "./nowhere", "--out", str(tmp_path / "run")]) == 2
    assert "error: model ./nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fsdp, loads_once, message",
    [("1", "false", "set fsdp_version: 2"), ("2", "true", "fsdp_cpu_ram_efficient_loading: every process reads the weights")],
)
def test_what_no_run_can_use_of_fsdp_is_refused(tmp_path, monkeypatch, capsys, fsdp, loads_once, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", fsdp)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", loads_once)
    assert main(["train", "tiny", "--model", "./nowhere", "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("spread", [{"deepspeed": True, "zero_stage": 3}, {"fsdp": 2}])
def test_split_weights_are_not_refused(spread):
    refuse_distribution(Distribution(processes=8, **spread))


def test_one_engine_for_all_gets_equally_many_prompts_of_each_process(tmp_path):
    """TRL cuts what a vLLM server says by the number of a process's own prompts. No server here: what it would be sent."""
    trainer = make_trainer(small(tmp_path), synth.suite(8, split="train"))
    waiting, sent = [3, 0], []

    def sample(prompts, shown, banned):
        sent.append([(len(row), len(views)) for row, views in zip(prompts, shown, strict=True)])
        return [Sampled((7,), (-0.5,))] * len(prompts)

    policy = TogetherPolicy(
        trainer, trainer.sampler.policy.renderer, trainer.checkpoint.image_processor, trainer.checkpoint.budget
    )
    policy.vllm = SimpleNamespace(context=4096, sample=sample)
    asked = history(trainer)
    length, padding = len(policy.renderer.prompt_ids(asked)), len(policy._padding_ids)
    trainer.use_vllm = True
    trainer.accelerator.gather = lambda mine: torch.tensor([int(mine), waiting.pop(0)])
    assert [c.token_ids for c in policy.complete([asked])] == [(7,)]
    assert sent == [[(length, 1), (padding, 1), (padding, 1)]]
    policy.run_batch([], policy)
    assert waiting == [] and len(sent) == 1


# ------------------------------------------------------------------------------------------------ failures


def test_the_images_of_a_turn_that_failed_are_not_trained_with(tmp_path):
    """Its visual tokens are not among the ids; TRL would drop the images of all rollouts of the process."""
    trainer = make_trainer(small(tmp_path, share="off", group_size=2, prompts_per_step=2), synth.suite(2, split="train"))
    protocol, context = trainer.checkpoint.protocol, trainer.model.config.get_text_config()
    context.max_position_embeddings = 100

    def reply(question, turn, member):
        return ("x" * 100 if member else "") + protocol.request() if turn == 0 else "<answer>1</answer>"

    speak(trainer, reply)
    inputs = rollout_batch(trainer)
    assert {t.stop_reason.value for t in trainer.transcripts()} == {"answered_after_request", "policy_error"}
    assert sorted(inputs["num_images"]) == [1, 1, 2, 2]
    assert "pixel_values" in inputs


def test_examples_whose_first_turn_fails_do_not_end_the_run(tmp_path):
    """They have no ids, and TRL cannot do without."""
    examples = synth.suite(2, split="train")
    examples[1] = dataclasses.replace(examples[1], question="x" * 100)
    trainer = make_trainer(small(tmp_path, steps=1, prompts_per_step=2, shuffle=False), examples)
    trainer.model.config.get_text_config().max_position_embeddings = 90
    trainer.train()
    failed = trainer.step.rollouts[4:]
    assert [r.transcript.stop_reason.value for r in failed] == ["policy_error"] * 4
    assert [(sum(r.loss_mask), r.score.total) for r in failed] == [(0, None)] * 4
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), torch.distributed.DistBackendError("NCCL error"), MemoryError()]
)
def test_what_is_not_a_files_fault_is_not_called_damaged(error):
    with pytest.raises(type(error)), naming("checkpoint-2"):
        raise error
    with pytest.raises(ModelError, match="checkpoint-2: damaged"), naming("checkpoint-2"):
        raise RuntimeError("PytorchStreamReader failed reading zip archive")
