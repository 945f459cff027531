"""What the settings of all kinds of runs share: checks, descriptions, the adapter, and what they change of a checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from visionthink import records
from visionthink.errors import OptionError
from visionthink.menu import Menu, named_menu
from visionthink.protocol import Protocol

if TYPE_CHECKING:
    from peft import LoraConfig

    from visionthink.policies.checkpoint import Checkpoint
    from visionthink.resolution import PixelBudget

ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Names of the layers that an adapter is put on: every linear one of the language model."""


class RunSettings:
    """The base of frozen records of settings, which declare the fields named here."""

    dialect: str
    menu: str
    ladder: str
    max_image_tokens: int
    lora_rank: int
    seed: int
    report_to: str

    def _check_shared(self, least: Mapping[str, float]) -> None:
        """
        Args:
            least: the least value of every number, by its name.

        Raises:
            OptionError: a number is too small or too large, the dialect cannot ask for what the menu offers, or nothing can be
                logged to `report_to`.
        """
        for name, value in least.items():
            if not value <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} {getattr(self, name)}: must be a number of at least {value:g}")
        if self.seed >= 2**32:
            raise OptionError(f"seed {self.seed}: must be below {2**32}")
        if self.report_to not in ("none", "trackio", "wandb", "tensorboard"):
            raise OptionError(f"unknown report_to {self.report_to!r}; choose none, trackio, wandb or tensorboard")
        if self.report_to != "none" and importlib.util.find_spec(self.report_to) is None:
            raise OptionError(f"report_to {self.report_to}: is not installed; pip install {self.report_to}")
        menu = self.rollout_menu()
        if self.chosen_dialect:
            Protocol(self.chosen_dialect).check_menu(menu, must_ask=True)

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """Name and one-line description of every setting, read from the strings below the fields of the class."""
        return records.documentation(cls)

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def rollout_menu(self) -> Menu:
        menu, _ = named_menu(self.menu)
        return menu.with_levels(self.ladder) if self.ladder else menu

    @property
    def chosen_dialect(self) -> str | None:
        """The dialect of this run, named or brought along by the menu; None: the one stored beside the checkpoint."""
        return self.dialect or named_menu(self.menu)[1]

    def limited(self, budget: PixelBudget) -> PixelBudget:
        """The sizes that images may have in this run."""
        return budget.capped(self.max_image_tokens) if self.max_image_tokens else budget

    def adjusted(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with this run's wording and limit on images, which are also saved with it."""
        budget, image_processor = self.limited(checkpoint.budget), checkpoint.image_processor
        if self.max_image_tokens:
            image_processor = copy.copy(image_processor)  # the caller's stays as it is
            image_processor.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
        protocol = checkpoint.protocol.with_dialect(self.chosen_dialect)
        return dataclasses.replace(checkpoint, budget=budget, protocol=protocol, image_processor=image_processor)

    def peft(self) -> LoraConfig | None:
        """The adapter, if one is trained: on every linear layer of the language model.

        Raises:
            OptionError: peft is not installed.
        """
        if not self.lora_rank:
            return None
        try:
            from peft import LoraConfig
        except ImportError:
            raise OptionError(f"lora_rank {self.lora_rank}: needs peft; pip install 'visionthink[train]'") from None
        rank = self.lora_rank
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED, task_type="CAUSAL_LM")
