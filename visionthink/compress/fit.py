"""The training of a method and of its control, and what both come to.

    L = a CE + b T^2 KL(teacher || student) + sum of the module's own losses

over the tokens of the answers; the teacher is the same model with all visual tokens. transformers' `Trainer` runs it. The model
stays as it is, but for methods that come with layers of the decoder: those are trained along, and are in it only for the method.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from visionthink.compress.families import FAMILIES, make
from visionthink.compress.fit_config import FitConfig
from visionthink.compress.learned import Base, Learned, save, trained
from visionthink.compress.prepare import prepare
from visionthink.compress.selection import Method, Needs, Selection, TrainingFree, VisionContext
from visionthink.compress.session import compress
from visionthink.errors import OptionError
from visionthink.progress import stage

Batch = Mapping[str, Tensor]
MEASURED = 128
"""Samples from which a module takes what depends on the data and is not trained."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is learnt from, and what is measured on: batches of model inputs with labels, padded on the left."""

    name: str
    train: int
    test: int
    """Numbers of samples."""
    batch: Callable[[Literal["train", "test"], Sequence[int]], Batch]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a method comes to on questions that it was not trained on."""

    accuracy: float
    """Share of the answers of which every token is the most probable one after the right ones before it."""
    divergence: float
    """KL(teacher || student) per token of the answers, in nats."""
    tokens: float
    """Mean number of visual tokens that enter a layer of the decoder."""
    seconds: float = 0.0
    """How long training took."""
    right: str = ""
    """1 or 0 for each answer in turn, as `accuracy` counts them."""


class Task(nn.Module):
    """A module with the model that it is trained for, as one module with a loss."""

    def __init__(self, model: Any, module: Learned, config: FitConfig):
        super().__init__()
        self.model, self.module, self.fitted_by = model, module, config
        self.trained = nn.ParameterList(trained(module))

    def train(self, mode: bool = True) -> Task:
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        answers, teacher = self.fitted_by.weights
        if not answers and not teacher:
            return {"loss": _own_losses(self.model, self.module, batch)}
        logits, targets = _read(self.model, self.module, batch)
        loss = sum(self.module.losses().values(), logits.new_zeros(()))
        if answers:
            loss = loss + answers * cross_entropy(logits, targets)
        if teacher:
            whole = teacher_logits(self.model, batch)
            loss = loss + teacher * divergence(whole, logits, self.fitted_by.temperature)
        return {"loss": loss}


def _own_losses(model: Any, module: Learned, batch: Batch) -> Tensor:
    """What a module asks of itself; the decoder is not run."""
    prepare(model, batch, module)
    losses = module.losses()
    if "reconstruct" not in losses:
        raise OptionError(f"--objective reconstruct: {module.family} reconstructs nothing; choose answers or distill")
    return torch.stack(list(losses.values())).sum()


def _read(model: Any, method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """(logits [answer tokens, vocabulary], those tokens) of a model with a method."""
    with compress(model, method) as session:
        logits = _logits(model, batch)
    return _at_answers(logits, session.aligned(batch["labels"]))


def teacher_logits(model: Any, batch: Batch) -> Tensor:
    """Logits [answer tokens, vocabulary] of the model with all visual tokens."""
    with torch.no_grad():
        return _at_answers(_logits(model, batch), batch["labels"])[0]


def _logits(model: Any, batch: Batch) -> Tensor:
    """[batch, positions that are left, vocabulary]"""
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _at_answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    said = labels[:, 1:] != -100
    return logits[:, :-1][said].float(), labels[:, 1:][said]


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student), mean over rows of logits [rows, vocabulary], in nats.

    Example: 0.5108 for teacher probabilities (0.5, 0.5) and student probabilities (0.9, 0.1).
    """
    expected, said = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    return temperature**2 * kl_div(said, expected, log_target=True, reduction="batchmean")


