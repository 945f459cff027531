"""The record of a session: how many visual tokens each prompt had, how many entered each layer, and what choosing them took."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from visionthink.compress.prompt import Prompt
from visionthink.compress.selection import Method
from visionthink.errors import CompressionError


@dataclass(kw_only=True)
class Session:
    """What happened. For each prompt batch that was read, `totals` has the visual tokens of each sample before any left, `tokens`
    those that entered each decoder layer (`tokens[i][layer][sample]`), and `flops` what choosing them took
    (`flops[i][sample]`)."""

    method: Method
    layers: int
    tokens: list[list[list[int]]] = field(default_factory=list)
    totals: list[list[int]] = field(default_factory=list)
    flops: list[list[int]] = field(default_factory=list)
    expected: float = 0.0
    """How many tokens at least should have left, rounding aside."""
    prompt: Prompt | None = None
    """The prompt batch that was read last, as it is in the layer that ran last."""

    def aligned(self, labels: Tensor) -> Tensor:
        """Labels [batch, length] for the positions that are left of the prompt that was read last, [batch, L'], -100 where there
        is none: the model's logits have that length.

        Raises:
            CompressionError: no prompt was read.
        """
        if self.prompt is None:
            raise CompressionError(f"{self.method.name}: no prompt was read by the thread of the session")
        return labels.gather(1, self.prompt.index).masked_fill(~self.prompt.valid, -100)

    def samples(self) -> list[tuple[tuple[int, ...], int]]:
        """(visual tokens that entered each layer, operations of choosing them) of each sample, in the order of reading."""
        return [
            (tuple(layer[i] for layer in tokens), flops[i])
            for tokens, flops in zip(self.tokens, self.flops, strict=True)
            for i in range(len(flops))
        ]

    def report(self) -> dict[str, float]:
        """Shares of the visual tokens that stayed, averaged over layers and in the last one."""
        whole = sum(map(sum, self.totals))
        left = sum(sum(layer) for tokens in self.tokens for layer in tokens)
        last = sum(sum(t[-1]) for t in self.tokens)
        return {
            "visual_tokens": whole,
            "retained": left / self.layers / whole if whole else 1.0,
            "retained_last": last / whole if whole else 1.0,
        }

    def begin(self, visual: list[int]) -> None:
        """A prompt batch enters the decoder."""
        self.drop_unfinished()
        self.totals.append(visual)
        self.tokens.append([])
        self.flops.append([0] * len(visual))

    def drop_unfinished(self) -> None:
        """Forget a prompt that an exception ended."""
        if self.tokens and len(self.tokens[-1]) < self.layers:
            self.tokens.pop(), self.totals.pop(), self.flops.pop()

    def check(self) -> None:
        """A method that takes nothing out is an error, not a slower way to do nothing."""
        if not self.totals:
            raise CompressionError(f"{self.method.name}: no prompt was read by the thread of the session")
        if self.expected >= 1 and self.report()["retained"] == 1:
            raise CompressionError(f"{self.method.name}: took no token out of {sum(map(sum, self.totals))}")
