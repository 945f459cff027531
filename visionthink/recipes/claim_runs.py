"""One run of a claim: a seed of a variant in a setting, and what it comes to. Its folder keeps the outcome."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.durable import replace_json
from visionthink.evals.looks import PLACES
from visionthink.evals.metrics import Scored
from visionthink.evals.summary import summarise
from visionthink.menu import Menu
from visionthink.model import load
from visionthink.recipes.claim import Calibrated, Evaluated, How, Outcome
from visionthink.recipes.claims import VARIANTS
from visionthink.recipes.gate_claim import gate_claim
from visionthink.recipes.settings import MINIATURES, Scale, Setting
from visionthink.recipes.starts import Made, checkpoint_of, digest
from visionthink.rewards.judge import judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.config import TrainConfig
from visionthink.train.run import train

QUADRANTS = tuple(PLACES[name] for name in "01234")
ALPHA = 0.05


@dataclass(frozen=True)
class Run:
    """One seed of a variant in a setting; one that trains nothing is in the setting in which nothing is trained."""

    variant: str
    setting: Setting
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.setting.name}, seed {self.seed}"

    @property
    def how(self) -> How:
        return VARIANTS[self.variant].how

    @property
    def start(self) -> Made | None:
        """What must have been made before; None for the base."""
        return Made.of(VARIANTS[self.variant].start, self.setting.base, self.seed)

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.setting.name / f"{self.variant.replace('/', ' of ')}-{self.seed}"

    def saved(self, out: Path) -> Path:
        """Where the outcome is, once there is one."""
        return self.folder(out) / "outcome.json"

    def config(self, out: Path, scale: Scale) -> TrainConfig:
        variant = VARIANTS[self.variant]
        start = checkpoint_of(variant.start, self.setting.base, self.seed, out)
        return scale.config(self.setting).replace(model=start, out=self.folder(out), seed=self.seed, **variant.changes)


def outcome_of(run: Run, out: Path, scale: Scale) -> Outcome:
    """What a run comes to; from its file if it has run before."""
    work, folder, saved = _WORK[run.how], run.folder(out), run.saved(out)
    config = dataclasses.asdict(run.config(out, scale)) | {"out": ""}
    made_with = json.loads(json.dumps(config | {"scale": work.scale(scale), "base": digest(run.setting.base)}, default=str))
    if saved.is_file():
        try:
            record = json.loads(saved.read_text("utf-8"))
            if record["made_with"] == made_with:
                return work.outcome(**record["outcome"])
        except (ValueError, TypeError, KeyError):
            pass
        shutil.rmtree(folder)  # damaged, of other settings, or from another base model
    found = work.compute(run, out, scale)
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(saved, {"outcome": dataclasses.asdict(found), "made_with": made_with})
    return found


def _train(run: Run, out: Path, scale: Scale) -> Evaluated:
    config = run.config(out, scale)
    config = config.replace(resume=(config.out / "config.json").exists())
    model = str(train(config, MINIATURES[run.setting.recipe].recipe().examples(config)))
    metrics = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return dataclasses.replace(
        _evaluated(model, config.rollout_menu(), run, scale),
        requests=tuple(m["request_ratio"] for m in metrics),
        costs=tuple(m["retain_cumulative"] for m in metrics),
        prices=tuple(m["budget/lambda"] for m in metrics if "budget/lambda" in m),
    )


def _evaluate(run: Run, out: Path, scale: Scale) -> Evaluated:
    config = run.config(out, scale)
    return _evaluated(config.model, config.rollout_menu(), run, scale)


def _evaluated(model: str, menu: Menu, run: Run, scale: Scale) -> Evaluated:
    questions = MINIATURES[run.setting.recipe].questions(scale.evaluated)
    transcripts = load(model, menu=menu, max_new_tokens=8, batch_size=64).run(questions)
    verdicts = judge_transcripts(RulesJudge(closed=True), transcripts)
    scored = [Scored(*both) for both in zip(transcripts, verdicts, strict=True)]
    summary = summarise(scored, suite="mini", model=model, policy="adaptive")
    looks = summary["looks"]
    shown = sum(looks["places"].values()) if looks else 0
    return Evaluated(
        asks=summary["request_ratio"],
        asks_easy=summary["by_need"]["easy"]["request_ratio"],
        asks_hard=summary["by_need"]["hard"]["request_ratio"],
        asks_by_family={name: family["request_ratio"] for name, family in summary["by_family"].items()},
        accuracy=summary["accuracy"],
        cost=summary["retain_cumulative"],
        quadrants=sum(looks["places"].get(name, 0) for name in QUADRANTS) / shown if shown else None,
        covered=looks["covered"] if looks else None,
    )


def _calibrate(run: Run, out: Path, scale: Scale) -> Calibrated:
    config = run.config(out, scale)
    [found] = gate_claim(config.out, model=config.model, alpha=ALPHA, seed=run.seed, **dataclasses.asdict(scale.draws)).values()
    certified, tuned = found["rules"]["certified"], found["rules"]["tuned"]
    return Calibrated(
        harmful=certified["violated"],
        harmful_tuned=tuned["violated"],
        escalated=certified["escalated"],
        escalated_by_coin=certified["coin_escalated"],
    )


@dataclass(frozen=True)
class _Work:
    """What is done in a run, the record of what it comes to, and what of the scale it depends on beyond the settings."""

    compute: Callable[[Run, Path, Scale], Outcome]
    outcome: Callable[..., Outcome]
    scale: Callable[[Scale], Any]


_WORK: Mapping[How, _Work] = {
    "train": _Work(_train, Evaluated, lambda scale: scale.evaluated),
    "evaluate": _Work(_evaluate, Evaluated, lambda scale: scale.evaluated),
    "calibrate": _Work(_calibrate, Calibrated, lambda scale: dataclasses.asdict(scale.draws)),
}
