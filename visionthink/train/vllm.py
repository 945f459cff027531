"""Turns of a training run that vLLM samples, in this process or behind a server, through what TRL has set up.

vLLM prepares images by the checkpoint's own files, which know nothing of a run's limit: it gets every image at the size that was
counted and trained on, and what it made of it is compared with our ids. Its copies of the weights, and whatever it computed with
older ones, are renewed before the first turn of a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from PIL import Image

from visionthink.errors import ModelError, OptionError
from visionthink.policies.render import Renderer, one_pad_an_image
from visionthink.resolution import PixelBudget
from visionthink.train.config import NEVER
from visionthink.train.saving import merged
from visionthink.types import Failure, ImageView

if TYPE_CHECKING:
    from trl import GRPOTrainer


@dataclasses.dataclass(frozen=True)
class Sampled:
    """One turn: ids, and their log-probabilities under the distribution they were drawn from; or why there is none."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    failure: Failure | None = None


class TrainingVllm:
    """Samples from the weights that a TRL trainer is training.

    Raises:
        OptionError: the server reads less than the longest episode takes.
    """

    def __init__(self, trainer: GRPOTrainer, renderer: Renderer, budget: PixelBudget):
        self.trainer, self.renderer, self.budget = trainer, renderer, budget
        self.generation = generation = trainer.vllm_generation
        self.colocated = generation.mode == "colocate"
        self.client = None if self.colocated or not trainer.accelerator.is_main_process else generation.vllm_client
        generation.generation_kwargs = generation.generation_kwargs | {"stop_token_ids": renderer.end_ids}
        if hasattr(trainer.model, "peft_config"):
            generation._iter_named_params = self._merged
        generation._place_features = self._placed
        self.context = self._context(trainer.args.vllm_max_model_length)
        """Tokens that vLLM reads."""

    def sample(self, prompts: Sequence[list[int]], views: Sequence[Sequence[ImageView]], banned: Sequence[int]) -> list[Sampled]:
        """One turn per prompt.

        Args:
            views: shown in each prompt, in order.
            banned: ids that must not be sampled.

        Raises:
            ModelError: the server makes other numbers of visual tokens of the images than were counted.
        """
        self._renew()
        # vLLM in this process repeats the pad of an image itself
        shown = [one_pad_an_image(ids, self.renderer.image_pad_id) for ids in prompts] if self.colocated else list(prompts)
        images = [[as_counted(view, self.budget) for view in row] or None for row in views]
        with self._without(banned):
            read, ids, logprobs, _ = self.generation.generate(prompts=shown, images=images, num_generations=1)
        return [
            sampled(prompt, list(seen), said, [value for value, *_ in steps])
            for prompt, seen, said, steps in zip(prompts, read, ids, logprobs, strict=True)
        ]

    def _renew(self) -> None:
        """Give vLLM the weights of this step. TRL drops cached keys and values with the old ones, and not cached features of
        images, which are as old."""
        step = self.trainer.state.global_step
        if step == self.trainer._last_loaded_step:
            return
        with torch.no_grad():
            self.generation.sync_weights()
        if self.colocated:
            self.generation.llm.llm_engine.reset_encoder_cache()
        elif self.client is not None:
            self.client.session.post(f"{self.client.base_url}/reset_encoder_cache").raise_for_status()
        self.trainer._last_loaded_step = step

    def _merged(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights with the adapter added. TRL would add it to the weights themselves, and take it out again, at every step."""
        model = self.trainer.model
        for name, weight in merged(dict(model.named_parameters()), model.peft_config["default"]):
            yield name, weight.to(model.dtype)

    @contextlib.contextmanager
    def _without(self, banned: Sequence[int]) -> Iterator[None]:
        usual = self.generation.generation_kwargs
        biases = usual.get("logit_bias", {}) | dict.fromkeys(banned, NEVER)
        self.generation.generation_kwargs = usual | {"logit_bias": biases}
        try:
            yield
        finally:
            self.generation.generation_kwargs = usual

    def _context(self, longest: int) -> int:
        if self.colocated:
            return self.generation.llm.llm_engine.model_config.max_model_len
        read = [self.client.get_server_info()["model_config"]["max_model_len"] if self.client else 0]
        broadcast_object_list(read)
        if read[0] < longest:
            raise OptionError(
                f"vllm server: reads {read[0]} tokens, and an episode may take {longest}; start it with --max-model-len {longest}"
            )
        return read[0]

    def _placed(self, features: dict[str, Any] | None, prompt: list[int]) -> dict[str, Any] | None:
        """What a server made of the images, moved to where they stand in our prompt.

        Raises:
            ModelError: it made more or fewer visual tokens of them.
        """
        if features is None:
            return None
        made = [place["length"] for place in features["mm_placeholders"]["image"]]
        runs = pad_runs(prompt, self.renderer.image_pad_id)
        if made != [length for _, length in runs]:
            raise ModelError(
                f"vllm server: it makes {made} visual tokens of images that take {[length for _, length in runs]} here; "
                "serve the checkpoint that is trained, with its own preprocessor_config.json and no --mm-processor-kwargs"
            )
        places = [{"offset": offset, "length": length} for offset, length in runs]
        return features | {"mm_placeholders": features["mm_placeholders"] | {"image": places}}


def sampled(prompt: list[int], read: list[int], ids: Sequence[int], logprobs: Sequence[float | None]) -> Sampled:
    """A turn of vLLM's, or what is wrong with it."""
    if read != prompt:
        why = f"vLLM read {len(read)} tokens where {len(prompt)} were meant: it sees images of other sizes"
        return Sampled(failure=Failure("bad_request", why))
    values = tuple(value for value in logprobs if value is not None)  # TRL's word for one that is not a number
    if len(values) < len(ids):
        return Sampled(failure=Failure("server", "the model's logits are not numbers"))
    return Sampled(tuple(ids), values)


def as_counted(view: ImageView, budget: PixelBudget) -> Image.Image:
    """A view's image at the size that the trainer's image processor makes of it, resampled as it does: at the highest level a
    view has the file's own size."""
    size = budget.fit(*view.image.size)
    return view.image if view.image.size == size else view.image.resize(size, Image.Resampling.BICUBIC)


def pad_runs(ids: Sequence[int], pad: int) -> list[tuple[int, int]]:
    """(offset, length) of every run of image pads."""
    runs: list[tuple[int, int]] = []
    for i, token in enumerate(ids):
        if token != pad:
            continue
        if runs and sum(runs[-1]) == i:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((i, 1))
    return runs
