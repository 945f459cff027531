"""What is installed here, what each command lacks, and whether a model can be run: `visionthink doctor`.

Everything is read from this machine: the extras from the package's own metadata, the sizes of a model from its folder, from the
hub's cache or from `recipes.published`. Nothing is downloaded, and PyTorch is imported only where it is installed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from visionthink.addresses import is_endpoint
from visionthink.errors import ModelError, OptionError, one_line

PACKAGE = "visionthink"
FEATURES: Mapping[str, str] = {
    "remote": "a model or judge behind an endpoint (--model http://...)",
    "vllm": "--engine vllm, and train --vllm",
    "ray": "--engine ray",
    "deepspeed": "--launch zero2 and zero3",
    "otel": "serve --traces",
    "lmms": "the plug-in for lmms-eval",
}
"""What the extras are for that no command needs by itself."""
MAIN = ("torch", "transformers", "trl", "accelerate", "peft", "vllm", "ray", "deepspeed", "flash-attn", "numpy", "pillow")
"""Libraries whose versions are told."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """A command, or something that a command can do, and what it lacks."""

    name: str
    extras: str
    """The extras that it needs, separated by commas; empty: none."""
    missing: tuple[str, ...]
    """Requirements that are not met."""

    @property
    def install(self) -> str:
        """The command that installs what is missing; empty where nothing is."""
        return install(self.extras) if self.missing else ""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    bytes: int
    """Its memory."""
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a model takes in a number format, in bytes."""

    dtype: str
    weights: int
    question: int
    """At most, while a question about the largest image is answered; see `policies.memory`."""


@dataclass(frozen=True, kw_only=True)
class ModelFound:
    """Whether a model can be run here."""

    name: str
    missing: tuple[str, ...] = ()
    """What keeps it from running, a sentence each with its remedy."""
    notes: tuple[str, ...] = ()
    parameters: int = 0
    """0: not known, as nothing of the model is on this machine."""
    visual_tokens: int = 0
    """The visual tokens of the largest image that is not shrunk."""
    memory: tuple[Memory, ...] = ()
    device: str = ""
    """Where it would run by default."""
    dtype: str = ""
    free_bytes: int = 0
    """Memory that is free there."""
    together: int = 0
    """Questions about the largest image that fit at once; 0: not one."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that was found out."""

    versions: Mapping[str, str]
    platform: str
    cores: int
    gpus: tuple[Gpu, ...]
    """The GPUs that the driver lists."""
    torch_gpus: tuple[str, ...] | None
    """The GPUs that PyTorch sees; None if PyTorch is not installed."""
    attention: Mapping[str, str]
    """Kernels, each with what hinders its use here; empty: nothing."""
    commands: tuple[Use, ...]
    features: tuple[Use, ...]
    notes: tuple[str, ...] = ()
    model: ModelFound | None = None


def install(extras: str) -> str:
    return f"pip install '{PACKAGE}[{extras}]'"


def examine(commands: Mapping[str, str], model: str | None = None) -> Found:
    """
    Args:
        commands: their names, each with the extras that it needs, separated by commas.
        model: as for `model.load`.

    Raises:
        OptionError: this package is not installed, so that its extras are not known; or the model's name cannot be one.
    """
    gpus, torch_gpus, attention = _gpus(), None, {}
    notes = []
    if importlib.util.find_spec("torch"):
        torch_gpus, attention = _torch_gpus(), _attention()
        if gpus and not torch_gpus:
            notes.append(f"the driver lists {len(gpus)} GPUs and PyTorch sees none: {_why_no_gpu()}")
    return Found(
        versions={PACKAGE: metadata.version(PACKAGE), "python": platform.python_version()} | _versions(),
        platform=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=gpus,
        torch_gpus=torch_gpus,
        attention=attention,
        commands=tuple(_use(name, extras) for name, extras in commands.items()),
        features=tuple(_use(words, extra) for extra, words in FEATURES.items()),
        notes=tuple(notes),
        model=_model(model) if model else None,
    )


def missing(extras: str) -> tuple[str, ...]:
    """Requirements of extras, separated by commas, that are not met in this environment."""
    return _use("", extras).missing


def covers(extras: str, extra: str) -> bool:
    """Whether whoever installs extras, separated by commas, has all that another one requires."""
    return {line.name for line in _needed(extra)} <= {line.name for line in _needed(extras)}


@functools.cache
def _requirements() -> Mapping[str, list[Requirement]]:
    """What each extra requires, as the installed package declares it; an extra that includes others lists theirs as well."""
    try:
        declared = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        folder = Path(__file__).parents[2]
        raise OptionError(f"{PACKAGE} is run from {folder} without being installed; pip install -e {folder}") from None
    lines = [Requirement(line) for line in declared.get_all("Requires-Dist") or ()]
    return {
        extra: [line for line in lines if line.marker and _applies(line, extra) and not _applies(line, "")]
        for extra in declared.get_all("Provides-Extra") or ()
    }


def _applies(line: Requirement, extra: str) -> bool:
    return line.marker is None or line.marker.evaluate({"extra": extra})


def _needed(extras: str) -> list[Requirement]:
    requirements = _requirements()
    return [line for extra in extras.split(",") if extra for line in requirements[extra]]


def _use(name: str, extras: str) -> Use:
    unmet = dict.fromkeys(said for line in _needed(extras) if (said := _unmet(line)))
    return Use(name=name, extras=extras, missing=tuple(unmet))


