"""ETT (arXiv 2505.10562) in miniature: the tiny decoder reads codes of a discrete tokenizer in place of the features of a vision
tower, and a tokenizer that is tuned together with the decoder is compared with a frozen one.

1. The tokenizer (`engine.codebook`) is trained to rebuild images, first as a plain autoencoder, then with codes.
2. Alignment: only the projector is trained, so that it maps codes to visual tokens that the decoder can read.
3. Tuning, once for each arm, decoder included, with L = L_answers + alpha L_vq: indices only, frozen codes, jointly, and with
   alpha 0. L_vq = error / variance + L_quant + .05 L_entropy.

Ours: answers to generated questions in place of captions; the tower's features as an additional target in stage 2; in stage 1
the start as an autoencoder, codes that are initialised from outputs of the encoder, and new values for unused codes, without
which nearly all codes remain unused.

Hardware: 2 CPU cores, 3 GB. Time: about 10 minutes a seed on one free core. An interrupted run continues at the stage it was in.
Command: `python -m visionthink.recipes.ett --out runs/ett`, then `visionthink eval mini --model runs/ett/final --policy full`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from visionthink.threads import wait_passively


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description="A tokenizer tuned end to end (ETT), in miniature.")
    parser.add_argument("--out", type=Path, default=Path("runs/ett"), help="working folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of repetitions, with seeds from 0 (default: %(default)s)")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"argument --seeds: {options.seeds}: must be at least 1")
    wait_passively()

    from visionthink.recipes.ett_runs import run

    run(options.out, options.seeds)


if __name__ == "__main__":
    main()
