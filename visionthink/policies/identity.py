"""What answers depend on, in words and digests that can be compared: the weights, the prompts, the sizes of the views."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visionthink.action_space import ActionSpace
from visionthink.menu import Menu
from visionthink.protocol import IMAGE_MARK, Protocol
from visionthink.resolution import SizeRule
from visionthink.types import ImageView, Message, whole

_SIZES = ((448, 448), (1344, 1008), (3000, 2000))
"""Sizes in px, (width, height), of the images whose views are compared."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a model in use is: weights, prompts and sizes of views, as texts that can be compared."""

    model: str
    """A digest of the files of a checkpoint, a hub id with its commit, or what an endpoint calls its model."""
    prompt: str
    """A digest of all that is said to it."""
    sizes: str
    """Sizes of the low and the full view for images of a few sizes."""

    @classmethod
    def of(cls, policy: Any, protocol: Protocol, menu: Menu, budget: SizeRule, *, can_request: bool) -> Identity:
        """The identity of a policy with what a `model.Model` holds beside it.

        Args:
            can_request: whether the model is told how to ask for more.
        """
        model = getattr(policy, "identity", type(policy).__name__)
        return cls(model=model, prompt=_prompts(protocol, can_request=can_request), sizes=_sizes(menu, budget))


@functools.lru_cache(maxsize=8)
def weights_of(path: str, commit: str | None = None) -> str:
    """For a folder, a digest of its weights, configuration and tokenizer, whatever its name is; otherwise the hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{commit}" if commit else path
    found = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]):
        if file.is_file():
            with file.open("rb") as content:
                found.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{found.hexdigest()[:32]}"


def _prompts(protocol: Protocol, *, can_request: bool) -> str:
    view = ImageView(image=Image.new("RGB", (28, 28)), box=whole(28, 28), level=1.0, width=28, height=28, visual_tokens=1)
    said = _words(protocol.opening("?", [view], can_request=can_request))
    if can_request:
        said += [protocol.request(), *_words([protocol.observation([view], before=0)])]
    return hashlib.sha256(json.dumps([protocol.boundary, *said]).encode()).hexdigest()[:16]


def _words(messages: Sequence[Message]) -> list[str]:
    return [
        f"{message.role} {json.dumps(message.tools)} "
        + "".join(IMAGE_MARK if isinstance(part, ImageView) else part for part in message.content)
        for message in messages
    ]


def _sizes(menu: Menu, budget: SizeRule) -> str:
    def views(width: int, height: int) -> str:
        spaces = [ActionSpace(which, [(width, height)], budget) for which in (menu.low(), menu.full())]
        shown = [view for space in spaces for view in space.shown(space.opening)]
        return f"{width}x{height} as {' and '.join(f'{view.width}x{view.height}' for view in shown)}"

    return "; ".join(views(*size) for size in _SIZES)
