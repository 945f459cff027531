"""Trained compression methods: PyTorch modules that implement `Method`, so that the code that is trained is the code that is run.

A new module equals its untrained baseline, bit for bit: what it adds is multiplied by weights that are initialised to zero. The
control of a method is the same module without the part that the method is about, trained in the same way; only the difference
from the control is a gain of the method. Modules compute in float32, whatever the precision of the model.

A fitted module is saved as `compressor.json` and `compressor.safetensors`, with `adapter/` beside them if the decoder was tuned
too. It can be opened only for the model that it was fitted to.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from visionthink import records
from visionthink.compress.selection import Idle, Needs, Positions, VisionContext, check_share
from visionthink.compress.target import complete_from
from visionthink.errors import ModelError, OptionError, StorageError, one_line

if TYPE_CHECKING:
    from visionthink.compress.adapter import Adapter

RECORD, WEIGHTS, ADAPTER, CONTROL = "compressor.json", "compressor.safetensors", "adapter", "control"
PARTS = (CONTROL, ADAPTER, WEIGHTS, RECORD)
"""What a folder of a fitted module holds."""
PARTIAL = ".partial"
CHECKPOINTS = ".checkpoints"
"""Folder of an unfinished fit, within that of the fitted module."""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that a module is fitted to."""

    model_type: str
    hidden: int
    """Width of the decoder's hidden states, and of visual tokens."""
    layers: int
    """Number of decoder layers."""
    tower: int
    """Width of the vision tower."""
    patches: int
    """Number of image patches that are merged into one visual token."""
    levels: tuple[int, ...]
    """Three blocks of the vision tower whose attention spans the whole image, from early to late."""
    merger: str
    """SHA-256 of the weights of the merger, which makes the visual tokens, in bfloat16."""
    first: int = 1
    """The first decoder layer at whose entry a method can act."""
    blocks: int = 1
    """Number of blocks of the vision tower."""

    @classmethod
    def of(cls, model: Any) -> Base:
        """The description of a loaded model."""
        tower, decoder = model.model.visual, model.model.language_model
        digest = hashlib.sha256()
        for name, weight in sorted(tower.merger.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
        return cls(
            model_type=model.config.model_type,
            hidden=model.config.get_text_config().hidden_size,
            layers=len(decoder.layers),
            first=complete_from(model),
            blocks=len(tower.blocks),
            tower=tower.blocks[0].norm1.weight.shape[0],
            patches=tower.config.spatial_merge_size**2,
            levels=_levels(tower),
            merger=digest.hexdigest(),
        )


def _levels(tower: Any) -> tuple[int, ...]:
    """The last block is left out where there are others, because the merger reads its output already."""
    blocks = len(tower.blocks)
    whole = [i for i in getattr(tower, "fullatt_block_indexes", range(blocks)) if i < blocks - 1] or [blocks - 1]
    chosen = {whole[math.ceil(share * len(whole)) - 1] for share in (1 / 3, 2 / 3, 1)}
    return tuple(sorted(chosen))


class Learned(Idle, nn.Module):
    """Base class of the trained methods.

    Args:
        base: the model that the module is for.
        keep: share of the visual tokens to keep.
    """

    family: ClassVar[str]
    control: ClassVar[Mapping[str, Any]]
    """Options that turn a method into its control."""
    any_share: ClassVar[bool] = False
    """Whether a fitted module can be used with another share than the one it was fitted with."""
    reconstructs: ClassVar[bool] = False
    """Whether the method can be trained without the answers, by the error of its own reconstruction."""
    lora: ClassVar[Mapping[str, Any] | None] = None
    """Settings of the LoRA adapter that tunes the decoder together with the module; None: the decoder is not tuned."""
    needs: Needs = Needs()
    positions: Positions = "keep"
    scale: Tensor

    def __init__(self, base: Base, keep: float):
        super().__init__()
        check_share(self.family, "keep", keep)
        self.base, self.keep = base, keep
        self.adapter: Adapter | None = None
        self.register_buffer("scale", torch.ones(()))
        """Root mean square of the features of visual tokens."""

    @property
    def name(self) -> str:
        return f"{self.family}:{self.keep:g}"

    def adapt(self, model: Any) -> Learned:
        """Add a new LoRA adapter for the decoder of `model`, if the method has one, and return the module."""
        if self.lora is not None:
            try:
                from visionthink.compress.adapter import Adapter
            except ImportError as error:
                needed = f"{self.family} needs {error.name}: pip install 'visionthink[train]'"
                raise OptionError(needed) from None
            self.adapter = Adapter(model, self.lora)
            self.needs = replace(self.needs, within=self.adapter.on)
        return self

    def measure(self, contexts: Sequence[VisionContext]) -> None:
        """Compute what depends on the data and is not trained, such as means and scales, from training samples."""
        self.scale.copy_(torch.cat([context.features for context in contexts]).float().pow(2).mean().sqrt())

    def losses(self) -> dict[str, Tensor]:
        """The module's own terms of the loss, by name, for the samples that were read since the last call."""
        return {}

    def progress(self, done: float) -> None:
        """Called before each optimizer step with the fraction of the training that is done, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The content of `compressor.json`."""

    family: str
    keep: float
    options: Mapping[str, Any]
    base: Base
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Settings and results of the fit, see `compress.fit.fit`."""
    format: int = FORMAT


def save(
    folder: Path,
    module: Learned,
    options: Mapping[str, Any],
    fit: Mapping[str, Any],
    control: tuple[Learned, Mapping[str, Any]] | None = None,
) -> None:
    """Write what `learned:FOLDER` names, and its control with the options of that. They appear together, when they are whole;
    whatever else is in the folder is left alone.

    Raises:
        StorageError: it cannot be written; what was there is kept.
    """
    partial = folder / PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _write(partial, module, options, fit)
        if control is not None:
            _write(partial / CONTROL, *control, fit)
        (folder / RECORD).unlink(missing_ok=True)  # without it nothing opens that is half the old one
        for part in PARTS:
            _remove(folder / part)
            if (partial / part).exists():
                (partial / part).rename(folder / part)
    except Exception as error:  # torch and safetensors say "disk full" each in their own way
        raise StorageError(f"{folder}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, module: Learned, options: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
    saved = Saved(family=module.family, keep=module.keep, options=options, base=module.base, fit=fit)
    folder.mkdir(parents=True)
    save_file({name: x.detach().cpu().contiguous() for name, x in module.state_dict().items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone
    if module.adapter is not None:
        module.adapter.save(folder / ADAPTER)
    (folder / RECORD).write_text(json.dumps(asdict(saved), indent=1) + "\n", "utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def describe(folder: Path) -> Saved:
    """Read `compressor.json` in the folder of a fitted method.

    Raises:
        ModelError: there is no such file, or it is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if isinstance(record, dict) and (found := record.get("format", FORMAT)) != FORMAT:
            raise ModelError(f"{folder / RECORD}: format {found}; this version reads {FORMAT}")
        saved: Saved = records.read(Saved, record)
    except OSError:
        raise ModelError(f"{folder}: no {RECORD} there; visionthink fit FAMILY --out {folder} writes one") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / RECORD}: damaged ({error})") from None
    return saved


def identity(folder: Path) -> str:
    """A digest of what a fitted module does: its settings and weights, however it came to them.

    Raises:
        ModelError: there is no such folder, or it is none of a fitted module.
    """
    found = hashlib.sha256(json.dumps(asdict(replace(describe(folder), fit={}))).encode())
    for file in sorted(path for part in (folder, folder / ADAPTER) for path in part.glob("*.safetensors")):
        with file.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{found.hexdigest()[:32]}"


def trained(module: Learned) -> Iterable[nn.Parameter]:
    """The parameters to train, including those of the adapter."""
    own = [*module.parameters(), *(module.adapter.parameters().values() if module.adapter is not None else ())]
    return (p for p in own if p.requires_grad)
