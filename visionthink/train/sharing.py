"""Training in which every image and every shared prefix is computed once: generation by our engine, and reference, old and new
log-probabilities over a tree of a step's rollouts. The loss, its clipping and its KL penalty stay TRL's.

Seams of TRL 1.16: `_generate` returns no images, so that no pixels are made for rows; rows are numbered before TRL permutes them;
`_get_per_token_logps_and_entropies` takes the numbers and answers for these rows.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from visionthink.engine.attention import keep_wanted, share_attention, why_not, without_mask
from visionthink.engine.engine import Engine
from visionthink.engine.sampling import Said, Sampling, Streams
from visionthink.engine.stock import StockGeneration
from visionthink.engine.tower import Features, Pixels, PreparedImages, encode_once
from visionthink.engine.trial import SENTENCE, difference
from visionthink.errors import OptionError, VisionThinkError
from visionthink.policies.render import Renderer
from visionthink.train import agreement
from visionthink.train.config import TrainConfig
from visionthink.train.processes import distribution
from visionthink.train.sampled import SampledStep
from visionthink.train.scoring import StepScorer

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

log = logging.getLogger(__name__)


class SharedPrefixes(_Trainer):
    """For the trainer of TRL: a class that names this one before it computes shared prefixes once."""

    config: TrainConfig
    step: SampledStep
    _buffered_inputs: list[dict[str, Any]] | None
    engine: Engine | None = None
    """Computes what is shared; None where nothing is, and TRL computes every row by itself."""

    def share(self, renderer: Renderer, image_processor: Any) -> None:
        """Begin to share, if the settings and the model allow it.

        Raises:
            OptionError: it is asked for and cannot be done.
        """
        model, pad = self.trained(), renderer.image_pad_id
        hindrance = "it is switched off" if self.config.share == "off" else _hindrance(model, self.args)
        if not hindrance and self.accelerator.device.type == "cuda":
            hindrance = self._trial(renderer, image_processor)
        if hindrance and self.config.share == "on":
            raise OptionError(f"share on: {hindrance}; use --share auto")
        if hindrance and self.config.canonical:
            raise OptionError(f"canonical: {hindrance}, and a rollout by itself must be one sequence; train without it")
        if hindrance:
            if self.config.share == "auto":
                log.warning("prefixes are computed for every rollout anew: %s", hindrance)
            return
        self.images = PreparedImages(image_processor)
        self.engine, self.streams = Engine(model, self.images, pad), Streams(f"{self.config.seed}")
        for each in (model, self.ref_model):
            if each is not None:
                share_attention(self.accelerator.unwrap_model(each))
                keep_wanted(self.accelerator.unwrap_model(each))
        self._chosen: list[int] | None = None
        self._unchecked = True

    def _trial(self, renderer: Renderer, image_processor: Any) -> str:
        """What goes wrong in attention that is compiled for this machine; empty if nothing does."""
        model, pad = self.trained(), renderer.image_pad_id
        padding = renderer.tokenizer.pad_token_id
        stock = StockGeneration(model, PreparedImages(image_processor), pad, padding)
        model.eval()
        try:
            with self.accelerator.autocast():
                return difference(Engine(model, PreparedImages(image_processor), pad), stock, renderer.plain(SENTENCE))
        finally:
            model.train()

    def trained(self) -> Any:
        """The model itself: neither wrapped nor with the adapter around it."""
        return self._itself(self.model)

    def _itself(self, model: Any) -> Any:
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @contextlib.contextmanager
    def sampling(self, step: int) -> Iterator[None]:
        """Around the generation of a step: what was computed with other weights is dropped before, and what no pass needs
        after."""
        if self.engine:
            self.engine.forget()
            self.images.keep(set())
            self.streams = Streams(f"{self.config.seed} {step}")
        yield
        if self.engine:
            self.engine.forget(keep_features=self._tower_is_frozen)

    def complete(
        self, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Image.Image]], banned: Sequence[int]
    ) -> list[Said]:
        """What the model under training says after each prompt."""
        assert self.engine is not None
        usual = self.generation_config
        rule = Sampling(
            ends=frozenset(self.eos_token_ids),
            most=usual.max_new_tokens,
            temperature=usual.temperature,
            banned=tuple(sorted({*(usual.suppress_tokens or ()), *banned})),
        )
        model = self.engine.model.eval()
        try:
            # in the precision of the forward pass that is trained: adapters are in float32 beside weights in bfloat16
            with torch.no_grad(), self.accelerator.autocast():
                return self.engine.complete(prompts, images, rule, self.streams, retain=True)
        finally:
            model.train()

    @property
    def _tower_is_frozen(self) -> bool:
        return not any(p.requires_grad for p in self.trained().model.visual.parameters())

    def generated(self) -> tuple[Any, ...]:
        """The step as TRL takes it, without images where they are shared."""
        if self.engine:
            self.scorer = StepScorer(self.step.rollouts, self.images, self.engine.pad, self.accelerator.device)
            self._check()
        return self.step.generated(with_logprobs=self.use_vllm, with_images=self.engine is None)

    def _check(self) -> None:
        """Compute some of the first step's rollouts both ways, and share no more if they differ on any process."""
        rollouts = self.step.rollouts
        rows = agreement.some(rollouts) if self._unchecked else []
        said = ""
        if rows:
            try:
                said = agreement.difference(self, rollouts, rows)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                log.warning("shared prefixes could not be compared with rows by themselves: these do not fit into memory")
            self.scorer.tokens = 0
        if not self._unchecked:
            return
        state = torch.tensor([bool(said), bool(rows)], device=self.accelerator.device)
        differs, tried = self.accelerator.gather(state).view(-1, 2).any(0).tolist()
        self._unchecked = not tried
        if differs and self.config.canonical:
            raise VisionThinkError(f"canonical: shared prefixes cannot be used ({said or 'they differ on another process'})")
        if differs:
            log.warning("prefixes are computed for every rollout anew: %s", said or "they differ on another process")
            self.engine = None

    def scored(self, rows: Sequence[int]) -> Tensor:
        """Log-probabilities of these rollouts under the model that is trained, with gradients, [rows, longest]."""
        width = max(len(self.step.completion_ids[i]) for i in rows)
        return self._scored(self.accelerator.unwrap_model(self.model), rows, width, {})[0]

    # ------------------------------------------------------------------------------------------------ seams of TRL

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._chosen = None
        output = super()._generate_and_score_completions(inputs)
        return output | {"row": torch.arange(len(output["prompt_ids"]))} if self.engine else output

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The same as in TRL, but whole groups are permuted: what members share can only be used where they are in one pass."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        passes = self.args.steps_per_generation
        if self._step % (passes * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            groups = torch.randperm(len(batch["prompt_ids"]) // self.num_generations)
            members = torch.rand(len(groups), self.num_generations).argsort(1)  # forced ones stand last in a group
            order = (groups[:, None] * self.num_generations + members).flatten()
            batches = split_tensor_dict({name: _permuted(values, order) for name, values in batch.items()}, passes)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(batch) for batch in batches]
        return self._buffered_inputs[self._step % passes]

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        self._chosen = inputs["row"].tolist() if self.engine else None
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probabilities, and entropies, [rows, logits_to_keep] of what is learnt from; 0 elsewhere, which the loss masks."""
        if not self.engine:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        rows = self._chosen if self._chosen is not None else range(len(input_ids))
        size = batch_size or len(rows)
        features: dict[int, Features] = {}
        found = [self._scored(model, rows[i : i + size], logits_to_keep, features) for i in range(0, len(rows), size)]
        logprobs = torch.cat([each for each, _ in found])
        entropies = [each for _, each in found if each is not None] if compute_entropy else []
        return logprobs, torch.cat(entropies) if entropies else None, None

    def _scored(self, model: Any, rows: Sequence[int], width: int, features: dict[int, Features]) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies of these rows, each [rows, width].

        Args:
            features: features of images that an earlier part of the same pass has encoded.
        """
        packed, order = self.scorer.packed(rows), torch.tensor(rows, device=self.accelerator.device).argsort()
        with self.accelerator.autocast():
            encoded = self._encoded(model, packed.images, features)
            out = model(
                **packed.inputs(encoded),
                attention_mask=without_mask(self.trained()),
                fused_lm_head=True,
            )
        entropy = None if out.entropy is None else packed.spread(out.entropy, order, width)
        return packed.spread(out.log_probs, order, width), entropy

    def _encoded(self, model: Any, images: Sequence[Pixels], features: dict[int, Features]) -> Features | None:
        assert self.engine is not None
        own = self._itself(model)
        if own is self.engine.model and self._tower_is_frozen:
            with torch.no_grad():
                return self.engine.features(images)
        encoded, patches = encode_once(own, images, features)
        self.engine.counts.patches += patches
        return encoded


def _permuted(values: Any, order: Tensor) -> Any:
    if values is None or (isinstance(values, Tensor) and values.ndim == 0):
        return values
    return values[order] if isinstance(values, Tensor) else [values[i] for i in order.tolist()]


_SAMPLED = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
"""Settings of TRL that change how tokens are drawn, which the engine does not know, and their values without effect."""


def _hindrance(model: Any, arguments: Any) -> str:
    """Why a run cannot share prefixes; empty if it can."""
    changed = [name for name, usual in _SAMPLED.items() if getattr(arguments, name) != usual]
    if changed and not arguments.use_vllm:
        return f"{', '.join(changed)} of TRL: the engine draws from all tokens, by their probabilities alone"
    if distribution().sharded:
        return "weights are divided among processes (ZeRO-3, FSDP), and are not whole outside of a pass"
    if "mm_encoder_outputs" not in inspect.signature(type(model).forward).parameters:
        return "this version of transformers takes no features of images; pip install --upgrade transformers"
    return why_not(model)
