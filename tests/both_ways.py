"""One step of training on the same rollouts with and without shared prefixes, and what came out of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from scripted import Reply, speak
from training import small
from transformers import TrainerCallback

from visionthink import Example
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.train.sampled import SampledStep
from visionthink.train.trainer import VisionThinkTrainer, make_trainer

EXACT = 1e-5
"""Of losses and of log-probabilities relative to the largest (at least 1), and of gradients relative to the longest of any
parameter, in float32."""

QUESTIONS = (
    "Which digit is written?",
    "What is the dark number?",
    "Is there a shape at the bottom left?",
    "Which way do they run?",
)
"""As the tiny model knows them: what it never says has log-probabilities of -30, whose rounding the KL penalty blows up."""


def scenes(size: int = 112, count: int = 4) -> list[Example]:
    """Questions of different lengths over different images; the answer is 0."""
    return [
        Example(str(i), QUESTIONS[i], Image.linear_gradient("L").resize((size, size)).rotate(40 * i).convert("RGB"), answer="0")
        for i in range(count)
    ]


@dataclass(kw_only=True)
class Outcome:
    """What a step computed: losses of its passes, gradients of its updates by parameter, log-probabilities of sampled tokens by
    who was asked (`reference`, `old`, `new`), and the rollouts of each pass."""

    trainer: VisionThinkTrainer
    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    logprobs: dict[str, list[torch.Tensor]] = field(default_factory=lambda: {"reference": [], "old": [], "new": []})
    passes: list[list[list[int]]] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)


def trained(
    out: Any,
    examples: Sequence[Example],
    reply: Reply,
    *,
    share: str = "on",
    step: SampledStep | None = None,
    checkpoint: Checkpoint | None = None,
    frozen_tower: bool = False,
    halved: bool = False,
    **changes: Any,
) -> Outcome:
    """One step, sampled by the script `reply`, or given as `step`. Weights are moved off the reference's before; where
    `halved`, to values that bfloat16 has."""
    torch.manual_seed(0)
    own = checkpoint or open_checkpoint(changes.pop("model", "tiny-base"))
    if frozen_tower:
        own.model.model.visual.requires_grad_(False)
    settings = {"steps": 1, "prompts_per_step": len(examples), "kl_coef": 0.2, "shuffle": False, "exclude": "", "judge": "exact"}
    config = small(out / share, share=share, **settings | {"max_new_tokens": 40} | changes)
    trainer = make_trainer(config, examples, checkpoint=own)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainer.model.parameters():
            if p.requires_grad:
                moved = p + 0.003 * torch.randn(p.shape, generator=noise)
                p.copy_(moved.bfloat16() if halved else moved)
    speak(trainer, reply)
    outcome = Outcome(trainer=trainer)
    # Adam would blow up float errors where a gradient is 0
    trainer.optimizer_cls_and_kwargs = torch.optim.SGD, {"lr": 1e-3}
    trainer.args.max_grad_norm = 1e9
    _record(trainer, outcome, step)
    trainer.train()
    outcome.metrics = trainer.state.log_history
    return outcome


def _record(trainer: VisionThinkTrainer, outcome: Outcome, step: SampledStep | None) -> None:
    sample, score, loss = trainer._sample, trainer._generate_and_score_completions, trainer._compute_loss
    logprobs = trainer._get_per_token_logps_and_entropies
    found: list[torch.Tensor] = []

    def sampled(*given: Any) -> None:
        if step is None:
            sample(*given)
        else:
            trainer.step = step
        torch.manual_seed(2)  # groups are permuted in the same way

    def scored(inputs: Any) -> dict[str, Any]:
        output = score(inputs)
        for name, key in (("reference", "ref_per_token_logps"), ("old", "old_per_token_logps")):
            if output.get(key) is not None:
                outcome.logprobs[name].append(output[key] * _mask(output))
        return output

    def of_rows(*given: Any, **named: Any) -> Any:
        answer = logprobs(*given, **named)
        found.append(answer[0].detach())
        return answer

    def computed(model: Any, inputs: Any) -> torch.Tensor:
        value = loss(model, inputs)
        outcome.losses.append(value.item())
        outcome.logprobs["new"].append(found[-1] * _mask(inputs))
        outcome.passes.append(inputs["completion_ids"].tolist())
        return value

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
            outcome.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    trainer._sample, trainer._generate_and_score_completions, trainer._compute_loss = sampled, scored, computed
    trainer._get_per_token_logps_and_entropies = of_rows
    trainer.add_callback(Gradients())


def _mask(inputs: Any) -> torch.Tensor:
    return inputs["completion_mask"] * inputs["tool_mask"]


def both(out: Any, examples: Sequence[Example], reply: Reply, **changes: Any) -> tuple[Outcome, Outcome]:
    """With shared prefixes, and without them on the same rollouts."""
    shared = trained(out, examples, reply, share="on", **changes)
    return shared, trained(out, examples, reply, share="off", step=shared.trainer.step, **changes)


@dataclass(frozen=True)
class Apart:
    """The largest differences between two ways, relative as `EXACT` is."""

    loss: float
    logprobs: float
    gradients: float

    def __le__(self, most: float) -> bool:
        return max(self.loss, self.logprobs, self.gradients) <= most


def apart(one: Outcome, other: Outcome, least: float = 1e-3) -> Apart:
    """`least` is what the longest gradient of every update must have, so that something is compared."""
    assert one.passes == other.passes and len(one.losses) == len(other.losses) > 0
    assert one.logprobs.keys() == other.logprobs.keys()
    logprobs = 0.0
    for name, values in one.logprobs.items():
        for mine, theirs in zip(values, other.logprobs[name], strict=True):
            assert mine.shape == theirs.shape
            logprobs = max(logprobs, float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1)))
    gradients = 0.0
    for mine, theirs in zip(one.gradients, other.gradients, strict=True):
        assert mine.keys() == theirs.keys()
        longest = max(float(value.float().norm()) for value in theirs.values())
        assert longest > least, "there is nothing to compare"
        gradients = max(gradients, *(float((mine[k] - theirs[k]).float().norm()) / longest for k in theirs))
    losses = max(abs(a - b) / max(1, abs(b)) for a, b in zip(one.losses, other.losses, strict=True))
    return Apart(losses, logprobs, gradients)


def saying(rows: Sequence[Sequence[str]], request: str) -> Reply:
    """What the members say to the first question, to the second and so on. A text with `?` in front is said before a request,
    after which the member answers with its number; any other is an answer."""

    def reply(question: str, turn: int, member: int) -> str:
        said = rows[next(i for i, asked in enumerate(QUESTIONS) if asked in question) % len(rows)]
        if turn:
            return f"<answer>{member}</answer>"
        text = said[member % len(said)]
        return f"{text[1:]}{request}" if text.startswith("?") else f"<answer>{text}</answer>"

    return reply
