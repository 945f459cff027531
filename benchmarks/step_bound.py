"""Floating-point operations of one training step, as stock code does it and with everything distinct done once.

Both are counted from the rollouts of a step that was run, by the formulas of `visionthink.evals.flops`. Stock code (`plain`)
reads every row whole, in both rounds of generation and in the passes after it; rows are padded to the longest, attention under a
padding mask computes the whole square, finished rows go on until the last one ends, and TRL 1.16 runs the head on all positions
on a CPU. At the least (`shared`) every distinct image is encoded once in each of generation, reference and update, every distinct
prefix read once, the causal half of attention computed, and the head run on what precedes a sampled token. A backward pass is
twice a forward pass.

The bound of a ratio of times is that of these numbers: both ways at one rate. A measured ratio can be above it, where the smaller
work fits into the caches of the processor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from visionthink.engine.tree import PrefixTree, row_keys
from visionthink.evals.flops import Architecture, DecoderShape, decoder_flops, vision_flops
from visionthink.train.rollouts import Rollout

PHASES = ("generation", "reference", "update")
Operations = dict[str, float]
"""By phase."""


class StepOperations:
    """Of a step, `plain` and `shared`.

    Args:
        pad: id of the image pad token.
    """

    def __init__(self, architecture: Architecture, rollouts: Sequence[Rollout], pad: int):
        self._architecture, self._pad = architecture, pad
        self._numbers: dict[bytes, int] = {}
        self._rollouts = [
            (rollout, [(self._number(image), image.width * image.height // 28**2, image.size) for image in rollout.images])
            for rollout in rollouts
        ]
        self.plain: Operations = dict.fromkeys(PHASES, 0.0)
        self.shared: Operations = dict.fromkeys(PHASES, 0.0)
        self._generate()
        self._score()

    def _number(self, image: Any) -> int:
        return self._numbers.setdefault(image.tobytes(), len(self._numbers))

    def _generate(self) -> None:
        known: list[np.ndarray] = []
        encoded: set[int] = set()
        rounds = max(len(rollout.transcript.turns) for rollout, _ in self._rollouts)
        for turn in range(rounds):
            rows, said, images = [], [], []
            before = list(known)
            for rollout, pictures in self._rollouts:
                turns = rollout.transcript.turns
                if turn >= len(turns) or not turns[turn].prompt_ids:
                    continue
                prompt = [i for earlier in turns[: turn + 1] for i in earlier.prompt_ids + earlier.token_ids]
                prompt = prompt[: len(prompt) - len(turns[turn].token_ids)]
                seen = pictures[: sum(len(each.views) for each in turns[: turn + 1])]
                keys = row_keys(prompt, self._pad, [(number, tokens) for number, tokens, _ in seen])
                rows.append(keys)
                said.append(len(turns[turn].token_ids))
                images.append(seen)
                # the last token that is said is not read
                known.append(np.concatenate([keys, turns[turn].token_ids[:-1]]).astype(np.int64))
            longest, padded = max(map(len, rows)), len(set(map(len, rows))) > 1
            shape, steps = self._architecture.decoder, max(said) - 1
            self.plain["generation"] += self._tower(image for row in images for image in row)
            self.plain["generation"] += decoder(shape, len(rows) * longest, len(rows) * pairs(longest, padded), len(rows))
            self.plain["generation"] += decoder(
                shape, len(rows) * steps, len(rows) * sum(longest + i + 1 for i in range(steps)), len(rows) * steps
            )
            fresh = {image[0]: image for row in images for image in row if image[0] not in encoded}
            encoded |= fresh.keys()
            self.shared["generation"] += self._tower(fresh.values())
            tokens, seen_keys, contexts = unknown(rows, before)
            self.shared["generation"] += decoder(shape, tokens, seen_keys, contexts)
            for keys, n in zip(rows, said, strict=True):
                self.shared["generation"] += decoder(shape, n - 1, sum(len(keys) + i + 1 for i in range(n - 1)), n - 1)

    def _score(self) -> None:
        shape, rows, asked = self._architecture.decoder, [], []
        prompts, completions = [], []
        for rollout, pictures in self._rollouts:
            ids, begin = rollout.transcript.token_ids, len(rollout.transcript.turns[0].prompt_ids)
            prompts.append(begin)
            completions.append(len(ids) - begin)
            sampled = np.flatnonzero(rollout.loss_mask)
            if len(sampled):
                keys = row_keys(ids, self._pad, [(number, tokens) for number, tokens, _ in pictures])[: sampled[-1] + 1]
                rows.append(keys[:-1])
                asked.append((keys, sampled))
        width, count = max(prompts) + max(completions), len(self._rollouts)
        padded = len(set(prompts)) > 1 or len(set(completions)) > 1
        whole = self._tower(image for _, pictures in self._rollouts for image in pictures)
        whole += decoder(shape, count * width, count * pairs(width, padded), count * (width - 1))
        distinct = {image[0]: image for _, pictures in self._rollouts for image in pictures}
        tree = PrefixTree.of(rows)
        # a place in the tree, and what follows it
        scored = {
            (int(where[at - 1]), int(keys[at]))
            for (keys, sampled), where in zip(asked, tree.where, strict=True)
            for at in sampled
        }
        least = self._tower(distinct.values()) + decoder(shape, len(tree.keys), int(depths(tree).sum()), len(scored))
        for phase, passes in (("reference", 1), ("update", 3)):
            self.plain[phase] += passes * whole
            self.shared[phase] += passes * least

    def _tower(self, images: Any) -> float:
        shape, out = self._architecture.vision, self._architecture.decoder.hidden
        return float(sum(vision_flops(shape, *size, out) for _, _, size in images))


def decoder(shape: DecoderShape, tokens: int, seen: float, logits: int) -> float:
    """Of `tokens` that together see `seen` keys; `logits` positions are given to the head."""
    of_pair = 4 * shape.layers * shape.heads * shape.head_size
    return tokens * (decoder_flops(shape, 1, logits=0) - of_pair) + of_pair * seen + 2 * logits * shape.hidden * shape.vocabulary


def pairs(tokens: int, padded: bool) -> float:
    """Queries and keys of a row: under a padding mask the square, else the causal half."""
    return tokens**2 if padded else tokens * (tokens + 1) / 2


def depths(tree: PrefixTree) -> np.ndarray:
    """How many tokens each one sees, itself included."""
    found = np.zeros(len(tree.keys), dtype=np.int64)
    for where in tree.where:
        found[where] = np.arange(1, len(where) + 1)
    return found


def unknown(rows: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Distinct tokens of prompts that have not been read, how many keys they see, and how many distinct prompts there are. The
    last token of a prompt is read in any case, since its logits are wanted."""
    tree = PrefixTree.of([*known, *rows])
    read = np.zeros(len(tree.keys), dtype=bool)
    for where in tree.where[: len(known)]:
        read[where] = True
    wanted = np.zeros(len(tree.keys), dtype=bool)
    for where in tree.where[len(known) :]:
        wanted[where] = True
        read[where[-1]] = False
    fresh = wanted & ~read
    return int(fresh.sum()), int(depths(tree)[fresh].sum()), len({row.tobytes() for row in rows})


def together(steps: Sequence[Operations]) -> Operations:
    """The sum of some steps."""
    found: Operations = defaultdict(float)
    for step in steps:
        for phase, value in step.items():
            found[phase] += value
    return dict(found)