def _unmet(line: Requirement) -> str:
    """A requirement that is not met, with the version that is there instead; empty where it is met."""
    try:
        version = metadata.version(line.name)
    except metadata.PackageNotFoundError:
        return line.name
    return "" if line.specifier.contains(version, prereleases=True) else f"{line.name}{line.specifier} (here: {version})"


def _versions() -> dict[str, str]:
    found = {}
    for name in MAIN:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine, by NVIDIA's tool; none where that is not there."""
    if not (tool := shutil.which("nvidia-smi")):
        return ()
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in said.splitlines() if line.count(",") >= 2]
    sizes = [(name, total, free) for name, total, free in rows if total.isdecimal() and free.isdecimal()]
    return tuple(Gpu(name=name, bytes=int(total) << 20, free_bytes=int(free) << 20) for name, total, free in sizes)


def _torch_gpus() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _why_no_gpu() -> str:
    import torch

    if not torch.version.cuda:
        return f"torch {torch.__version__} is built for CPUs; install a CUDA build (pytorch.org/get-started)"
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    return f"torch {torch.__version__} needs CUDA {torch.version.cuda}; check the driver with nvidia-smi"


def _attention() -> dict[str, str]:
    """Kernels that a model in half precision could use on the default device."""
    if not importlib.util.find_spec("transformers"):
        return {}
    from visionthink.policies.attention import ATTENTION, what_hinders_flash
    from visionthink.policies.placement import AUTO, chosen_device

    hindrance = what_hinders_flash(chosen_device(AUTO), "bfloat16", from_hub=False)
    return {name: hindrance if name == "flash_attention_2" else "" for name in ATTENTION}


def _model(name: str) -> ModelFound:
    remote = is_endpoint(name)
    need = _use(name, "remote" if remote else "local")
    lacks = (f"{', '.join(need.missing)}; {need.install}",) if need.missing else ()
    if remote or lacks:
        return ModelFound(name=name, missing=lacks)
    try:
        sizes = _sizes(name)
    except ModelError as error:
        return ModelFound(name=name, missing=(str(error),))
    if sizes is None:
        note = "its size is not known, as nothing of it is on this machine; it is downloaded when it is first used"
        return ModelFound(name=name, notes=(note,))
    try:
        return _fit(name, sizes)
    except Exception as error:  # of many kinds, from transformers and torch, where config.json says what cannot be
        said = f"model {name}: config.json: a model of this architecture cannot be run ({one_line(error)})"
        return ModelFound(name=name, missing=(said,))


def _sizes(name: str) -> Any:
    """Sizes of a model by its folder, by the hub's cache, or as they are published; None where it is known from nowhere."""
    from huggingface_hub import try_to_load_from_cache

    from visionthink.policies.checkpoint import check_files, check_weights, describe
    from visionthink.recipes.published import published_sizes
    from visionthink.train.sizes import Sizes

    place = check_files(name)
    if not Path(place).is_dir():
        if known := published_sizes(name):
            return known
        cached = try_to_load_from_cache(place, "config.json") if place.count("/") == 1 else None
        if not isinstance(cached, str):
            return None
        place = str(Path(cached).parent)
    else:
        check_weights(name)
    found = describe(place)
    return Sizes(config=found.config, budget=found.budget)


def _fit(name: str, sizes: Any) -> ModelFound:
    import torch

    from visionthink.policies import memory
    from visionthink.policies.placement import AUTO, chosen_device
    from visionthink.train.config import TrainConfig
    from visionthink.train.sizes import longest

    device = chosen_device(AUTO)
    stored = str(sizes.config.dtype or "bfloat16").removeprefix("torch.")
    dtype = "float32" if device == "cpu" else stored
    tokens, _ = longest(TrainConfig(), sizes)
    needs = {}
    for kind in dict.fromkeys((stored, "bfloat16", "float32")):
        width = torch.finfo(getattr(torch, kind)).bits // 8
        each = tokens * memory.bytes_per_token(sizes.config, width)
        needs[kind] = Memory(dtype=kind, weights=width * sizes.parameters, question=each)
    free, here = memory.free_bytes(torch.device(device)), needs[dtype]
    left = free - here.weights
    together = memory.fitting([here.question] * memory.MOST, 1, left) if here.question <= left else 0
    lacks, notes = [], []
    there = f"{free / 1e9:.1f} GB are free on the {device}"
    quantised = getattr(sizes.config, "quantization_config", None)
    if here.weights > free and not quantised:
        other = "a smaller model or a GPU" if device == "cpu" else "a smaller model or a larger GPU"
        if (half := needs["bfloat16"].weights) <= free:
            other = f"--dtype bfloat16 ({half / 1e9:.1f} GB), {other}"
        lacks.append(f"memory: the weights take {here.weights / 1e9:.1f} GB in {dtype}, and {there}; use {other}")
    elif not together and not quantised:
        total = (here.weights + here.question) / 1e9
        notes.append(f"a question about the largest image may need up to {total:.1f} GB, and {there}; smaller images need less")
    if quantised:
        said = "they take less memory than is estimated here, and need the library of their method, which is not looked for"
        notes.append(f"its weights are quantised: {said}")
    return ModelFound(
        name=name,
        missing=tuple(lacks),
        notes=tuple(notes),
        parameters=sizes.parameters,
        visual_tokens=sizes.budget.max_pixels // sizes.budget.factor**2,
        memory=tuple(needs.values()),
        device=device,
        dtype=dtype,
        free_bytes=free,
        together=together,
    )
