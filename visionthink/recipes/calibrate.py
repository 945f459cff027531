"""The threshold of a gate, certified: both lanes answer a suite, a part of it proposes thresholds, another tests them, and what
is left tells what the gate comes to.

The parts share no image, and in the part that tests no two questions are about one image: the bound is for independent questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from visionthink.certainty import SCORES
from visionthink.data.identity import content_id, images_digest
from visionthink.durable import check_writable, replace_json
from visionthink.errors import DataError, InputError, OptionError
from visionthink.evals import certificate
from visionthink.evals.bootstrap import bootstrap
from visionthink.evals.comparison import right
from visionthink.evals.gate_curve import GateLanes, auroc
from visionthink.evals.policy_spec import FULL
from visionthink.evals.run_folder import read_run
from visionthink.model import Model
from visionthink.picture import open_pictures
from visionthink.policies.gate import Certificate, Method, Mode, rounded
from visionthink.policies.identity import Identity
from visionthink.recipes.evaluate import EvalConfig
from visionthink.recipes.frontier import evaluate_one
from visionthink.recipes.gate_runs import GateRuns, gate_runs
from visionthink.rewards.spec import read_judge
from visionthink.types import Example, Examples

TUNE, TEST = 0.2, 0.3
"""Shares of the images that propose thresholds, and that tell what the gate comes to."""
AGAIN = 100
"""Questions that always-full answers twice."""


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What is to be certified."""

    evaluation: EvalConfig
    model: str
    out: Path
    alpha: float = 0.05
    delta: float = 0.1
    scores: tuple[str, ...] = ("nllmax",)
    """Scores to choose from: the one is taken that best tells answers that would harm from others, on the part that proposes."""
    mode: Mode = "restart"
    method: Method = "fixed-sequence"
    by_family: bool = False
    """Whether a threshold is certified within each family as well, at delta over their number."""

    def __post_init__(self) -> None:
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise OptionError(f"--{name} {getattr(self, name):g}: must be between 0 and 1")
        for score in self.scores:
            if score not in SCORES:
                raise OptionError(f"--score {score}: choose of {', '.join(SCORES)}")
        if "ask" in self.scores and self.mode == "restart":
            raise OptionError("--score ask: is of models that could ask, add --mode continue")
        if "vote" in self.scores and self.mode == "continue":
            raise OptionError("--score vote: goes with --mode restart")
        if self.out.suffix != ".json":
            raise OptionError(f"--out {self.out}: name a file that ends in .json")

    @property
    def folder(self) -> Path:
        """Folder of the runs that the certificate is made from."""
        return self.out.with_suffix("")


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Ids of examples by part; `items` are digests of those that test."""

    tune: frozenset[str]
    calibrate: frozenset[str]
    test: frozenset[str]
    items: Mapping[str, str]
    images: int
    """Different ones, in all parts."""
    families: frozenset[str]
    """Those that the examples name."""


def calibrate(config: CalibrateConfig) -> Certificate:
    """Answer, choose, test, and write the certificate; an interrupted one goes on where it was.

    Raises:
        OptionError: the file cannot be written; there are too few questions; the harm that is allowed lies below the noise of
            always-full; or no threshold can be certified: then the full view is to be served.
        DataError: no question could be read, or no answer has a score.
    """
    _check_out(config)
    if (limit := config.evaluation.limit) is not None:
        _check_enough(config, limit, f"--limit {limit} takes fewer")
    judge, examples = read_judge(config.evaluation.judged_by), config.evaluation.examples()
    _check_enough(config, len(examples), f"{config.evaluation.suite} has {len(examples)} questions")
    parts = _parts(examples)
    _check_enough(config, parts.images, f"{config.evaluation.suite} has {parts.images}")
    if config.by_family and not parts.families:
        raise OptionError(
            f"--by-family: no question of {config.evaluation.suite} names a family; a table does so in the column data_source"
        )
    model = config.evaluation.open_model(config.model)
    common: dict[str, Any] = {"suite": config.evaluation.suite, "model_name": config.model, "judge": judge}
    common |= {"settings": config.evaluation.settings}
    runs = gate_runs(examples, model, config.folder, mode=config.mode, votes="vote" in config.scores, **common)
    noise = _noise(examples, model, runs, config, parts, common)
    if config.alpha < noise:
        raise OptionError(
            f"--alpha {config.alpha:g}: always-full answers {100 * noise:.1f} % right in one run and not in the next; allow more"
        )
    identity = Identity.of(model.policy, model.protocol, model.menu, model.budget, can_request=config.mode == "continue")
    found = _certified(runs, parts, config)
    made = Certificate(
        **found,
        **vars(identity),
        mode=config.mode,
        method=config.method,
        alpha=config.alpha,
        delta=config.delta,
        noise_floor=noise,
        suite=config.evaluation.suite,
        judge=judge.identity,
        items=tuple(sorted(parts.items.values())),
        versions={name: version(name) for name in ("visionthink", "torch", "transformers") if _installed(name)},
    )
    replace_json(config.out, asdict(made))
    return made


def _check_out(config: CalibrateConfig) -> None:
    """
    Raises:
        OptionError: the file, or the folder of the answers, cannot be written.
    """
    check_writable(config.out.parent)
    if config.out.is_dir():
        raise OptionError(f"--out {config.out}: is a folder; name a file")
    if config.folder.is_file():
        raise OptionError(f"--out {config.out}: {config.folder}, the folder of the answers, is a file; choose another name")


def _division(images: int) -> tuple[int, int, int]:
    """How many images propose thresholds, test them, and tell what the gate comes to."""
    tune, test = round(TUNE * images), round(TEST * images)
    return tune, images - tune - test, test


def _check_enough(config: CalibrateConfig, images: int, there: str) -> None:
    """
    Raises:
        OptionError: from so many images, or fewer, nothing can be certified; `there` says what there is.
    """
    least = certificate.RULES[config.method].least(config.alpha, config.delta)
    tune, calibrate, test = _division(images)
    if calibrate < least or not tune or not test:
        raise OptionError(
            f"--alpha {config.alpha:g} --delta {config.delta:g}: needs {max(2 * least, 3)} different images or more, half of "
            f"which test thresholds; {there}"
        )


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _parts(examples: Examples) -> _Parts:
    """By digests of the images, which are as good as drawn by lot, and the same whenever it is done."""
    about: dict[str, list[tuple[str, str]]] = {}
    families = set[str]()
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        try:
            example: Example = examples[key]  # type: ignore[index]
            image = images_digest([picture.image for picture in open_pictures(example)])
        except InputError:  # it is among what failed in the runs
            continue
        about.setdefault(image, []).append((content_id(example, image), example.id))
        families |= {example.family} if example.family else set()
    if not about:
        raise DataError("calibrate: no question could be read")
    drawn = sorted(about, key=lambda image: hashlib.sha256(f"gate {image}".encode()).digest())
    tune, calibrate, _ = _division(len(drawn))
    ids = [[name for image in part for _, name in about[image]] for part in (drawn[:tune], drawn[tune + calibrate :])]
    one_each = [min(about[image]) for image in drawn[tune : tune + calibrate]]
    items = {name: digest for digest, name in one_each}
    return _Parts(
        tune=frozenset(ids[0]),
        calibrate=frozenset(items),
        test=frozenset(ids[1]),
        items=items,
        images=len(drawn),
        families=frozenset(families),
    )


def _noise(
    examples: Examples, model: Model, runs: GateRuns, config: CalibrateConfig, parts: _Parts, common: Mapping[str, Any]
) -> float:
    """Share of questions that always-full answers right, and wrong when it is asked again."""
    some = sorted(parts.tune | parts.test)[:AGAIN]
    every = examples.items() if isinstance(examples, Mapping) else ((example.id, example) for example in examples)
    again = {key: example for key, example in every if example.id in some}
    evaluate_one(FULL, model, again, config.folder / "full-again", **common)
    second = {s.transcript.example_id: s for s in read_run(config.folder / "full-again").scored}
    changed = [right(s) and not right(second[s.transcript.example_id]) for s in runs.full if s.transcript.example_id in second]
    if not changed:
        raise DataError(
            "calibrate: always-full answered no question twice, so its noise is not known; see failed.jsonl of its runs"
        )
    return sum(changed) / len(changed)


def _certified(runs: GateRuns, parts: _Parts, config: CalibrateConfig) -> dict[str, Any]:
    """The fields of a certificate that follow from what was answered."""
    of_part = {score: _of(runs.lanes(score), parts.tune) for score in config.scores}
    score = max(config.scores, key=lambda name: auroc(of_part[name].scores, of_part[name].kept_harm) or 0.0)
    tune, lanes = of_part[score], runs.lanes(score)
    tests, held_out = _of(lanes, parts.calibrate), _of(lanes, parts.test)
    finite = np.isfinite(tune.scores)
    if not finite.any():
        raise DataError(f"calibrate: no answer has a {score} in the part of {len(tune.ids)} questions that proposes thresholds")
    thresholds = [-np.inf, *certificate.grid(tune.scores[finite])]
    if config.mode == "continue":  # harm need not grow from safe to bold, nor be 0 where everything is escalated
        safest = min(range(len(thresholds)), key=lambda i: tune.harm(thresholds[i]).sum())
        thresholds = thresholds[safest:]
    place, harmed = _chosen(tests, thresholds, config, config.delta)
    if place is None or not np.isfinite(thresholds[place]):
        tried = next((i for i, t in enumerate(thresholds) if np.isfinite(t)), 0)
        raise OptionError(
            f"--alpha {config.alpha:g} --delta {config.delta:g}: no threshold of {score} can be certified, as the safest one "
            f"harms {harmed[tried]} of {len(tests.ids)} questions; serve the full view"
        )
    threshold, n, k = float(thresholds[place]), len(tests.ids), harmed[place]
    finite = np.isfinite(tests.scores)
    return {
        "score": score,
        "threshold": threshold,
        "n": n,
        "k": k,
        "bound": certificate.harm_bound(k, n, config.delta),
        "scores": tuple(sorted(map(rounded, tests.scores[finite]))),
        "silent": int((~finite).sum()),
        "families": _families(tests, thresholds, config) if config.by_family else {},
        "test": _on(held_out, threshold, runs),
    }


def _of(lanes: GateLanes, ids: frozenset[str]) -> GateLanes:
    return lanes.take(np.array([name in ids for name in lanes.ids]))


def _chosen(lanes: GateLanes, thresholds: Sequence[float], config: CalibrateConfig, delta: float) -> tuple[int | None, list[int]]:
    """The place of the threshold, and how many questions each of them harms."""
    harmed = [int(lanes.harm(t).sum()) for t in thresholds]
    return certificate.RULES[config.method].choose(harmed, len(lanes.ids), config.alpha, delta), harmed


def _families(lanes: GateLanes, thresholds: Sequence[float], config: CalibrateConfig) -> dict[str, dict[str, Any]]:
    names = sorted({family for family in lanes.families if family is not None})
    found = {}
    for name in names:
        own = lanes.take(np.array([family == name for family in lanes.families]))
        place, harmed = _chosen(own, thresholds, config, config.delta / len(names))
        certified = place is not None and np.isfinite(thresholds[place])
        found[name] = {
            "n": len(own.ids),
            "threshold": float(thresholds[place]) if place is not None and certified else None,
            "k": harmed[place] if place is not None and certified else None,
        }
    return found


def _on(lanes: GateLanes, threshold: float, runs: GateRuns) -> dict[str, Any]:
    """What the gate comes to, beside what spends as much without it."""
    low, point = lanes.at(np.inf), lanes.at(threshold)
    judged, full = lanes.judged, lanes.full_right[lanes.judged].mean()
    ours = np.where(lanes.scores <= threshold, lanes.kept_right, lanes.escalated_right)
    share = min(1.0, (point.cost - low.cost) / (1 - low.cost)) if low.cost < 1 else 1.0
    mixed = (1 - share) * lanes.kept_right + share * lanes.full_right
    margin = bootstrap([float(value) for value in (ours - mixed)[judged]])
    families = sorted({family for family in lanes.families if family is not None})
    within = {name: lanes.take(np.array([family == name for family in lanes.families])) for name in families}
    asked = {s.transcript.example_id: s.transcript for s in runs.full}
    free = {
        "pixels": [sum(w * h for w, h in asked[name].sizes) for name in lanes.ids],
        "question": [len(asked[name].question) for name in lanes.ids],
    }
    return {
        **{name: value for name, value in vars(point).items() if name != "threshold"},
        "low": low.accuracy,
        "full": float(full),
        "mix": float(mixed[judged].mean()),
        "against_mix": asdict(margin) if margin else None,
        "coin_escalated": 1 - min(1.0, point.harm / low.harm) if low.harm else None,
        "auroc": auroc(lanes.scores, lanes.kept_harm),
        "auroc_of": {name: auroc(np.array(values, dtype=float), lanes.kept_harm) for name, values in free.items()},
        "by_family": {
            name: {"escalated": own.at(threshold).escalated, "auroc": auroc(own.scores, own.kept_harm)}
            for name, own in within.items()
        },
    }
