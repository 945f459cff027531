"""The formula that VisionThink and the papers on token pruning print (Sec. 3.1 of arXiv 2403.06764):

    T (4 n d^2 + 2 n^2 d + 2 n d m)

for T layers of width d and FFN m over a sequence of n tokens: system prompt, image and question. Where a method takes tokens out,
the sum over the layers, each with the n that entered it. It leaves out the vision tower and the work of choosing tokens, counts a
plain FFN where the models have a gated one, full-width keys and values where theirs are grouped, and no output; its unit is
multiplications. `flops` counts what runs.
"""

from __future__ import annotations

from visionthink.evals.flops import DecoderShape, Tokens, by_layer


def paper_flops(shape: DecoderShape, tokens: Tokens) -> int:
    """The operations for one prompt with these tokens, counted as the papers do."""
    d, m = shape.hidden, shape.ffn
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in by_layer(shape, tokens))
