"""VisionThink: a vision-language model that starts from a quarter of the pixels and asks for the rest when it needs them.

    import visionthink
    result = visionthink.load("tiny").ask("shapes.png", "How many shapes are there?")
    result.answer, result.levels, result.usage

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionthink.episode import Episode, run_async, run_batch
    from visionthink.errors import VisionThinkError
    from visionthink.menu import Menu, Regions
    from visionthink.model import Model, Result, load
    from visionthink.picture import Picture
    from visionthink.policies.scripted import ScriptedPolicy
    from visionthink.protocol import Protocol
    from visionthink.resolution import ResolutionLadder
    from visionthink.rewards.penalty import Penalty
    from visionthink.rewards.rubric import Rubric
    from visionthink.transcript import Transcript
    from visionthink.types import Box, Completion, Example, Look, StopReason

__version__ = "0.2.0"

_HOMES = {
    "Box": "types",
    "Completion": "types",
    "Episode": "episode",
    "Example": "types",
    "Look": "types",
    "Menu": "menu",
    "Model": "model",
    "Penalty": "rewards.penalty",
    "Picture": "picture",
    "Protocol": "protocol",
    "Regions": "menu",
    "ResolutionLadder": "resolution",
    "Result": "model",
    "Rubric": "rewards.rubric",
    "ScriptedPolicy": "policies.scripted",
    "StopReason": "types",
    "Transcript": "transcript",
    "VisionThinkError": "errors",
    "load": "model",
    "run_async": "episode",
    "run_batch": "episode",
}

__all__ = [
    "Box",
    "Completion",
    "Episode",
    "Example",
    "Look",
    "Menu",
    "Model",
    "Penalty",
    "Picture",
    "Protocol",
    "Regions",
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
