"""Finding and opening a checkpoint: the embedded tiny model, a folder, or a hub id. All load the same way.

Nothing here needs torchvision: the processor is the tokenizer plus the PIL image processor of Qwen2-VL (which Qwen2.5-VL and
Qwen3-VL share).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionthink import chatml
from visionthink.errors import ModelError, OptionError, StorageError, one_line
from visionthink.protocol import Protocol
from visionthink.resolution import PixelBudget

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

    from visionthink.policies.processor import ImageTextProcessor

SETTINGS = "visionthink.json"
"""Optional file beside a checkpoint: the protocol it was trained with, {"dialect": ..., "boundary": ...}."""

_EMBEDDED = {"tiny": "tuned", "tiny-base": "base"}
MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Models of transformers that can be used."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything a policy or a trainer needs of a model."""

    name: str
    path: str
    """A folder, or a hub id that transformers resolves."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessorPil
    protocol: Protocol
    """As stored beside the checkpoint; `agent` in plain ChatML where nothing is stored."""
    budget: PixelBudget

    @property
    def processor(self) -> ImageTextProcessor:
        """What transformers calls the processor: texts and images to everything that `model` reads. `AutoProcessor` gives the
        same, and needs torchvision for the videos that this one does not take."""
        from visionthink.policies.processor import ImageTextProcessor

        return ImageTextProcessor(self.image_processor, self.tokenizer, chat_template=self.tokenizer.chat_template)


def resolve(name: str) -> str:
    """The folder or hub id behind a model name: `tiny`, `tiny-base`, a path, or `owner/name`."""
    if name in _EMBEDDED:
        return str(resources.files("visionthink") / "assets" / "tiny" / _EMBEDDED[name])
    return str(Path(name).expanduser()) if name.startswith("~") else name


def open_checkpoint(name: str, *, device: str | None = None, dtype: torch.dtype | str | None = None) -> Checkpoint:
    """Load model, tokenizer and image processor.

    `device` defaults to a GPU where there is one; `dtype` to float32 on a CPU and to the checkpoint's own elsewhere.

    Raises:
        ModelError: a file is missing or damaged, or the architecture is none of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
    """
    path = resolve(name)
    folder = Path(path)
    if folder.exists() or name in _EMBEDDED or path.startswith((".", "/")):
        check_folder(folder, name)
    torch, transformers = _libraries()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        if config.model_type not in MODEL_TYPES:
            raise ModelError(f"model {name}: {config.model_type} is not supported; choose one of {', '.join(MODEL_TYPES)}")
        model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype or (torch.float32 if device == "cpu" else "auto"), output_loading_info=True
        )
        if loaded["missing_keys"]:
            raise ModelError(f"model {name}: {sorted(loaded['missing_keys'])[0]} is missing from the weights")
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        image_processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(path)
        _check_parts(name, config, tokenizer, image_processor)
        model = model.to(device)
    except ModelError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds; the user needs one line
        raise ModelError(f"model {name}: cannot be loaded ({one_line(error)})") from error
    tokenizer.padding_side = "left"
    settings = _settings(path)
    return Checkpoint(
        name=name,
        path=path,
        model=model.eval(),
        tokenizer=tokenizer,
        image_processor=image_processor,
        protocol=_protocol(path, settings),
        budget=pixel_budget(image_processor),
    )


@dataclass(frozen=True)
class Described:
    """A checkpoint without its weights."""

    protocol: Protocol
    budget: PixelBudget
    config: Any
    """As transformers has it."""


def describe(name: str) -> Described:
    """What is known of a checkpoint without loading its weights.

    Raises:
        ModelError: a file is missing or damaged.
    """
    path = resolve(name)
    _, transformers = _libraries()
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        image_processor = transformers.Qwen2VLImageProcessorPil.from_pretrained(path)
    except Exception as error:  # as in open_checkpoint
        raise ModelError(f"checkpoint {name}: cannot be read ({one_line(error)})") from error
    return Described(_protocol(path, _settings(path)), pixel_budget(image_processor), config)


def _protocol(path: str, settings: dict[str, Any]) -> Protocol:
    try:
        return Protocol(**settings)
    except OptionError as error:
        raise ModelError(f"{Path(path) / SETTINGS}: {error}") from None


def pixel_budget(image_processor: Any) -> PixelBudget:
    """The sizes an image processor allows, read from its own configuration."""
    return PixelBudget(
        image_processor.patch_size * image_processor.merge_size,
        image_processor.size["shortest_edge"],
        image_processor.size["longest_edge"],
    )


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(f"local models need {error.name}: pip install 'visionthink[local]'") from None
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a page of retries for a name that does not exist
    return torch, transformers


def _check_parts(name: str, config: Any, tokenizer: Any, image_processor: Any) -> None:
    """Files of different models beside each other would load and fail later, or worse, not fail."""
    vision = config.vision_config
    for part, theirs in (("patch_size", vision.patch_size), ("merge_size", vision.spatial_merge_size)):
        if getattr(image_processor, part) != theirs:
            ours = getattr(image_processor, part)
            raise ModelError(f"model {name}: {part} is {ours} in the image processor and {theirs} in config.json")
    if not 0 < image_processor.size["shortest_edge"] <= image_processor.size["longest_edge"]:
        raise ModelError(f"model {name}: the image processor's size {dict(image_processor.size)} leaves no pixels")
    pad = tokenizer.convert_tokens_to_ids(chatml.IMAGE_PAD)
    if pad != config.image_token_id:
        raise ModelError(f"model {name}: {chatml.IMAGE_PAD} is {pad} in the tokenizer and {config.image_token_id} in config.json")


def check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"model {name}: no such folder")
    needed = (
        ("config.json",),
        ("tokenizer_config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json"),
    )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"model {name}: is an adapter in the middle of a run, not a model; take the run's final/")
    for files in needed:
        if not any((folder / file).is_file() for file in files):
            raise ModelError(f"model {name}: {files[0]} is missing")
    index = folder / "model.safetensors.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
        shards = [folder / shard for shard in shards]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"model {name}: {index.name} is damaged") from None
    for shard in shards or [folder / "model.safetensors"]:
        if not shard.is_file():
            raise ModelError(f"model {name}: {shard.name} is missing")


def _settings(path: str) -> dict[str, Any]:
    from transformers.utils import cached_file

    found = cached_file(
        path, SETTINGS, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if found is None:
        return {}
    file = Path(found)
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ModelError(f"{file}: not valid JSON") from None
    known = isinstance(settings, dict) and not set(settings) - {"dialect", "boundary"}
    if not known or not all(isinstance(value, str) for value in settings.values()):
        raise ModelError(f"{file}: expected an object with dialect and boundary")
    return settings


def save_checkpoint(
    folder: Path,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Qwen2VLImageProcessorPil,
    protocol: Protocol,
    state: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that `open_checkpoint` and stock transformers load; it appears when it is whole.

    Args:
        state: the weights, where they are not in `model` (gathered from several processes).
        dtype: what the weights are converted to on the way.

    Raises:
        StorageError: it cannot be written; what was there is kept.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        weights = {k: v.to(dtype) if dtype else v for k, v in (state or model.state_dict()).items()}
        model.save_pretrained(partial, state_dict=weights)
        if dtype is not None:
            config = json.loads((partial / "config.json").read_text("utf-8"))
            config["dtype"] = str(dtype).removeprefix("torch.")
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        tokenizer.chat_template = chatml.template()
        tokenizer.save_pretrained(partial)
        _only_about_the_tokenizer(partial / "tokenizer_config.json")
        image_processor.save_pretrained(partial)
        save_settings(partial, protocol)
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except Exception as error:  # torch and safetensors say "disk full" each in their own way
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{folder}: cannot be written ({one_line(error)})") from error


def save_settings(folder: Path, protocol: Protocol) -> None:
    """Write the protocol beside a checkpoint."""
    settings = {"dialect": protocol.dialect, "boundary": protocol.boundary}
    (folder / SETTINGS).write_text(json.dumps(settings) + "\n", "utf-8")


def _only_about_the_tokenizer(file: Path) -> None:
    """Drop what loading and training left behind: where it came from, and which processor held it."""
    config = json.loads(file.read_text("utf-8"))
    for key in ("is_local", "local_files_only", "processor_class", "response_template"):
        config.pop(key, None)
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
