"""VisionThink: a vision-language model that starts from a quarter of the pixels and asks for the rest when it needs them.

    import visionthink
    result = visionthink.load("tiny").ask("photo.png", "How many shapes are there?")
    result.answer, result.levels, result.usage

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionthink.episode import Episode, run_async, run_batch
    from visionthink.errors import VisionThinkError
    from visionthink.model import Model, Result, load
    from visionthink.policies.scripted import ScriptedPolicy
    from visionthink.protocol import Protocol
    from visionthink.resolution import ResolutionLadder
    from visionthink.rewards.penalty import Penalty
    from visionthink.rewards.rubric import Rubric
    from visionthink.types import Completion, Example, StopReason, Transcript

__version__ = "0.1.0"

_HOMES = {
    "Completion": "types",
    "Episode": "episode",
    "Example": "types",
    "Model": "model",
    "Penalty": "rewards.penalty",
    "Protocol": "protocol",
    "ResolutionLadder": "resolution",
    "Result": "model",
    "Rubric": "rewards.rubric",
    "ScriptedPolicy": "policies.scripted",
    "StopReason": "types",
    "Transcript": "types",
    "VisionThinkError": "errors",
    "load": "model",
    "run_async": "episode",
    "run_batch": "episode",
}

__all__ = [
    "Completion",
    "Episode",
    "Example",
    "Model",
    "Penalty",
    "Protocol",
    "ResolutionLadder",
    "Result",
    "Rubric",
    "ScriptedPolicy",
    "StopReason",
    "Transcript",
    "VisionThinkError",
    "load",
    "run_async",
    "run_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'visionthink' has no attribute {name!r}")
    return getattr(importlib.import_module(f"visionthink.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
