"""Trained methods: modules that answer as any other method does, so that what is trained is what is run.

A module begins as its untrained baseline, bit for bit: what it adds is multiplied by weights that are zero. Its control is a
module of the same size and training that lacks what the method is about; a number of the method says something only beside the
control's. Modules compute in float32, whatever the model's precision.

Saved are two files, `compressor.json` and `compressor.safetensors`, which are bound to the model that the module was fitted to,
and beside them `adapter/` where the decoder was tuned along.
"""

from __future__ import annotations

import hashlib
import json
import math
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
from visionthink.durable import replace_folder
from visionthink.errors import ModelError, OptionError

if TYPE_CHECKING:
    from visionthink.compress.adapter import Adapter

RECORD, WEIGHTS, ADAPTER = "compressor.json", "compressor.safetensors", "adapter"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that a module is fitted to."""

    model_type: str
    hidden: int
    """Width of the decoder, and of a visual token."""
    layers: int
    """How many layers the decoder has."""
    tower: int
    """Width of the vision tower."""
    patches: int
    """How many patches of the image make a visual token."""
    levels: tuple[int, ...]
    """Three blocks of the tower that attend to the whole image, from early to late."""
    merger: str
    """SHA-256 of the weights that make visual tokens, in bfloat16."""
    first: int = 1
    """The first layer of the decoder at whose entry a method can act."""
    blocks: int = 1
    """How many blocks the tower has."""

    @classmethod
    def of(cls, model: Any) -> Base:
        """The facts of an opened model."""
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
    """The last block feeds the merger already, so that it is none of them where there are others."""
    blocks = len(tower.blocks)
    whole = [i for i in getattr(tower, "fullatt_block_indexes", range(blocks)) if i < blocks - 1] or [blocks - 1]
    chosen = {whole[math.ceil(share * len(whole)) - 1] for share in (1 / 3, 2 / 3, 1)}
    return tuple(sorted(chosen))


class Learned(Idle, nn.Module):
    """What trained methods share.

    Args:
        base: the model it is for.
        keep: share of the visual tokens that is left.
    """

    family: ClassVar[str]
    control: ClassVar[Mapping[str, Any]]
    """Options that make the control of a method."""
    any_share: ClassVar[bool] = False
    """Whether a fitted module can leave another share than the one it was fitted with."""
    lora: ClassVar[Mapping[str, Any] | None] = None
    """Settings of the adapter with which the decoder is tuned along; None: it stays as it is."""
    needs: Needs = Needs()
    positions: Positions = "keep"
    scale: Tensor

    def __init__(self, base: Base, keep: float):
        super().__init__()
        check_share(self.family, "keep", keep)
        self.base, self.keep = base, keep
        self.adapter: Adapter | None = None
        self.register_buffer("scale", torch.ones(()))
        """Root mean square of a visual token's features."""

    @property
    def name(self) -> str:
        return f"{self.family}:{self.keep:g}"

    def adapt(self, model: Any) -> Learned:
        """The module with new layers of its own for the decoder of a model, if it has any."""
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
        """Take what depends on the data, and is not trained, from samples that are learnt from."""
        self.scale.copy_(torch.cat([context.features for context in contexts]).float().pow(2).mean().sqrt())

    def losses(self) -> dict[str, Tensor]:
        """What the module adds to the objective, by name, of what was read since this was last called."""
        return {}

    def progress(self, done: float) -> None:
        """How much of the training is done, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What `compressor.json` says."""

    family: str
    keep: float
    options: Mapping[str, Any]
    base: Base
    fit: Mapping[str, Any] = field(default_factory=dict)
    """How it was fitted, and what came of it and of its control; see `compress.fit`."""
    format: int = FORMAT


def save(folder: Path, module: Learned, options: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
    """Write a folder that `learned:FOLDER` names; it appears when it is whole.

    Raises:
        StorageError: it cannot be written; what was there is kept.
    """
    saved = Saved(family=module.family, keep=module.keep, options=options, base=module.base, fit=fit)
    with replace_folder(folder) as partial:
        save_file({name: x.detach().cpu().contiguous() for name, x in module.state_dict().items()}, partial / WEIGHTS)
        if module.adapter is not None:
            module.adapter.save(partial / ADAPTER)
        (partial / RECORD).write_text(json.dumps(asdict(saved), indent=1) + "\n", "utf-8")


def describe(folder: Path) -> Saved:
    """What a folder says of the module in it.

    Raises:
        ModelError: there is no such folder, or it is none of a fitted module.
    """
    try:
        saved: Saved = records.read(Saved, json.loads((folder / RECORD).read_text("utf-8")))
    except OSError:
        raise ModelError(f"{folder}: no {RECORD} there; visionthink fit FAMILY --out {folder} writes one") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / RECORD}: damaged ({error})") from None
    if saved.format != FORMAT:
        raise ModelError(f"{folder / RECORD}: format {saved.format}; this version reads {FORMAT}")
    return saved


def trained(module: Learned) -> Iterable[nn.Parameter]:
    """The parameters that are, those of its adapter among them."""
    own = [*module.parameters(), *(module.adapter.parameters().values() if module.adapter is not None else ())]
    return (p for p in own if p.requires_grad)
