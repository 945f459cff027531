"""Cold starts (App. C.2 of arXiv 2507.13348): supervised fine-tuning on transcripts, before or instead of reinforcement learning.

Demonstrations must come from a model that could ask: the folder of `visionthink eval --policy adaptive` on training data, whose
transcripts have one turn or two and are judged already. A curation's have one turn, at one resolution: nobody could ask in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visionthink.data import synth
from visionthink.data.examples import read_examples
from visionthink.durable import stored_settings, whole_lines
from visionthink.errors import DataError, OptionError, choose_from
from visionthink.rewards.judge import VERDICT_FIELDS, Verdict, judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.rewards.spec import read_judge
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.sft_config import SftConfig
from visionthink.transcript import Transcript
from visionthink.types import Example

if TYPE_CHECKING:
    from visionthink.policies.checkpoint import Checkpoint
    from visionthink.policies.checkpoint_files import Described
    from visionthink.train.demonstrations import Demonstrations


Judged = tuple[list[Transcript], list[Verdict]]


@dataclass(frozen=True)
class Material:
    """Examples by id, and how transcripts of them are come by, with verdicts: read, or sampled and judged."""

    examples: Mapping[str, Example]
    judged: Callable[[], Judged]


@dataclass(frozen=True)
class SftRecipe:
    """A run of supervised fine-tuning ready to start: settings, what to learn from where no demonstrations are named, and a
    stand-in for rehearsals, where the real model is large: a small random model of the same architecture, and scripted
    transcripts."""

    config: SftConfig
    own: Callable[[SftConfig], Material] | None = None
    stand_in: Callable[[SftConfig], tuple[Checkpoint, Material]] | None = None


def cold_start_7b() -> SftRecipe:
    """Qwen2.5-VL-7B learns from transcripts how to look closer, before reinforcement learning.

    2,000 demonstrations, the smaller set of the paper's Table 9; `--samples 8000` is the larger. The updates, in size and number,
    and the learning rate are ours.
    Hardware: 8 GPUs of 80 GB with ZeRO-3, or one with `--lora-rank 32`. Time: not measured; the run was only rehearsed.
    Expected: in the paper, reinforcement learning ends lower after a cold start than without one (Table 9).
    Command: `visionthink sft cold_start_7b --launch zero3 --demonstrations runs/asked --out runs/cold`;
    then `visionthink train smart_7b --model runs/cold/final`.
    """
    config = SftConfig(
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        samples=2000,
        batch_size=32,
        micro_batch=1,
        learning_rate=1e-5,
        lr_schedule="cosine",
        warmup_steps=5,
        max_image_tokens=5350,  # as in the reinforcement learning that follows
        gradient_checkpointing=True,
        save_steps=50,
    )
    return SftRecipe(config, stand_in=_rehearsal)


def cold_start_tiny() -> SftRecipe:
    """The tiny base model learns from its own good transcripts, sampled at temperature 1.

    Hardware: 2 CPU cores. Time: about a minute. Expected: it asks on as many easy questions as hard ones, since the
    demonstrations do not say when to ask (47 and 43 % of 300, seed 0; the base model 54 and 44 %).
    Command: `visionthink sft cold_start_tiny --out runs/cold`.
    """
    config = SftConfig(model="tiny-base", steps=60, learning_rate=3e-4, warmup_steps=12)
    return SftRecipe(config, own=lambda config: sampled(config.model, config.seed))


SFT_RECIPES: dict[str, Callable[[], SftRecipe]] = {build.__name__: build for build in (cold_start_7b, cold_start_tiny)}


def sft_recipe(name: str) -> SftRecipe:
    """The recipe of a name.

    Raises:
        OptionError: no such recipe.
    """
    if name not in SFT_RECIPES:
        raise OptionError(f"unknown recipe {name!r}; {choose_from(name, SFT_RECIPES)}")
    return SFT_RECIPES[name]()


def sampled(model: str, seed: int) -> Material:
    """What a small model says of 720 generated questions at temperature 1."""
    examples = synth.suite(720, split="train", seed=1000 + seed, cells=synth.BALANCED)

    def judged() -> Judged:
        from visionthink.model import load

        transcripts = load(model, max_new_tokens=8, batch_size=64, temperature=1.0, seed=seed).run(examples)
        return transcripts, judge_transcripts(RulesJudge(closed=True), transcripts)

    return Material({e.id: e for e in examples}, judged)


def _rehearsal(config: SftConfig) -> tuple[Checkpoint, Material]:
    """Half of the scripted episodes ask."""
    from visionthink.episode import run_batch
    from visionthink.policies.scripted import ScriptedPolicy
    from visionthink.recipes import stand_in

    checkpoint = stand_in.qwen2_5_vl(config.chosen_dialect or "agent")
    examples = stand_in.large_examples(config.batch_size)
    source = EpisodeSource(
        examples={e.id: e for e in examples}, menu=config.rollout_menu(), protocol=checkpoint.protocol, budget=checkpoint.budget
    )

    def judged() -> Judged:
        transcripts = []
        for i, example in enumerate(examples):
            said = [source.protocol.request(), source.protocol.format_answer(example.answer or "")][i % 2 :]
            script = [source.protocol.format_thought("Can it be read?") + text for text in said]
            transcripts += run_batch(source.over(example), ScriptedPolicy(script))
        return transcripts, judge_transcripts(RulesJudge(closed=True), transcripts)

    return checkpoint, Material(source.examples, judged)


def read_material(config: SftConfig) -> Material:
    """What `config.demonstrations` names.

    Raises:
        OptionError: nothing is named, or the examples are not known.
        DataError: a folder holds something else.
    """
    if not config.demonstrations:
        raise OptionError("--demonstrations: is missing; name the folder of visionthink eval --policy adaptive on training data")
    files = [_transcripts_file(Path(name.strip())) for name in config.demonstrations.split(",")]
    judge = read_judge(config.judge) if config.judge else None
    if config.data:
        examples: Mapping[str, Example] = read_examples(config.data, columns=config.columns, image_root=config.image_root)
    else:
        examples = _evaluated(files)

    def judged() -> Judged:
        lines = [line for file in files for line in _lines(file, judged_already=judge is None)]
        transcripts = [t for t, _ in lines]
        return transcripts, judge_transcripts(judge, transcripts) if judge else [v for _, v in lines if v]

    return Material(examples, judged)


def _transcripts_file(place: Path) -> Path:
    file = place / "transcripts.jsonl"
    if place.is_file() or file.is_file():
        return place if place.is_file() else file
    if not place.is_dir():
        raise DataError(f"--demonstrations {place}: no such file or folder")
    if (place / "counts").is_dir():
        raise DataError(
            f"--demonstrations {place}: is a curation; its answers were sampled at one resolution each, and nobody could ask. "
            f"Evaluate on what it chose, visionthink eval {place / 'curated.parquet'} --policy adaptive --out DIR, and name DIR"
        )
    if (place / "progress.jsonl").is_file():
        raise DataError(f"--demonstrations {place}: the evaluation is not finished; run it again, it goes on where it was")
    if below := sorted(folder.parent.name for folder in place.glob("*/transcripts.jsonl")):
        raise DataError(f"--demonstrations {place}: holds several evaluations; name some of {', '.join(below)}")
    raise DataError(f"--demonstrations {place}: holds no transcripts.jsonl; name a folder of visionthink eval")


def _evaluated(files: list[Path]) -> Mapping[str, Example]:
    """The examples that evaluations were of, as their settings name them."""
    from visionthink.recipes import SUITES

    tables = set()
    for file in files:
        settings = stored_settings(file.parent) or {}
        suite, task = settings.get("suite"), settings.get("benchmark")
        if not isinstance(suite, str):
            raise OptionError(f"--data: is missing, and {file.parent} does not say what its transcripts are of")
        if task or suite in SUITES:
            raise OptionError(f"--demonstrations {file.parent}: of {task or suite}, which is for evaluation; use training data")
        tables.add((suite, settings.get("split") or "test", settings.get("columns") or "", settings.get("image_root") or ""))
    if len(tables) > 1:
        raise OptionError(f"--data: is missing, and the transcripts are of several: {', '.join(sorted(t[0] for t in tables))}")
    [(suite, split, columns, image_root)] = tables
    return read_examples(suite, split, columns=columns, image_root=image_root)


def _lines(file: Path, *, judged_already: bool) -> Iterator[tuple[Transcript, Verdict | None]]:
    """Transcripts of a file, with the verdicts that stand there, where these are wanted.

    Raises:
        DataError: a line is none or has no verdict, or in none of them could anything be asked for.
    """
    could_ask = False
    for number, record in whole_lines(file):
        try:
            transcript = Transcript.from_dict({k: v for k, v in record.items() if k not in VERDICT_FIELDS})
            verdict = Verdict.from_record(record) if judged_already else None
        except ValueError as error:
            judged = "" if "verdict" in record else "; give --judge where nothing is judged yet"
            raise DataError(f"{file}, line {number}: not a judged transcript: {error}{judged}") from None
        could_ask |= bool(transcript.offers)
        yield transcript, verdict
    if not could_ask:
        raise DataError(f"{file}: in none of its transcripts anything could be asked for; evaluate with --policy adaptive")


def prepare(material: Material, config: SftConfig, model: Checkpoint | Described) -> Demonstrations:
    """Choose and check demonstrations for a model, before its weights are loaded.

    Raises:
        DataError: there are none of one kind, or one cannot be learnt from.
    """
    from visionthink.policies.render import Renderer
    from visionthink.train.demonstrations import choose, demonstrate
    from visionthink.train.processes import of_the_first
    from visionthink.train.progress import say

    protocol = model.protocol.with_dialect(config.chosen_dialect)
    source = EpisodeSource(
        examples=material.examples, menu=config.rollout_menu(), protocol=protocol, budget=config.limited(model.budget)
    )
    source.protocol.check_menu(source.menu, must_ask=True)
    chosen = of_the_first(lambda: choose(*material.judged(), protocol, most=config.samples, seed=config.seed))
    say(f"replaying {len(chosen)} demonstrations without their images")
    context = (model.model.config if hasattr(model, "model") else model.config).get_text_config().max_position_embeddings
    return demonstrate(chosen, source, Renderer(model.tokenizer, protocol.boundary), context=context)
