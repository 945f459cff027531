"""Finding and opening a checkpoint: the embedded tiny model, a folder, or a hub id. All load the same way.

Nothing here needs torchvision: the processor is the tokenizer plus the PIL image processor of Qwen2-VL (which Qwen2.5-VL and
Qwen3-VL share).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionthink import chatml, records
from visionthink.durable import replace_folder
from visionthink.errors import ModelError, did_you_mean, one_line
from visionthink.policies.attention import check_attention, chosen_attention
from visionthink.policies.placement import AUTO, META, chosen_device
from visionthink.protocol import Protocol
from visionthink.resolution import PixelBudget

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil

    from visionthink.policies.checkpoint_files import Described
    from visionthink.policies.processor import ImageTextProcessor

_EMBEDDED = {"tiny": "tuned", "tiny-base": "base"}

SAFELY = {"use_safetensors": True, "trust_remote_code": False}
"""How weights are loaded: a checkpoint brings numbers and no code. Without these, transformers reads pickles where there are no
safetensors, and asks on a terminal whether to run the code of a checkpoint."""


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
    """The protocol that is stored beside the checkpoint; if none is stored, `agent` in plain ChatML."""
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


def _existing(name: str) -> str:
    """As `resolve`; a single word that is neither an embedded model nor a folder is refused, as hub ids have an owner.

    Raises:
        ModelError: it is such a word.
    """
    path = resolve(name)
    if "/" not in path and not Path(path).exists():
        near = did_you_mean(name, _EMBEDDED)
        raise ModelError(f"model {name}: {near}choose {' or '.join(_EMBEDDED)}, a checkpoint folder, or a hub id as OWNER/NAME")
    return path


def open_checkpoint(name: str, *, device: str = AUTO, dtype: torch.dtype | str = AUTO, attention: str = "") -> Checkpoint:
    """Load model, tokenizer and image processor.

    Args:
        device: by default a GPU where there is one. On the device `meta` the model has its architecture and no weights, for a
            process that lets others run it.
        dtype: by default float32 on a CPU and the checkpoint's own elsewhere.
        attention: sdpa, flash_attention_2 or eager; by default flash attention where it is installed and can be used (weights
            in half precision on a GPU), else sdpa.

    Raises:
        ModelError: a file is missing or damaged, two disagree, or the architecture is none of Qwen2-VL, Qwen2.5-VL and
            Qwen3-VL, or one that cannot be run.
        OptionError: there is no such GPU or attention, or it cannot be used with that device and dtype.
    """
    check_attention(attention)
    path = check_files(name)
    torch, transformers = _libraries()
    from visionthink.engine.prepare import prepare
    from visionthink.policies import checkpoint_files as files

    device = chosen_device(device)
    if isinstance(dtype, str) and dtype != AUTO:
        dtype = getattr(torch, dtype)
    # small files first: what is wrong with them is known before the weights are read
    parts = files.read(name, path)
    if device == META:
        with torch.device(META):
            model = transformers.AutoModelForImageTextToText.from_config(
                parts.config, dtype=None if dtype == AUTO else dtype, trust_remote_code=False
            ).eval()
        return _checkpoint(name, path, model, parts)
    if dtype == AUTO and device == "cpu":
        dtype = torch.float32
    implementation = chosen_attention(attention, device=device, dtype=parts.config.dtype if dtype == AUTO else dtype)
    try:
        model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            path,
            config=parts.config,
            generation_config=parts.generation,
            dtype=dtype,
            attn_implementation=implementation,
            output_loading_info=True,
            **SAFELY,
        )
        model = model.to(device).eval()
    except Exception as error:  # transformers and safetensors raise many kinds; the user needs one line
        said = _sizes_that_differ(path, parts) if "ignore_mismatched_sizes" in str(error) else ""
        raise ModelError(f"model {name}: {said or f'cannot be loaded ({one_line(error)})'}") from error
    if loaded["missing_keys"]:
        raise ModelError(f"model {name}: {sorted(loaded['missing_keys'])[0]} is missing from the weights")
    if left := sorted(key for key in loaded["unexpected_keys"] if key.startswith("model.")):  # a value head may stand beside it
        raise ModelError(f"model {name}: {left[0]} is in the weights and has no place in the architecture of config.json")
    prepare(model)
    try:
        _try_out(model, parts)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"model {name}: no memory is left to run it ({one_line(error)})") from error
    except Exception as error:  # whatever transformers only finds out in a forward pass
        raise ModelError(f"model {name}: config.json: a model of this architecture cannot be run ({one_line(error)})") from error
    return _checkpoint(name, path, model, parts)


def _checkpoint(name: str, path: str, model: PreTrainedModel, parts: Described) -> Checkpoint:
    return Checkpoint(
        name=name,
        path=path,
        model=model,
        tokenizer=parts.tokenizer,
        image_processor=parts.image_processor,
        protocol=parts.protocol,
        budget=parts.budget,
    )


def _sizes_that_differ(path: str, parts: Described) -> str:
    """The first of the weights that config.json gives another shape; empty where that is not found out.

    transformers raises an error without its name, and names it where it may go on, which it cannot where weights are tied.
    """
    import transformers

    config = copy.deepcopy(parts.config)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    try:
        _, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            path, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **SAFELY
        )
    except Exception:  # such sizes may need more memory than there is; the first error is told
        return ""
    key, stored, built = min(loaded["mismatched_keys"])
    return f"config.json: {key} would be {[*built]}, and is {[*stored]} in the weights"


def _without_table(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _try_out(model: Any, parts: Described) -> None:
    """One forward pass over the smallest image and a few tokens, as a policy makes it."""
    import torch
    from PIL import Image

    side = parts.budget.factor
    pixels = parts.image_processor(images=[Image.new("RGB", (side, side))], return_tensors="pt")
    pads = int(pixels["image_grid_thw"].prod()) // parts.image_processor.merge_size**2
    marks = [parts.tokenizer.convert_tokens_to_ids(token) for token in (chatml.VISION_START, chatml.VISION_END, chatml.TURN_END)]
    ids = torch.tensor([[marks[0], *[parts.config.image_token_id] * pads, *marks[1:]]], device=model.device)
    with torch.inference_mode():
        model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels["pixel_values"].to(model.device, model.dtype),
            image_grid_thw=pixels["image_grid_thw"].to(model.device),
            mm_token_type_ids=(ids == parts.config.image_token_id).long(),
        )
    model.model.rope_deltas = None  # as before: transformers keeps the offset of the last prompt in the model


def describe(name: str) -> Described:
    """What is known of a checkpoint without loading its weights.

    Raises:
        ModelError: a file is missing or damaged, or two disagree.
    """
    path = _existing(name)
    _libraries()
    from visionthink.policies import checkpoint_files as files

    return files.read(name, path)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ModelError(f"a model on this machine needs {error.name}; pip install 'visionthink[local]'") from None
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers.modeling_utils").addFilter(_without_table)  # of what we say in one line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a page of retries for a name that does not exist
    return torch, transformers


def check_files(name: str) -> str:
    """The folder or hub id behind a model name; of a folder, it is known that all files are there.

    Raises:
        ModelError: one is missing.
    """
    path = _existing(name)
    folder = Path(path)
    if folder.exists() or name in _EMBEDDED or path.startswith((".", "/")):
        _check_folder(folder, name)
    return path


def check_weights(name: str) -> None:
    """Whether the files of weights in a folder are whole, by their headers, which is known at once.

    Raises:
        ModelError: one is damaged or cut off.
    """
    from safetensors import safe_open

    for file in sorted(Path(resolve(name)).glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except Exception as error:  # of a kind of its own
            raise ModelError(f"model {name}: {file.name}: is damaged or not whole ({one_line(error)})") from None


_PICKLES = ("*model*.bin", "*model*.pt", "*model*.pth", "*model*.ckpt", "consolidated*.pth")
"""Names of weights in other formats."""


def _check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"model {name}: no such folder")
    needed = (
        ("config.json",),
        ("tokenizer_config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json", "vocab.json"),
    )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"model {name}: is an adapter, not a model; take final/ of its run, or merge it into its model")
    if any(folder.glob("pytorch_model_fsdp*")) and not (folder / "config.json").is_file():
        raise ModelError(
            f"model {name}: holds shards of weights, which only --resume reads; take the run's final/, or train with "
            "fsdp_state_dict_type: FULL_STATE_DICT"
        )
    for files in needed:
        if not any((folder / file).is_file() for file in files):
            raise ModelError(f"model {name}: {files[0]} is missing")
    index = folder / "model.safetensors.index.json"
    try:
        names = records.parse(index.read_bytes())["weight_map"].values() if index.is_file() else []
        shards = sorted({str(Path(shard)) for shard in names})
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"model {name}: {index.name} is damaged") from None
    for shard in shards or ["model.safetensors"]:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(f"model {name}: {index.name}: {shard!r} is no safetensors file of this folder")
        if not (folder / shard).is_file():
            pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
            instead = f", and {pickles[0]} is not read: a pickle can run code; save the weights as safetensors" if pickles else ""
            raise ModelError(f"model {name}: {shard} is missing{instead}")


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
    from visionthink.policies.checkpoint_files import only_token_ids

    with replace_folder(folder) as partial:
        weights = {k: v.to(dtype) if dtype else v for k, v in (state or model.state_dict()).items()}
        model.save_pretrained(partial, state_dict=weights)
        only_token_ids(model.generation_config).save_pretrained(partial)
        if dtype is not None:
            config = json.loads((partial / "config.json").read_text("utf-8"))
            config["dtype"] = str(dtype).removeprefix("torch.")
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        tokenizer.chat_template = chatml.template()
        tokenizer.save_pretrained(partial)
        _only_about_the_tokenizer(partial / "tokenizer_config.json")
        image_processor.save_pretrained(partial)
        save_settings(partial, protocol)


def save_settings(folder: Path, protocol: Protocol) -> None:
    """Write the protocol beside a checkpoint."""
    from visionthink.policies.checkpoint_files import SETTINGS

    settings: dict[str, str | bool] = {"dialect": protocol.dialect, "boundary": protocol.boundary}
    settings |= {"canonical": True} if protocol.canonical else {}
    (folder / SETTINGS).write_text(json.dumps(settings) + "\n", "utf-8")


def _only_about_the_tokenizer(file: Path) -> None:
    """Drop what loading and training left behind: where it came from, and which processor held it."""
    config = json.loads(file.read_text("utf-8"))
    for key in ("is_local", "local_files_only", "processor_class", "response_template"):
        config.pop(key, None)
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
