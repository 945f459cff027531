"""Settings of TRL that a run is given beside its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from training import small

from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.train import trl_options
from visionthink.train.config import TrainConfig
from visionthink.train.run import train


def trl(config: TrainConfig):
    return config.to_trl(processes=1, on_cpu=True, bridge_tokens=0, longest=99, never_sampled=[])


@pytest.mark.parametrize(
    "given, value",
    [
        ({"top_p": "0.9"}, 0.9),
        ({"top_k": "20"}, 20),
        ({"top_p": 1}, 1),
        ({"delta": "none"}, None),
        ({"use_liger_kernel": "TRUE"}, True),
        ({"pad_to_multiple_of": "64"}, 64),
        ({"pad_to_multiple_of": "auto"}, "auto"),
        ({"optim": "adamw_torch"}, "adamw_torch"),
        ({"liger_kernel_config": '{"rope": false}'}, {"rope": False}),
        ({"vllm_server_base_url": "http://a:1"}, "http://a:1"),
        ({"vllm_gpu_memory_utilization": "0.5"}, 0.5),
    ],
)
def test_a_value_has_the_type_that_trl_declares(given, value):
    [(name, found)] = trl_options.checked(given, vllm=True).items()
    assert (name, found, type(found)) == (next(iter(given)), value, type(value))
    assert trl_options.checked({name: found}, vllm=True) == {name: value}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"vllm_gpu_memory_utilisation": "0.5"}, "has no such setting; did you mean vllm_gpu_memory_utilization?"),
        ({"nonsense": "1"}, "--trl nonsense: TRL's GRPOConfig has no such setting"),
        ({"learning_rate": "1"}, "--trl learning_rate: use --learning-rate"),
        ({"num_generations": "4"}, "--trl num_generations: use --group-size"),
        ({"use_vllm": "true"}, "--trl use_vllm: use --vllm"),
        ({"mask_truncated_completions": "true"}, "--trl mask_truncated_completions: use --exclude truncated"),
        ({"remove_unused_columns": "true"}, "what the model reads is the episode's"),
        ({"generation_kwargs": "{}"}, "holds the ids that are never sampled; top_p, top_k, min_p"),
        ({"deepspeed": "a.json"}, "--launch"),
        ({"top_k": "1.5"}, "--trl top_k=1.5: expected an integer"),
        ({"top_p": "nan"}, "--trl top_p=nan: expected a number"),
        ({"top_p": True}, "--trl top_p=True: expected a number"),
        ({"use_liger_kernel": "yes"}, "--trl use_liger_kernel=yes: expected true or false"),
        ({"optim": "adam"}, "--trl optim=adam: expected adamw_torch, "),
        ({"liger_kernel_config": "{"}, "expected a JSON object, none"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_remedy(given, message):
    with pytest.raises(OptionError) as error:
        TrainConfig(trl=given)
    assert message in str(error.value)


def test_a_setting_of_vllm_needs_vllm():
    with pytest.raises(OptionError, match="--trl vllm_enable_sleep_mode: has no effect without vLLM; use --vllm colocate"):
        TrainConfig(trl={"vllm_enable_sleep_mode": "true"})


def test_every_setting_that_follows_from_ours_is_refused():
    """What is left are the constants of Eq. 3 and of a run's files, which a user may change."""
    fields = {field.name for field in dataclasses.fields(trl(TrainConfig()))}
    assert trl_options._REFUSED.keys() <= fields
    one, other = (
        TrainConfig(),
        TrainConfig(
            out=Path("elsewhere"),
            steps=7,
            prompts_per_step=4,
            group_size=6,
            updates_per_step=2,
            micro_batch=1,
            max_new_tokens=5,
            temperature=0.7,
            clip_eps=0.1,
            kl_coef=0.0,
            entropy_coef=0.1,
            learning_rate=1e-3,
            lr_schedule="linear",
            warmup_steps=3,
            seed=5,
            save_steps=3,
            gradient_checkpointing=True,
        ),
    )
    a, b = vars(trl(one)), vars(trl(other))
    changed = {name for name in fields if a[name] != b[name]}
    assert len(changed) > 15 and changed <= trl_options._REFUSED.keys()


def test_a_setting_reaches_trl_and_its_own_check_is_one_line():
    assert trl(TrainConfig(trl={"top_k": "20", "max_grad_norm": "0.2"})).top_k == 20
    assert trl(TrainConfig(trl={"max_grad_norm": "0.2"})).max_grad_norm == 0.2
    assert trl(TrainConfig()).max_grad_norm == 1.0
    with pytest.raises(OptionError, match=r"^--trl top_k=20 dataloader_prefetch_factor=3: \S+"):
        trl(TrainConfig(trl={"top_k": "20", "dataloader_prefetch_factor": "3"}))


def test_what_vllm_sampled_is_weighted_token_by_token():
    """A mask over sequences, which is TRL's choice, leaves out whole answers of two turns."""
    assert trl(TrainConfig()).vllm_importance_sampling_mode == "token_truncate"


def test_settings_are_stored_and_compared(tmp_path, capsys):
    out, examples = tmp_path / "run", synth.suite(8, split="train")
    train(small(out, steps=1, save_steps=1, trl={"top_k": "20"}), examples)
    assert json.loads((out / "config.json").read_text())["trl"] == {"top_k": 20}
    with pytest.raises(OptionError, match=r"--resume: trl was \{'top_k': 20\} in \S+ and is \{'top_k': 21\} now"):
        train(small(out, steps=2, save_steps=1, trl={"top_k": "21"}, resume=True), examples)
    train(small(out, steps=2, save_steps=1, trl={"top_k": 20}, resume=True), examples)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--trl", "top_k"], "argument --trl: 'top_k': expected KEY=VALUE; see visionthink train --help"),
        (["--trl", "beta=1"], "--trl beta: use --kl-coef"),
        (["--trl", "top_p=0.9", "--trl", "top_k=x"], "--trl top_k=x: expected an integer"),
    ],
)
def test_the_option_is_checked_before_a_model_is_opened(options, message, tmp_path, capsys):
    assert main(["train", "tiny", "--model", "./nowhere", "--out", str(tmp_path / "run"), *options]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
