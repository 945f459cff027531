"""Several models and policies on one suite, and the report that sets them side by side."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from visionthink.errors import InputError, OptionError
from visionthink.evals.metrics import mix_share
from visionthink.evals.report.page import report
from visionthink.evals.routing import routing
from visionthink.evals.runner import Metric, evaluate
from visionthink.model import Model
from visionthink.rewards.judge import Judge
from visionthink.types import Example, Examples

_ROUTINGS = ("adaptive", "low", "full", "resize", "random", "oracle", "forced")
_AFTER = ("adaptive", "low", "full")
"""What a random mix without a share needs to know, to spend what the model spent."""


def evaluate_all(
    examples: Examples,
    models: Sequence[str],
    policies: Sequence[str],
    out: Path,
    *,
    open_model: Callable[[str], Model],
    suite: str,
    judge: Judge,
    settings: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
) -> list[dict[str, Any]]:
    """Every policy of every model into a folder of its own below `out`, then `report.html`; finished ones are not repeated.

    `random` without a share throws the coin that spends as many visual tokens as the model's `adaptive` run.

    Raises:
        OptionError: a policy twice, or `random` without the runs that give its share.
    """
    for names, what in ((models, "model"), (policies, "policy")):
        if len(set(names)) < len(names):
            raise OptionError(f"--{what} {','.join(names)}: one is named twice")
    if "random" in policies and not set(_AFTER) <= set(policies):
        raise OptionError(f"--policy random: takes its share from {', '.join(_AFTER)}; name them too, or write random:P")
    summaries, folders = list[dict[str, Any]](), list[Path]()
    for name in models:
        model = open_model(name)
        for policy in policies:  # a name that does not exist is found before hours of work
            if policy != "random":
                routing(*with_method(policy, model))
        if "oracle" in policies and (example := _first(examples)) is not None:
            routing("oracle", model)(example)
        own: dict[str, dict[str, Any]] = {}
        for policy in sorted(policies, key=lambda p: p == "random"):
            exact = f"random:{_share(own):.4f}" if policy == "random" else policy
            folder = out / _slug(f"{name}-{policy}")
            own[policy] = evaluate_one(
                exact, model, examples, folder, suite=suite, model_name=name, judge=judge, settings=settings, metric=metric
            )
            folders.append(folder)
        summaries += own.values()
    report(folders, out / "report.html")
    return summaries


def _first(examples: Examples) -> Example | None:
    """The first that can be read."""
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        with contextlib.suppress(InputError):
            return examples[key]  # type: ignore[index]
    return None


def with_method(policy: str, model: Model) -> tuple[str, Model]:
    """The routing of a policy's name, and the model it is for: `fastv:0.5` is `full` with a compressed model,
    `adaptive+visionzip:0.5` composes both on every view, `adaptive+visionzip:0.5@full` on the full view only (or `@low`).

    Raises:
        OptionError: no such method, or views that the routing does not have.
    """
    base, plus, method = policy.partition("+")
    if base.partition(":")[0] in _ROUTINGS:
        if not plus:
            return policy, model
    else:
        base, method = "full", policy
    from visionthink.compress.names import NAMES, parse

    if method.partition(":")[0] not in NAMES:
        return policy, model  # refused by name where routings are read
    from visionthink.compress.policy import Which, compressed

    method, at, which = method.partition("@")
    if at and which not in ("low", "full"):
        raise OptionError(f"--policy {policy!r}: a method acts on every view, @low or @full")
    if at and base.partition(":")[0] in ("low", "full", "resize"):
        raise OptionError(f"--policy {policy!r}: {base} shows one view only; @{which} goes with a policy that shows two")
    policy_ = compressed(model.policy, parse(method), cast("Which", which or "all"))
    return base, Model(policy_, model.protocol, model.ladder, model.budget, model.max_image_pixels)


def evaluate_one(policy: str, model: Model, examples: Examples, out: Path, **settings: Any) -> dict[str, Any]:
    """`evaluate`, under any policy's name."""
    base, opened = with_method(policy, model)
    return evaluate(examples, opened, base, out, called=policy, **settings)


def _share(own: Mapping[str, Mapping[str, Any]]) -> float:
    spent, low, full = (own[policy]["retain_cumulative"] for policy in _AFTER)
    return mix_share(low, full, spent)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.:+-]+", "-", name).strip("-").replace(":", "-")
