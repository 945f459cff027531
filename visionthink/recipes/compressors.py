"""All trained compression methods in miniature: each with its control, with several seeds, compared with training-free methods.

Hardware: 2 CPU cores, 3 GB. Time: 30 minutes for three seeds.
Command: `python -m visionthink.recipes.compressors --out runs/compressors`.
Each fit has its own folder and is not repeated; the results are in `compressors.md` and `compressors.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from visionthink.compress.fit_config import FitConfig
from visionthink.durable import replace_json, replace_text
from visionthink.errors import OptionError
from visionthink.evals.bootstrap import Interval, bootstrap
from visionthink.recipes.fits import FITS, FitRecipe
from visionthink.recipes.processes import at_once
from visionthink.threads import wait_passively

UNTRAINED = tuple(
    f"{name}:{share}" for share in ("0.5", "0.25") for name in ("drop-random", "drop-uniform", "pool", "visionzip", "todre")
)

VIEWS = ("all visual tokens", "a quarter of the pixels")
"""Rows of the table that are no methods."""

ARMS: Mapping[str, FitRecipe] = {
    **{name: FITS[name] for name in ("fcot", "quecc", "setok", "remember", "select", "lis", "mod")},
    "fcot-distilled": replace(FITS["fcot"], config=FitConfig(objective="distill", answers_weight=0.0)),
}
"""`fcot` is trained by the correct answers, `fcot-distilled` by the outputs of the model with all visual tokens alone."""


def fit_one(name: str, seed: int, out: Path) -> dict[str, Any]:
    """The report of a fit; it is read from its folder if the fit was done before with the same settings."""
    from visionthink.compress.learned import RECORD, describe
    from visionthink.recipes.fit_folder import interrupted
    from visionthink.recipes.fitting import run_fit

    recipe = replace(ARMS[name], config=replace(ARMS[name].config, seed=seed))
    folder = out / f"{name}-{seed}"
    done = describe(folder) if (folder / RECORD).is_file() else None
    if done is None or done.keep != recipe.keep or not asdict(recipe.config).items() <= done.fit.items():
        run_fit(recipe, folder, resume=interrupted(folder))
    found = dict(describe(folder).fit)
    if name == "quecc":
        found["another question"] = another_question(folder)
    if name == "select":
        found["reconstruction"] = reconstruction(folder)
    return found


def another_question(folder: Path) -> float:
    """Share of correct answers if the method is given the question of the previous example instead of its own."""
    from visionthink.compress.fit import measured
    from visionthink.compress.names import parse
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.recipes.fitting import Answers, generated, questions

    checkpoint = open_checkpoint("tiny")
    method = parse(f"learned:{folder}", checkpoint.model)
    own, before = method.vision, list[Any]()

    def vision(context: Any) -> Any:
        before.append(context.question)
        return own(replace(context, question=before[-2] if len(before) > 1 else context.question))

    method.vision = vision  # type: ignore[method-assign]
    _, test = generated("slots")
    asked = questions("slots", [], list(Answers(test, checkpoint)), checkpoint)
    return measured(checkpoint.model, method, asked).accuracy


def reconstruction(folder: Path) -> dict[str, float]:
    """Mean squared error of the standardised features of images that were not learnt from, when they are reconstructed from the
    tokens that a selector chooses, and from as many random ones."""
    import torch

    from visionthink.compress.baselines import Random
    from visionthink.compress.choosing import Selector
    from visionthink.compress.fit import seen
    from visionthink.compress.names import parse
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.recipes.fitting import Answers, generated, questions

    checkpoint = open_checkpoint("tiny")
    selector = parse(f"learned:{folder}", checkpoint.model)
    assert isinstance(selector, Selector)
    _, test = generated()
    contexts = seen(checkpoint.model, selector.needs, questions("", list(Answers(test, checkpoint)), [], checkpoint), 32)
    images = selector.standardised([image for context in contexts for image in selector.images(context)])
    draws = [Random(keep=selector.keep, seed=number) for number in range(len(contexts))]
    errors = {}
    for name, methods in (("chosen", [selector] * len(contexts)), ("random", draws)):
        mask = torch.zeros_like(images.real, dtype=images.tokens.dtype)
        for row, method, context in zip(mask, methods, contexts, strict=True):  # one image each
            chosen = method.vision(context)
            assert chosen is not None
            row[chosen.keep] = 1
        with torch.no_grad():
            errors[name] = float(selector.error(images, mask)) ** 2
    return errors


def untrained(out: Path) -> dict[str, Any]:
    """Results of training-free methods, and of a quarter of the pixels, on the same questions."""
    saved = out / "untrained.json"
    if saved.is_file():
        return dict(json.loads(saved.read_text("utf-8")))
    from visionthink.compress.fit import measured
    from visionthink.compress.names import parse
    from visionthink.menu import Menu
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.recipes.fitting import Answers, generated, questions

    checkpoint = open_checkpoint("tiny")
    _, test = generated()
    found = {}
    for name, menu in zip(VIEWS, (Menu().full(), Menu().low()), strict=True):
        asked = questions("generated questions", [], list(Answers(test, checkpoint, menu)), checkpoint)
        found[name] = asdict(measured(checkpoint.model, None, asked))
    asked = questions("generated questions", [], list(Answers(test, checkpoint)), checkpoint)
    for name in UNTRAINED:
        found[name] = asdict(measured(checkpoint.model, parse(name, checkpoint.model), asked))
    replace_json(saved, found)
    return found


def difference(fits: Sequence[Mapping[str, Any]]) -> Interval | None:
    """Accuracy of a method minus that of its control: mean over seeds, with a 95 % bootstrap interval over the questions."""

    def over_seeds(kind: str) -> list[float]:
        return [mean(right) for right in zip(*(map(int, f[kind]["right"]) for f in fits), strict=True)]

    return bootstrap([t - c for t, c in zip(over_seeds("trained"), over_seeds("control"), strict=True)])


def page(fits: Mapping[str, Sequence[Mapping[str, Any]]], free: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown: shares of correct answers in percent, means over seeds with the lowest and the highest value."""
    some = next(iter(fits.values()))
    seeds, tested = len(some), some[0]["tested"]
    lines = [
        f"In miniature: the shipped `tiny`, {tested} generated questions, seeds 0 to {seeds - 1}. "
        "Shares of answers whose every token is the most probable one, in %: mean (lowest to highest over the seeds). "
        "Differences have a 95 % interval over the questions. KL: to the model with all visual tokens, per token of the "
        "answers, in nats.",
        "",
        "| method | tokens | untrained | control | trained | trained - control | KL untrained, trained | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of_seeds in fits.items():
        kinds = {kind: [f[kind]["accuracy"] for f in of_seeds] for kind in ("untrained", "control", "trained")}
        nats = [f"{mean(f[kind]['divergence'] for f in of_seeds):.3f}" for kind in ("untrained", "trained")]
        lines.append(
            f"| `{name}` | {mean(f['trained']['tokens'] for f in of_seeds):.1f} | {_spread(kinds['untrained'])} | "
            f"{_spread(kinds['control'])} | {_spread(kinds['trained'])} | {_signed(difference(of_seeds))} | "
            f"{', '.join(nats)} | {mean(f['trained']['seconds'] for f in of_seeds):.0f} |"
        )
    if "quecc" in fits:
        shares = _spread([f["another question"] for f in fits["quecc"]])
        lines += ["", f"`quecc` with the question of another example: {shares}. Its questions: see `data.slots`."]
    if "select" in fits:
        chosen, drawn = (mean(f["reconstruction"][kind] for f in fits["select"]) for kind in ("chosen", "random"))
        lines += [
            "",
            f"`select` reconstructs features with a mean squared error of {chosen:.3f} of their variance from the tokens that it "
            f"chooses, and of {drawn:.3f} from as many random ones.",
        ]
    lines += ["", "| training-free | tokens | correct | KL to the full model |", "|---|---|---|---|"]
    lines += [
        f"| {name if name in VIEWS else f'`{name}`'} | {f['tokens']:.1f} | {100 * f['accuracy']:.1f} | "
        f"{'' if name in VIEWS else format(f['divergence'], '.3f')} |"
        for name, f in free.items()
    ]
    return "\n".join(lines) + "\n"


def _signed(found: Interval | None) -> str:
    assert found is not None
    low, middle, high = (100 * x for x in (found.low, found.mean, found.high))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f}){'' if found.sure else ', undecided'}"


