"""What the page shows of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def training(folder: Path) -> dict[str, Any]:
    """Of a folder with metrics.jsonl.

    Raises:
        DataError: nothing was logged, or a line is something else.
    """
    metrics = _lines(folder / "metrics.jsonl", "step", "a logged step")
    if not metrics:
        raise DataError(f"{folder / 'metrics.jsonl'}: no steps were logged")
    warnings = _lines(folder / "warnings.jsonl", "warning", "a warning") if (folder / "warnings.jsonl").is_file() else []
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


def _lines(path: Path, key: str, what: str) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or key not in record:
            raise DataError(f"{path}, line {number}: not {what}")
        records.append(record)
    return records
