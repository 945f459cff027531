"""LoRA layers of PEFT that are in the decoder only during a session. Outside of it the model has its own layers, weights and
parameter names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from visionthink.compress.parts import weights_in
from visionthink.errors import ModelError, OptionError, one_line

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


class Adapter:
    """A new LoRA adapter for a model, whose output is zero until it is trained.

    Args:
        settings: arguments of `peft.LoraConfig`, without dropout.

    Raises:
        OptionError: the model contains another adapter.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any]):
        if hasattr(model, "peft_config"):
            raise OptionError("an adapter is in the model already: merge it into the weights first")
        self.model, self.config = model, peft.LoraConfig(**settings)
        trained = [p for p in model.parameters() if p.requires_grad]
        peft.inject_adapter_in_model(self.config, model)
        del model.peft_config  # by which transformers and PEFT recognise a model with an adapter
        self.layers: dict[str, Any] = {n: layer for n, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
        self._put(plain=True)
        for p in trained:
            p.requires_grad_(True)
        for p in self.parameters().values():
            p.data = p.data.float()

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters to train, by the names under which PEFT saves them."""
        named = ((name, key, p) for name, layer in self.layers.items() for key, p in layer.named_parameters())
        return {f"{_PREFIX}{name}.{re.sub(r'[.]default', '', key)}": p for name, key, p in named if ".default" in key}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The layers of the adapter are in the model within the block."""
        self._put(plain=False)
        try:
            yield
        finally:
            self._put(plain=True)

    def _put(self, *, plain: bool) -> None:
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base_layer if plain else layer)

    def save(self, folder: Path) -> None:
        """Write PEFT's two files."""
        folder.mkdir()
        self.config.save_pretrained(str(folder))
        save_file({name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}, folder / _WEIGHTS)
        (folder / _WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone

    def load(self, folder: Path) -> Adapter:
        """Load the weights of a folder and freeze them.

        Raises:
            ModelError: they are missing, damaged, or those of other layers.
        """
        own, weights = self.parameters(), weights_in(folder / _WEIGHTS)
        try:
            if weights.keys() != own.keys():
                raise ValueError(f"{sorted(weights.keys() ^ own.keys())[0]} is in one of file and model only")
            for name, weight in weights.items():
                own[name].requires_grad_(False).copy_(weight)
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{folder / _WEIGHTS}: damaged ({one_line(error)})") from None
        return self
