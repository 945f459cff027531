"""What the JSON files of a checkpoint say. Each is read once: what it says is used whole, or refused by the file's name.

Of generation settings, which a checkpoint may hold in generation_config.json and, by an older custom, in config.json, only the
ids of special tokens count: how tokens are drawn is the caller's business.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import GenerationConfig, PreTrainedConfig, Qwen2VLImageProcessorPil
from transformers.utils import cached_file

from visionthink import chatml, records
from visionthink.errors import ModelError, OptionError, one_line
from visionthink.policies.render import Renderer
from visionthink.protocol import MARKUP, Protocol
from visionthink.resolution import PixelBudget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS = "visionthink.json"
"""Optional file beside a checkpoint: the protocol it was trained with, {"dialect": ..., "boundary": ..., "canonical": ...}."""

ADAPTER = "adapter_config.json"
"""An adapter's settings. Beside a model of the hub, transformers loads the weights that this file names, and
the adapter over them, which may be a pickle."""

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Models of transformers that can be used."""
CODEBOOK = "visionthink_codebook"
"""Our own, see `engine.codebook`."""

_TOKEN_IDS = ("eos_token_id", "pad_token_id", "bos_token_id")
_SIZES = {
    "text_config": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "vision_config": ("depth", "hidden_size", "num_heads"),
}
"""What transformers would fill in with the sizes of a large model."""
_BY_OTHER_NAMES = {"torch_dtype", "dtype", "rope_scaling", "rope_theta", "tie_word_embeddings", "model_type"}
"""Fields of an architecture that its class in transformers does not declare under this name."""
_EDGES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
"""Names of the limits on an image's pixels within `size`, and the older ones, which stand within `size` or beside it."""
_EXPECTED = "expected shortest_edge and longest_edge, as numbers of pixels of an area"


