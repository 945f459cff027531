"""What the page shows of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.errors import DataError
from visionthink.evals.report.plots import curves

_LEARNT = {
    "reward": "reward",
    "rewards/accuracy/mean": "accuracy",
    "request_ratio/hard": "requests on hard",
    "request_ratio/easy": "requests on easy",
    "request_ratio": "requests",
}
_HEALTH = {
    "accuracy/direct": "accuracy of direct answers",
    "accuracy/request": "accuracy after a request",
    "probe/direct": "made to answer directly",
    "probe/request": "made to ask",
    "probe/swapped_image": "with another image",
    "zero_variance": "groups all alike",
    "entropy": "entropy, nats per token",
    "kl": "KL to the start",
}
_DRAWN = {"step", "seconds", "rollouts_per_second", "loss", *_LEARNT, *_HEALTH}


def training(folder: Path) -> dict[str, Any]:
    """Of a folder with metrics.jsonl.

    Raises:
        DataError: nothing was logged, or a line is something else.
    """
    metrics = _lines(folder / "metrics.jsonl", "a logged step", step=int)
    if not metrics:
        raise DataError(f"{folder / 'metrics.jsonl'}: no steps were logged")
    warned = folder / "warnings.jsonl"
    warnings = _lines(warned, "a warning", step=int, warning=str) if warned.is_file() else []
    rates = [m["rollouts_per_second"] for m in metrics if m.get("rollouts_per_second")]
    supervised = all("reward" not in m for m in metrics)
    return {
        "name": folder.name,
        "steps": metrics[-1]["step"],
        "seconds": metrics[-1].get("seconds"),
        "rollouts_per_second": sum(rates) / len(rates) if rates else None,
        "learnt": curves(metrics, {"loss": "loss"} if supervised else _LEARNT),
        "health": "" if supervised else curves(metrics, _HEALTH),
        "warnings": warnings,
    }


def _lines(path: Path, what: str, **kinds: type) -> list[dict[str, Any]]:
    """Records that have fields of these types, and numbers where the page draws some. A number that has diverged is left out."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = records.parse(line)
        except ValueError:
            record = {}
        if any(type(record.get(name)) is not kind for name, kind in kinds.items()):
            raise DataError(f"{path}, line {number}: not {what}")
        for name in _DRAWN & set(record):
            value = record[name]
            if value is not None and type(value) not in (int, float):
                raise DataError(f"{path}, line {number}: {name}: {value!r:.60} is not a number")
            if value is not None and not abs(value) < 1e300:
                record[name] = None
        found.append(record)
    return found
