"""ETT (arXiv 2505.10562) in miniature: the tiny decoder reads codes in place of the tower's features, and a tokenizer that is
tuned together with it is compared with one that is frozen.

1. The tokenizer (`engine.codebook`) learns to rebuild the images of questions, first as a plain autoencoder, then by codes.
2. Alignment: the projector alone learns to say in codes what the decoder is used to.
3. Tuning, once for each arm, decoder included, by L = L_answers + alpha L_vq: by indices alone, frozen codes, jointly, and with
   alpha 0. L_vq = error / variance + L_quant + .05 L_entropy.

OURS: answers to generated questions in place of captions; the tower's features as a helper in 2; in 1 the start as an
autoencoder, codes begun at outputs of the encoder, and those that are not used begun again, without which nearly all codes die.

Hardware: 2 CPU cores, 3 GB. Time: about 10 minutes a seed on one free core. Goes on with the stage that was interrupted.
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
    parser.add_argument("--seeds", type=int, default=1, help="how often all is done (default: %(default)s)")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"argument --seeds: {options.seeds}: must be at least 1")
    wait_passively()

    from visionthink.recipes.ett_runs import run

    run(options.out, options.seeds)


if __name__ == "__main__":
    main()
