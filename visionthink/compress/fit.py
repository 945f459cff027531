"""Train a method and its control, and measure both.

    L = a CE + b T^2 KL(teacher || student) + sum of the module's own losses

over the tokens of the answers; the teacher is the same model with all visual tokens. transformers' `Trainer` runs the training.
The weights of the model are frozen. A method with a LoRA adapter trains its adapter too, which is part of the model only while
the method is active.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from visionthink.compress.families import FAMILIES, check_objective, make
from visionthink.compress.fit_config import FitConfig
from visionthink.compress.fit_trainer import FitTrainer, Numbers, Progress
from visionthink.compress.learned import CHECKPOINTS, Base, Learned, save, trained
from visionthink.compress.prepare import prepare
from visionthink.compress.selection import Idle, Method, Needs, Positions, Selection, VisionContext
from visionthink.compress.session import compress
from visionthink.engine.checkpoints import drop_torn_checkpoints, last_checkpoint, trained_updates
from visionthink.errors import OptionError
from visionthink.progress import stage

Batch = Mapping[str, Tensor]
MEASURED = 128
"""Number of training samples that `Learned.measure` is given."""
SAVED = 50
"""Optimizer updates from one checkpoint to the next."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Training and test data: batches of model inputs with labels, padded on the left."""

    name: str
    train: int
    """Number of training samples."""
    test: int
    """Number of test samples."""
    batch: Callable[[Literal["train", "test"], Sequence[int]], Batch]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results of a method on the test questions."""

    accuracy: float
    """Share of the answers in which every token is the most probable one, given the correct tokens before it."""
    divergence: float
    """KL(teacher || student) per token of the answers, in nats."""
    tokens: float
    """Visual tokens that enter a decoder layer, mean over layers and samples."""
    seconds: float = 0.0
    """Training time."""
    right: str = ""
    """1 or 0 for each answer in order, as `accuracy` counts them."""


class Task(nn.Module):
    """A method together with its model, as one module that returns the loss."""

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
    """The sum of the module's own losses; the decoder is not run."""
    prepare(model, batch, module)
    return torch.stack(list(module.losses().values())).sum()


def _read(model: Any, method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """(logits [answer tokens, vocabulary], ids of these tokens) of a model with a method."""
    with compress(model, method) as session:
        logits = _logits(model, batch)
    return _at_answers(logits, session.aligned(batch["labels"]))


def teacher_logits(model: Any, batch: Batch) -> Tensor:
    """Logits [answer tokens, vocabulary] of the model with all visual tokens."""
    with torch.no_grad():
        return _at_answers(_logits(model, batch), batch["labels"])[0]


def _logits(model: Any, batch: Batch) -> Tensor:
    """[batch, remaining positions, vocabulary]"""
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
    """Measure a method on the test questions; None: the model with all visual tokens."""
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
    """The batch on a device."""
    return {name: x.to(device) for name, x in batch.items()}


def train(model: Any, module: Learned, questions: Questions, config: FitConfig, what: str, folder: Path) -> float:
    """Train a module in place and return the seconds that it took: 0 if the module has no parameters to train.

    Args:
        folder: where checkpoints are written; the training goes on from the last one that is there.
    """
    if not any(True for _ in trained(module)):
        return 0.0
    model.requires_grad_(False)
    newest = last_checkpoint(folder)
    done = trained_updates(newest) if newest else 0
    with stage(what, config.steps, done=done) as advance:
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, config.steps // 25),
            weight_decay=0.01,
            max_grad_norm=1.0,
            seed=config.seed,
            use_cpu=model.device.type == "cpu",
            save_steps=SAVED,
            save_total_limit=2,
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = FitTrainer(
            module,
            model=Task(model, module, config),
            args=arguments,
            train_dataset=Numbers(questions.train),
            data_collator=lambda numbers: dict(questions.batch("train", numbers)),
            callbacks=[Progress(module, config.steps, advance)],
        )
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        if newest:
            drop_torn_checkpoints(newest)
        if newest and done == config.steps:
            trainer.read(newest)
        else:
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    module.eval()
    if not all(weight.isfinite().all() for weight in trained(module)):
        raise OptionError(
            f"--learning-rate {config.learning_rate:g}: {what} learnt weights that are no numbers; choose a lower one"
        )
    return trainer.seconds


class _Recorder(Idle):
    """A method that keeps all tokens and records the contexts that it is given."""

    name, keep = "recorder", 1.0
    positions: Positions = "keep"

    def __init__(self, needs: Needs):
        self.needs, self.contexts = needs, list[VisionContext]()

    def vision(self, context: VisionContext) -> Selection | None:
        self.contexts.append(context)
        return None


def seen(model: Any, needs: Needs, questions: Questions, batch_size: int) -> list[VisionContext]:
    """The contexts that a method is given for the first training samples."""
    recorder, samples = _Recorder(needs), min(MEASURED, questions.train)
    with torch.no_grad():
        for first in range(0, samples, batch_size):
            batch = questions.batch("train", range(first, min(first + batch_size, samples)))
            prepare(model, moved(batch, model.device), recorder)
    return recorder.contexts


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
    `out/control`. Returns the report that `compressor.json` holds under `fit`: the settings, and a `Measured` under each of
    `full`, `untrained`, `control` and `trained`. It goes on from checkpoints in `out/.checkpoints`, which is removed at the end.

    Raises:
        OptionError: there is no such family, it refuses these settings, or it cannot act in this model.
    """
    check_objective(family, config.objective)
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
    checkpoints = out / CHECKPOINTS
    for name, (module, _) in modules.items():
        try:
            seconds = train(model, module, questions, config, f"{family}, {name}", checkpoints / name)
        except OptionError:  # nobody wants to go on with what has diverged
            shutil.rmtree(checkpoints, ignore_errors=True)
            with contextlib.suppress(OSError):
                out.rmdir()
            raise
        report[name] = asdict(measured(model, module, questions)) | {"seconds": seconds}
    save(out, *modules["trained"], report, modules["control"])
    shutil.rmtree(checkpoints, ignore_errors=True)
    return report
