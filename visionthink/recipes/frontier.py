"""Several models and policies on one suite, and the report that sets them side by side."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from visionthink.compress.names import identity, learned_folder, parse
from visionthink.errors import InputError, OptionError
from visionthink.evals.mixes import mix_share
from visionthink.evals.policy_spec import ADAPTIVE, FULL, LOW, PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.routing import check_judge, routing
from visionthink.evals.runner import Metric, Results, check_folder, evaluate
from visionthink.model import Model
from visionthink.rewards.judge import Judge
from visionthink.types import Example, Examples

_AFTER = (ADAPTIVE, LOW, FULL)
"""What a random mix without a share needs to know, to spend what the model spent."""


def evaluate_all(
    examples: Examples,
    models: Sequence[str],
    policies: Sequence[PolicySpec],
    out: Path,
    *,
    trained: Mapping[PolicySpec, str] = MappingProxyType({}),
    open_model: Callable[[str], Model],
    suite: str,
    judge: Judge,
    settings: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
    results: Callable[[str, PolicySpec], Results | None] = lambda model, policy: None,
) -> list[dict[str, Any]]:
    """Every policy of every model into a folder of its own below `out`, then `report.html`; finished ones are not repeated.
    Returns their summaries with what the report says of each: `comparison`, `trained`, `branches`, `break_even`. `trained` names
    the models that were trained for one level, by the policy they are evaluated under. `results` says what runs the batches of a
    model and a policy, see `evals.runner.evaluate`.

    `random` without a share throws the coin that spends as many visual tokens as the model's `adaptive` run.

    Raises:
        OptionError: a policy twice, `random` without the runs that give its share, or a folder of another run.
    """
    check_names(models, policies)
    common: dict[str, Any] = {"suite": suite, "judge": judge, "settings": settings}
    shareless, folders = _shareless(policies), list[Path]()
    chosen = {name: list(policies) for name in models}

    def folder_of(name: str, policy: PolicySpec) -> Path:
        return out / _slug(f"{name}-{policy}")

    for policy, name in trained.items():
        chosen.setdefault(name, []).append(policy)
    for name, its in chosen.items():
        for policy in its:
            if policy not in shareless:
                check_one(policy, None, examples, folder_of(name, policy), model_name=name, **common)
    for name, its in chosen.items():
        model = open_model(name)
        for policy in its:  # what cannot be had is found before hours of work
            if policy not in shareless:
                ready = with_method(policy, model)
                route = routing(policy, ready)
                check_judge(policy, judge)
                if policy.routing == "oracle" and (example := _first(examples)) is not None:
                    route(example)
                check_one(policy, ready, examples, folder_of(name, policy), model_name=name, **common)
        own: dict[PolicySpec, dict[str, Any]] = {}
        for policy in sorted(its, key=shareless.__contains__):
            exact = _with_share(policy, own) if policy in shareless else policy
            folder = folder_of(name, policy)
            own[policy] = evaluate_one(
                exact,
                model,
                examples,
                folder,
                model_name=name,
                metric=metric,
                results=results(name, exact),
                **common,
            )
            folders.append(folder)
    return [run.to_dict() for run in report(folders, out / "report.html")]


def check_names(models: Sequence[str], policies: Sequence[PolicySpec]) -> None:
    """What can be known of an evaluation before a model is opened.

    Raises:
        OptionError: a model or policy twice, `random` without the runs that give its share, or a method that cannot be.
    """
    named: tuple[tuple[Sequence[object], str], ...] = ((models, "model"), (policies, "policy"))
    for names, what in named:
        if len(set(names)) < len(names):
            raise OptionError(f"--{what} {','.join(map(str, names))}: one is named twice")
    if _shareless(policies) and not set(_AFTER) <= set(policies):
        raise OptionError(
            f"--policy random: takes its share from {', '.join(map(str, _AFTER))}; name them too, or write random:P"
        )
    for policy in policies:
        if policy.method is not None:
            parse(policy.method)


def _shareless(policies: Sequence[PolicySpec]) -> list[PolicySpec]:
    return [p for p in policies if p.routing == "random" and p.share is None]


def _first(examples: Examples) -> Example | None:
    """The first that can be read."""
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        with contextlib.suppress(InputError):
            return examples[key]  # type: ignore[index]
    return None


def with_method(policy: PolicySpec, model: Model) -> Model:
    """The model that a policy is for: compressed, where it has a method.

    Raises:
        OptionError: the method's settings cannot be used, or the model is not in our hands.
    """
    if policy.method is None:
        return model
    from visionthink.compress.policy import compressed
    from visionthink.policies.local import LocalPolicy

    weights = model.policy.checkpoint.model if isinstance(model.policy, LocalPolicy) else None
    if weights is not None and weights.device.type == "meta":
        weights = None  # the workers have them
    compressed_policy = compressed(model.policy, parse(policy.method, weights), policy.which)
    return Model(compressed_policy, model.protocol, model.menu, model.budget, model.max_image_pixels)


def twin_of(example: Example) -> Example:
    """A generated example with its last piece of evidence exchanged, the one that holds the answer.

    Raises:
        DataError: it has no counterfactual twin.
    """
    from visionthink.data import places

    return places.twins(example)[-1]


def evaluate_one(
    policy: PolicySpec,
    model: Model,
    examples: Examples,
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """`evaluate`, with the model compressed where the policy says so. What a trained method was fitted to is one of the settings:
    its name stays the same when it is fitted again."""
    settings = _settings(policy, settings)
    return evaluate(
        examples, with_method(policy, model), policy, out, twin_of=twin_of, settings=settings, fit=_fit(policy), **more
    )


def check_one(
    policy: PolicySpec,
    model: Model | None,
    examples: Examples,
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """`check_folder` for what `evaluate_one` would do; `model` is compressed already, where the policy has a method."""
    check_folder(examples, out, model, policy, settings=_settings(policy, settings), **more)


def _settings(policy: PolicySpec, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    method = identity(policy.method) if policy.method else None
    return {**(settings or {}), **({"method": method} if method else {})}


def _fit(policy: PolicySpec) -> dict[str, Any] | None:
    """What was measured when the policy's method was trained; None where it needs no training, or was not measured."""
    if policy.method is None or (folder := learned_folder(policy.method)) is None:
        return None
    from visionthink.compress.learned import describe

    saved = describe(folder)
    try:
        measured = {name: saved.fit[name]["accuracy"] for name in ("trained", "control", "untrained", "full")}
        said = {"questions": saved.fit["questions"], "tested": saved.fit["tested"]}
    except (KeyError, TypeError):
        return None
    return {"family": saved.family, "keep": saved.keep, **said, **measured}


def _with_share(policy: PolicySpec, own: Mapping[PolicySpec, Mapping[str, Any]]) -> PolicySpec:
    """The coin that spends as many visual tokens as the model's adaptive run."""
    spent, low, full = (own[other]["retain_cumulative"] for other in _AFTER)
    return PolicySpec.parse(policy.text.replace("random", f"random:{mix_share(low, full, spent):.4f}", 1))


def _slug(name: str) -> str:
    """The name as the name of a folder, which has 255 bytes at most."""
    slug = re.sub(r"[^\w.:+-]+", "-", name).strip("-").replace(":", "-")
    if len(slug.encode()) > 200:
        slug = f"{slug.encode()[:180].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return slug