def read_object(name: str, path: str, file: str) -> dict[str, Any] | None:
    """The object in a file of a checkpoint; None where there is no such file.

    Raises:
        ModelError: it holds something else.
    """
    found = cached_file(path, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    if found is None:
        return None
    try:
        return records.parse(Path(found).read_bytes())
    except (OSError, ValueError):
        raise ModelError(f"model {name}: {file}: not a JSON object") from None


def read_protocol(name: str, path: str) -> Protocol:
    """As stored beside the checkpoint; `agent` in plain ChatML where nothing is stored.

    Raises:
        ModelError: the file says anything else.
    """
    record = read_object(name, path, SETTINGS) or {}
    kinds: dict[str, type] = {"dialect": str, "boundary": str, "canonical": bool}
    if not all(isinstance(value, kinds.get(field, ())) for field, value in record.items()):
        raise ModelError(f"model {name}: {SETTINGS}: expected an object with dialect, boundary and canonical")
    try:
        return Protocol(**record)
    except OptionError as error:
        raise ModelError(f"model {name}: {SETTINGS}: {error}") from None


def read_config(name: str, path: str) -> PreTrainedConfig:
    """The architecture, and nothing that steers how a model is run, what it returns or how tokens are drawn.

    Raises:
        ModelError: it is missing, damaged, of another architecture, or does not say how large the model is.
    """
    try:
        cached_file(path, "config.json")
    except Exception as error:  # of many kinds, from the hub's library
        if "couldn't connect" in str(error):
            raise ModelError(f"model {name}: there is no such folder, and the hub could not be reached to download it") from error
        raise ModelError(f"model {name}: cannot be loaded ({one_line(error)})") from error
    record = read_object(name, path, "config.json") or {}
    kind = record.get("model_type")
    sizes = _SIZES
    if kind == CODEBOOK:
        importlib.import_module("visionthink.engine.codebook")  # which makes it known to transformers
        sizes = _SIZES | {"vision_config": ("codes", "code_size", "hidden_size")}
    elif kind is None:
        raise ModelError(f"model {name}: config.json: model_type is missing")
    elif kind not in MODEL_TYPES:
        raise ModelError(f"model {name}: {kind} is not supported; choose one of {', '.join(MODEL_TYPES)}")
    config_class = transformers.CONFIG_MAPPING[kind]
    flat = kind != "qwen3_vl" and record.get("text_config") is None and "hidden_size" in record
    for part, needed in sizes.items():
        said = record if flat and part == "text_config" else record.get(part)
        if not isinstance(said, dict):
            raise ModelError(f"model {name}: config.json: {part} is missing")
        if lacking := [size for size in needed if said.get(size) is None]:
            raise ModelError(f"model {name}: config.json: {part} lacks {', '.join(lacking)}")
    try:
        config = config_class.from_dict(_architecture(record, config_class, flat=flat))
        config._name_or_path = path
        return config
    except Exception as error:  # as above
        raise ModelError(f"model {name}: config.json: cannot be used ({one_line(error)})") from error


def _architecture(record: dict[str, Any], config_class: type[PreTrainedConfig], *, flat: bool = False) -> dict[str, Any]:
    """What of a record the classes of transformers declare for this architecture alone; settings of every model are left out."""
    parts = config_class.sub_configs
    declared = _declared(config_class) | (_declared(parts["text_config"]) if flat else set())
    own = {key: value for key, value in record.items() if key in declared - {*parts}}
    if not parts:
        return own
    nested = {key: _architecture(record[key], part) for key, part in parts.items() if isinstance(record.get(key), dict)}
    quantised = {key: record[key] for key in ("quantization_config",) if key in record}
    return own | nested | quantised


def _declared(config_class: type[PreTrainedConfig]) -> set[str]:
    fields = {field.name for field in dataclasses.fields(config_class)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}
    return (fields | {*config_class.attribute_map} | _BY_OTHER_NAMES) - {"use_cache"}


def read_tokenizer(name: str, path: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """Padded on the left.

    Raises:
        ModelError: it cannot be read, or is none of a Qwen-VL model.
    """
    read_object(name, path, "tokenizer_config.json")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, config=config, trust_remote_code=False)
        problem = _role_that_cannot_be(Renderer(tokenizer))
    except ModelError as error:
        raise ModelError(f"model {name}: {error}") from None
    except Exception as error:  # as above
        raise ModelError(f"model {name}: tokenizer.json, tokenizer_config.json: cannot be used ({one_line(error)})") from error
    if problem:
        raise ModelError(f"model {name}: tokenizer_config.json: {problem}")
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest > 0:
        raise ModelError(f"model {name}: tokenizer_config.json: model_max_length {longest!r}: expected a number above 0")
    tokenizer.padding_side = "left"
    return tokenizer


def _role_that_cannot_be(renderer: Renderer) -> str:
    """What is wrong with the tokens that end, pad or begin texts or stand for what is unknown; empty where nothing is.

    They are left out of what a model says, and trainers end turns at the first two.
    """
    tokenizer = renderer.tokenizer
    usual = {"eos_token": chatml.TURN_END, "pad_token": chatml.END_OF_TEXT, "bos_token": None, "unk_token": None}
    for role, qwen in usual.items():
        token, i = getattr(tokenizer, role), getattr(tokenizer, f"{role}_id")
        instead = f'Qwen-VL has "{qwen}"' if qwen else "Qwen-VL has none"
        if i is None and qwen:
            return f"{role} is missing; {instead}"
        if role == "eos_token" and i not in renderer.end_ids:
            return f'{role} "{token}" does not end a turn of ChatML; {instead}'
        if i is not None and (token in MARKUP or renderer.plain(token) == [i]):
            return f'{role} "{token}" is text that a model can say; {instead}'
    return ""


def read_generation(name: str, path: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Ids of special tokens and nothing else. Turns end where ChatML ends them, in training as in inference.

    Raises:
        ModelError: an id that is outside of the vocabulary, or another end of a turn.
    """
    file = "generation_config.json"
    record = read_object(name, path, file)
    if record is None:
        file, record = "config.json", {**config.to_dict(), **config.get_text_config().to_dict()}
    vocabulary, ends = config.get_text_config().vocab_size, Renderer(tokenizer).end_ids
    ids = {key: record[key] for key in _TOKEN_IDS if record.get(key) is not None}
    for key, value in ids.items():
        for i in value if isinstance(value, list) and key == "eos_token_id" else [value]:
            if type(i) is not int or not 0 <= i < vocabulary:
                raise ModelError(f"model {name}: {file}: {key} {i!r} is none of the {vocabulary} tokens of the vocabulary")
            if key == "eos_token_id" and i not in ends:
                known = ", ".join(f"{end} ({tokenizer.convert_ids_to_tokens(end)})" for end in ends)
                raise ModelError(f"model {name}: {file}: {key} {i} does not end a turn of ChatML; {known} do")
    return GenerationConfig(**(ids | {"eos_token_id": ends}))


def only_token_ids(config: GenerationConfig) -> GenerationConfig:
    """What of a generation configuration is saved with a model."""
    return GenerationConfig(**{key: getattr(config, key) for key in _TOKEN_IDS})


# ------------------------------------------------------------------------------------------------ image processor


def read_image_processor(name: str, path: str) -> Qwen2VLImageProcessorPil:
    """From processor_config.json, where newer files hold it, or preprocessor_config.json; limits on pixels under all their names.

    Raises:
        ModelError: there is none, it is another model's, or one of its values cannot be.
    """
    file = "processor_config.json"
    newer = read_object(name, path, file) or {}
    record = newer.get("image_processor")
    if record is None:
        file = "preprocessor_config.json"
        record = read_object(name, path, file)
        if record is None:
            raise ModelError(f"model {name}: {file} is missing")
    if beside := sorted({*_EDGES.values(), "size", "patch_size", "merge_size", "temporal_patch_size"} & {*newer}):
        raise ModelError(f"model {name}: processor_config.json: {beside[0]} is outside of image_processor and would not be read")
    try:
        return Qwen2VLImageProcessorPil(**_image_settings(record))
    except _Unusable as error:
        raise ModelError(f"model {name}: {file}: {error}") from None


def pixel_budget(image_processor: Any) -> PixelBudget:
    """The sizes an image processor allows, read from its own configuration."""
    return PixelBudget(
        image_processor.patch_size * image_processor.merge_size,
        image_processor.size["shortest_edge"],
        image_processor.size["longest_edge"],
    )


def check_parts(name: str, config: Any, tokenizer: Any, image_processor: Any) -> None:
    """Files of different models beside each other would load and fail later, or worse, not fail.

    Raises:
        ModelError: two files disagree.
    """
    vision = config.vision_config
    parts = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    for part, theirs in (parts | {"temporal_patch_size": vision.temporal_patch_size}).items():
        if getattr(image_processor, part) != theirs:
            ours = getattr(image_processor, part)
            raise ModelError(f"model {name}: {part} is {ours} in the image processor and {theirs} in config.json")
    pad = tokenizer.convert_tokens_to_ids(chatml.IMAGE_PAD)
    if pad != config.image_token_id:
        raise ModelError(f"model {name}: {chatml.IMAGE_PAD} is {pad} in the tokenizer and {config.image_token_id} in config.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """A checkpoint without its weights: what its small files say, checked one by one and against each other."""

    config: Any
    """The configuration in transformers."""
    image_processor: Qwen2VLImageProcessorPil
    protocol: Protocol
    tokenizer: PreTrainedTokenizerBase
    generation: GenerationConfig

    @property
    def budget(self) -> PixelBudget:
        """The sizes its images may have."""
        return pixel_budget(self.image_processor)


def read(name: str, path: str) -> Described:
    """All small files of a checkpoint.

    Raises:
        ModelError: one is missing or damaged, or two disagree.
    """
    config = read_config(name, path)
    if read_object(name, path, ADAPTER) is not None:
        said = "would be loaded over weights that it names itself, and may be a pickle; merge it into the model and save that"
        raise ModelError(f"model {name}: {ADAPTER}: an adapter {said}")
    image_processor = read_image_processor(name, path)
    protocol = read_protocol(name, path)
    tokenizer = read_tokenizer(name, path, config)
    check_parts(name, config, tokenizer, image_processor)
    generation = read_generation(name, path, config, tokenizer)
    return Described(
        config=config, image_processor=image_processor, protocol=protocol, tokenizer=tokenizer, generation=generation
    )


class _Unusable(ValueError):
    """What is wrong with a value, without the file's name."""


def _image_settings(record: Any) -> dict[str, Any]:
    """Of a record of any version, what decides the pixels. The rest (crops, formats, devices) is read by no Qwen-VL processor."""
    if not isinstance(record, dict):
        raise _Unusable("expected an object")
    given = {key: value for key, value in record.items() if value is not None}
    kind = given.get("image_processor_type", "Qwen2VLImageProcessor")
    if not re.fullmatch(r"Qwen[\w]*VL\w*", str(kind)):
        raise _Unusable(f"image_processor_type {kind}: not an image processor of Qwen-VL")
    if given.get("do_resize", True) is not True:
        raise _Unusable(f"do_resize {given['do_resize']!r}: images must be resized to whole patches")
    settings: dict[str, Any] = {"size": size} if (size := _size(given)) else {}
    for key in ("patch_size", "merge_size", "temporal_patch_size"):
        if key in given:
            settings[key] = _at_least(key, given[key], 1)
    for key in ("do_rescale", "do_normalize", "do_convert_rgb"):
        if key in given:
            if not isinstance(given[key], bool):
                raise _Unusable(f"{key} {given[key]!r}: expected true or false")
            settings[key] = given[key]
    if "resample" in given:
        if _at_least("resample", given["resample"], 0) > 5:
            raise _Unusable(f"resample {given['resample']}: not a filter of Pillow, 0 to 5")
        settings["resample"] = given["resample"]
    if "rescale_factor" in given:
        settings["rescale_factor"] = _number("rescale_factor", given["rescale_factor"], above=0)
    for key, above in (("image_mean", -math.inf), ("image_std", 0)):
        if key in given:
            if not isinstance(given[key], list) or len(given[key]) != 3:
                raise _Unusable(f"{key} {given[key]!r}: expected three numbers")
            settings[key] = [_number(key, value, above=above) for value in given[key]]
    return settings


def _size(given: dict[str, Any]) -> dict[str, int] | None:
    """`shortest_edge` and `longest_edge`, which are numbers of pixels of an area; None where nothing is said."""
    size = given.get("size", {})
    if not isinstance(size, dict):
        raise _Unusable(f"size {size!r}: {_EXPECTED}")
    size = {key: value for key, value in size.items() if value is not None}
    if strange := sorted(map(str, set(size) - {*_EDGES, *_EDGES.values()})):
        raise _Unusable(f"size has {', '.join(strange)}: {_EXPECTED}")
    found: dict[str, int] = {}
    for edge, older in _EDGES.items():
        said = {f"size.{key}": size[key] for key in (edge, older) if key in size}
        said |= {older: given[older]} if older in given else {}
        numbers = [_at_least(key, value, 1) for key, value in said.items()]
        if len(set(numbers)) > 1:
            raise _Unusable(
                f"{' and '.join(f'{k} {v}' for k, v in said.items())} disagree; keep the one the model was trained with"
            )
        found |= {edge: numbers[0]} if numbers else {}
    if not found and "size" not in given:
        return None
    if missing := [edge for edge in _EDGES if edge not in found]:
        raise _Unusable(f"size lacks {' and '.join(missing)} (older name: {' and '.join(_EDGES[edge] for edge in missing)})")
    if found["shortest_edge"] > found["longest_edge"]:
        raise _Unusable(f"size {found} leaves no pixels: shortest_edge is above longest_edge")
    return found


def _at_least(key: str, value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise _Unusable(f"{key} {value!r}: expected a whole number of at least {least}")
    return value


def _number(key: str, value: Any, *, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < math.inf:
        raise _Unusable(f"{key} {value!r}: expected a number" + (f" above {above:g}" if above > -math.inf else ""))
    return value
