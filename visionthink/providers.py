"""What an image costs at three commercial providers, by their published rules. Estimates: only a bill is authoritative.

The same questions as `resolution.PixelBudget` answers for open models, so that ladders work on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from visionthink.resolution import QWEN2_5_VL, QWEN3_VL, SizeRule, check_size


@dataclass(frozen=True)
class OpenAITiles:
    """gpt-4o and 4.1: fit into 2048 px, short side to 768 px at most, then 170 tokens per 512 px tile and 85 once."""

    factor: int = 1

    def fit(self, width: int, height: int) -> tuple[int, int]:
        check_size(width, height)
        scale = min(1.0, 2048 / max(width, height), 768 / min(width, height))
        return max(1, int(width * scale)), max(1, int(height * scale))

    def visual_tokens(self, width: int, height: int) -> int:
        w, h = self.fit(width, height)
        return 85 + 170 * math.ceil(w / 512) * math.ceil(h / 512)


@dataclass(frozen=True)
class ClaudePatches:
    """One token per 28 px square; the long side is shrunk until it is at most 1568 px and the image at most 1568 tokens."""

    factor: int = 1
    longest: int = 1568
    tokens: int = 1568

    def fit(self, width: int, height: int) -> tuple[int, int]:
        check_size(width, height)
        long_side, ratio = max(width, height), max(width, height) / min(width, height)

        def size(edge: int) -> tuple[int, int]:
            return edge, max(1, round(edge / ratio))

        edge = min(long_side, self.longest)
        while edge > 1 and self._count(*size(edge)) > self.tokens:
            edge -= 1
        a, b = size(edge)
        return (a, b) if width >= height else (b, a)

    @staticmethod
    def _count(width: int, height: int) -> int:
        return math.ceil(width / 28) * math.ceil(height / 28)

    def visual_tokens(self, width: int, height: int) -> int:
        return self._count(*self.fit(width, height))


@dataclass(frozen=True)
class GeminiTiles:
    """Gemini 2: 258 tokens up to 384 px, else 258 per tile of two thirds of the short side (256 to 768 px)."""

    factor: int = 1

    def fit(self, width: int, height: int) -> tuple[int, int]:
        check_size(width, height)
        return width, height

    def visual_tokens(self, width: int, height: int) -> int:
        check_size(width, height)
        if max(width, height) <= 384:
            return 258
        tile = max(256, min(768, math.floor(min(width, height) / 1.5)))
        return 258 * math.ceil(width / tile) * math.ceil(height / tile)


SIZE_RULES: dict[str, SizeRule] = {
    "qwen2.5-vl": QWEN2_5_VL,
    "qwen3-vl": QWEN3_VL,
    "openai": OpenAITiles(),
    "claude": ClaudePatches(),
    "gemini": GeminiTiles(),
}
