"""Settings of TRL's `GRPOConfig` that a run may be given beside its own: which may be, and what their values are."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from visionthink.errors import OptionError

_NO_EVALUATION = "no examples are held out; use --probe-steps, or visionthink eval on a checkpoint"
_NOTHING_UPLOADED = "nothing is uploaded in the middle of a run; upload its final/"
_PROCESSES = "how processes share the work is chosen with --launch"
_CONTENT = "what the model reads is the episode's, and TRL is given ids of examples alone; use --dialect, --menu or --model"
_LOGGED = "TRL cannot write completions that hold images; metrics.jsonl has a line per update"
_DEVICE = "follows from the device"

_REFUSED = {
    name: reason
    for reason, names in {
        "use --out": "output_dir run_name",
        "use --steps": "max_steps num_train_epochs",
        "use --micro-batch": "per_device_train_batch_size auto_find_batch_size",
        "use --updates-per-step": "gradient_accumulation_steps steps_per_generation num_iterations",
        "use --prompts-per-step": "generation_batch_size",
        "use --group-size": "num_generations",
        "use --max-new-tokens": "max_completion_length",
        "use --vllm": "use_vllm vllm_mode",
        "use --clip-eps": "epsilon",
        "use --kl-coef": "beta",
        "use --entropy-coef": "entropy_coef",
        "use --temperature": "temperature",
        "use --learning-rate": "learning_rate",
        "use --lr-schedule": "lr_scheduler_type lr_scheduler_kwargs",
        "use --warmup-steps": "warmup_steps",
        "use --seed": "seed data_seed",
        "use --shuffle": "shuffle_dataset train_sampling_strategy",
        "use --save-steps": "save_steps save_strategy",
        "use --report-to": "report_to",
        "use --resume": "resume_from_checkpoint ignore_data_skip",
        "use --gradient-checkpointing": "gradient_checkpointing activation_checkpointing",
        "use --exclude truncated": "mask_truncated_completions",
        "use --penalty NAME:AMOUNT": "reward_weights multi_objective_aggregation",
        "use --menu or --ladder": "max_tool_calling_iterations",
        "a run could not be resumed": "save_only_model",
        "is the longest episode, which follows from the images and --max-new-tokens": "vllm_max_model_length",
        "holds the ids that are never sampled; top_p, top_k, min_p and repetition_penalty can be set": "generation_kwargs",
        "TRL refuses it for models that read images": (
            "use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged"
        ),
        "use --timeout-minutes": "ddp_timeout",
        "the processes are connected before TRL starts": "ddp_backend",
        _PROCESSES: "deepspeed fsdp fsdp_config use_cpu accelerator_config parallelism_config local_rank",
        _DEVICE: "bf16 fp16 dataloader_pin_memory",
        _CONTENT: "model_init_kwargs trust_remote_code chat_template_kwargs remove_unused_columns label_names",
        _LOGGED: (
            "disable_tqdm logging_steps logging_strategy logging_first_step log_completions log_multimodal log_unique_prompts "
            "num_completions_to_print log_completions_hub_repo include_num_input_tokens_seen"
        ),
        _NO_EVALUATION: (
            "do_train do_eval do_predict eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size "
            "num_generations_eval prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
            "include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval load_best_model_at_end metric_for_best_model "
            "greater_is_better"
        ),
        _NOTHING_UPLOADED: (
            "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision "
            "trackio_space_id trackio_bucket_id trackio_static_space_id"
        ),
    }.items()
    for name in names.split()
}
"""Settings that belong to a setting of ours, or that cannot work with episodes, and why."""


def checked(given: Mapping[str, Any], *, vllm: bool) -> dict[str, Any]:
    """Settings of TRL with values of the types that TRL declares; text, as a command line has it, is read as such a value.

    Args:
        given: values by the name of the setting.
        vllm: whether the run generates with vLLM.

    Raises:
        OptionError: TRL has no such setting, it belongs to a setting of ours, it has no effect, or its value has another type.
    """
    for name in given:
        if name in _REFUSED:
            raise OptionError(f"--trl {name}: {_REFUSED[name]}")
    if not given:
        return {}
    declared = _declared()
    for name in given:
        if name not in declared:
            near = difflib.get_close_matches(name, declared.keys() - _REFUSED.keys(), 1)
            raise OptionError(f"--trl {name}: TRL's GRPOConfig has no such setting{f'; did you mean {near[0]}?' if near else ''}")
        if name.startswith("vllm_") and not vllm:
            raise OptionError(f"--trl {name}: has no effect without vLLM; use --vllm colocate or --vllm server")
    return {name: _value(name, value, declared[name]) for name, value in given.items()}


def _declared() -> dict[str, Any]:
    """Type of every setting of TRL by its name."""
    from trl import GRPOConfig

    hints = typing.get_type_hints(GRPOConfig)
    return {field.name: hints[field.name] for field in dataclasses.fields(GRPOConfig) if field.init}


def _value(name: str, given: Any, kind: Any) -> Any:
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if any(isinstance(one, type) and issubclass(one, enum.Enum) for one in kinds):
        kinds = tuple(one for one in kinds if one is not str)  # which stands for the names of the choices
    for one in sorted(kinds, key=lambda one: one is str):  # text is taken as text where nothing stricter fits
        try:
            return _read(given, one) if isinstance(given, str) else _of(given, one)
        except ValueError:
            pass
    known = ", ".join(_named(kinds))
    raise OptionError(f"--trl {name}={given}: expected {known or 'a value that cannot be given here'}")


def _read(text: str, kind: Any) -> Any:
    """The value of a type that a text stands for; ValueError where it stands for none."""
    origin = typing.get_origin(kind) or kind
    if origin is str:
        return text
    if origin is types.NoneType or origin is bool:
        words = {"none": None} if origin is types.NoneType else {"true": True, "false": False}
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return origin(text).value
    if origin in (dict, list):
        return _of(json.loads(text), kind)
    return _of(origin(text), kind) if origin in (int, float) else _of(text, kind)


def _of(value: Any, kind: Any) -> Any:
    """The value, if it is of a type; ValueError else."""
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
        fits = any(value is choice or (isinstance(choice, str) and value == choice) for choice in typing.get_args(kind))
    elif origin in (int, float):
        fits = isinstance(value, int | origin) and not isinstance(value, bool) and math.isfinite(value)
    else:
        fits = origin in (bool, str, dict, list, types.NoneType) and isinstance(value, origin)
    if not fits:
        raise ValueError
    return value


def _named(kinds: Iterable[Any]) -> list[str]:
    """What users call types."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", types.NoneType: "none"}
    words |= {dict: "a JSON object", list: "a JSON list"}
    named = []
    for kind in kinds:
        origin = typing.get_origin(kind) or kind
        if origin is typing.Literal:
            named += [str(choice) for choice in typing.get_args(kind)]
        elif isinstance(origin, type) and issubclass(origin, enum.Enum):
            named += [str(member.value) for member in origin]
        elif origin in words:
            named.append(words[origin])
    return named
