"""The formula that VisionThink and the papers on token pruning print (Sec. 3.1 of arXiv 2403.06764):

    T (4 n d^2 + 2 n^2 d + 2 n d m)

for T layers of width d and FFN m over a sequence of n tokens: system prompt, image and question. It leaves out the vision tower,
counts a plain FFN where the models have a gated one, full-width keys and values where theirs are grouped, and no output; its unit
is multiplications. `flops` counts what runs.
"""

from __future__ import annotations

from visionthink.evals.flops import DecoderShape


def paper_flops(shape: DecoderShape, tokens: int) -> int:
    """Of one prompt of `tokens`."""
    n, d, m = tokens, shape.hidden, shape.ffn
    return shape.layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)