def measured(model: Any, method: Method | None, questions: Questions, batch_size: int = 32) -> Measured:
    """What a method comes to; None: the model with all visual tokens."""
    right, nats, tokens, entered = "", 0.0, 0, 0.0
    for first in range(0, questions.test, batch_size):
        batch = moved(questions.batch("test", range(first, min(first + batch_size, questions.test))), model.device)
        with torch.no_grad():
            labels, plain = batch["labels"], _logits(model, batch)
            whole, _ = _at_answers(plain, labels)
            if method is None:
                logits = plain
                entered += float(batch["mm_token_type_ids"].sum())
            else:
                with compress(model, method) as session:
                    logits = _logits(model, batch)
                labels = session.aligned(labels)
                entered += sum(sum(left) / len(left) for left, _ in session.samples())
            said = labels[:, 1:] != -100
            wrong = (logits[:, :-1].argmax(-1) != labels[:, 1:]) & said
            right += "".join("0" if row else "1" for row in wrong.any(1).tolist())
            student, targets = _at_answers(logits, labels)
            nats, tokens = nats + float(divergence(whole, student)) * len(targets), tokens + len(targets)
    return Measured(accuracy=right.count("1") / len(right), divergence=nats / tokens, tokens=entered / len(right), right=right)


def moved(batch: Batch, device: Any) -> Batch:
    return {name: x.to(device) for name, x in batch.items()}


class _Progress(transformers.TrainerCallback):
    """Tells the module how much is done, and shows it."""

    def __init__(self, module: Learned, steps: int, advance: Any):
        self.module, self.steps, self.advance = module, steps, advance

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        self.module.progress(state.global_step / self.steps)

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        self.advance(1)


def train(model: Any, module: Learned, questions: Questions, config: FitConfig, what: str) -> float:
    """Train a module in place; returns the seconds that took. One with nothing to train is left as it is."""
    if not any(True for _ in trained(module)):
        return 0.0
    model.requires_grad_(False)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, stage(what, config.steps) as advance:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, config.steps // 25),
            weight_decay=0.01,
            max_grad_norm=1.0,
            seed=config.seed,
            use_cpu=model.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = transformers.Trainer(
            model=Task(model, module, config),
            args=arguments,
            train_dataset=_Numbers(questions.train),
            data_collator=lambda numbers: dict(questions.batch("train", numbers)),
            callbacks=[_Progress(module, config.steps, advance)],
        )
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.train()
    module.eval()
    return time.perf_counter() - began


class _Numbers(torch.utils.data.Dataset[int]):
    """The samples by their numbers; they are made when a batch needs them."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


@dataclass(frozen=True, kw_only=True)
class _Looking(TrainingFree):
    """Takes nothing out, and remembers what it was shown."""

    family: ClassVar[str] = "looking"
    keep: float = 1.0
    needs: Needs  # type: ignore[misc]
    contexts: list[VisionContext] = field(default_factory=list)

    def vision(self, context: VisionContext) -> Selection | None:
        self.contexts.append(context)
        return None


def seen(model: Any, needs: Needs, questions: Questions, batch_size: int) -> list[VisionContext]:
    """What a method is shown of the first samples that are learnt from."""
    looking, samples = _Looking(needs=needs), min(MEASURED, questions.train)
    with torch.no_grad():
        for first in range(0, samples, batch_size):
            batch = questions.batch("train", range(first, min(first + batch_size, samples)))
            prepare(model, moved(batch, model.device), looking)
    return looking.contexts


def fit(
    model: Any,
    family: str,
    keep: float,
    questions: Questions,
    out: Path,
    config: FitConfig,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a method and its control with the same steps and seed, and save the method to `out` and the control to
    `out/control`. Returns what `compressor.json` says of the fit, with a `Measured` under `full`, `untrained`, `control` and
    `trained`.

    Raises:
        OptionError: the method cannot be made with these settings, or has no place in the model.
    """
    base, modules = Base.of(model), {}
    for name in ("trained", "control"):
        chosen = dict(options or {})
        if name == "control":
            chosen |= FAMILIES[family].control
        torch.manual_seed(config.seed)
        modules[name] = make(family, base, keep, chosen).adapt(model), chosen
    report: dict[str, Any] = {"questions": questions.name, "samples": questions.train, "tested": questions.test, **asdict(config)}
    report["full"] = asdict(measured(model, None, questions))
    contexts = seen(model, modules["trained"][0].needs, questions, config.batch_size)
    for module, _ in modules.values():
        module.to(model.device).eval().measure(contexts)
    report["untrained"] = asdict(measured(model, modules["trained"][0], questions))
    for name, (module, _) in modules.items():
        seconds = train(model, module, questions, config, f"{family}, {name}")
        report[name] = asdict(measured(model, module, questions)) | {"seconds": seconds}
    for name, folder in (("trained", out), ("control", out / "control")):
        module, said = modules[name]
        save(folder, module, said, report)
    return report