def _spread(values: Sequence[float]) -> str:
    low, middle, high = (100 * x for x in (min(values), mean(values), max(values)))
    return f"{middle:.1f}" if low == high else f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Fit everything and write the table."""
    parser = argparse.ArgumentParser(description="Fit all trained compression methods in miniature, each with its control.")
    parser.add_argument("--out", type=Path, default=Path("runs/compressors"), help="working folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each method (default: %(default)s)")
    parser.add_argument("--methods", default=",".join(ARMS), help="some of them, separated by commas (default: %(default)s)")
    options = parser.parse_args()
    names = [name.strip() for name in options.methods.split(",")]
    if unknown := [name for name in names if name not in ARMS]:
        raise OptionError(f"--methods {unknown[0]!r}: choose from {', '.join(ARMS)}")
    wait_passively()
    console = Console()
    jobs = {f"{name}, seed {seed}": (name, seed, options.out) for seed in range(options.seeds) for name in names}
    found = dict(zip(jobs, at_once(fit_one, jobs, options.out, console), strict=True))
    fits = {name: [found[f"{name}, seed {seed}"] for seed in range(options.seeds)] for name in names}
    [free] = at_once(untrained, {"methods without training": (options.out,)}, options.out, console)
    replace_json(options.out / "compressors.json", {"fits": fits, "untrained": free})
    replace_text(options.out / "compressors.md", said := page(fits, free))
    console.print(said, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
