"""Log-probabilities of a step's rollouts with every shared prefix read once.

The rollouts become a tree of tokens, which the model reads in one pass (`engine.attention.Forest`); the head is run on what comes
before sampled tokens, once for each pair of a place and the token that follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from visionthink.engine.attention import Forest
from visionthink.engine.positions import rope_positions
from visionthink.engine.tower import Features, Pixels, PreparedImages
from visionthink.engine.tree import PrefixTree, row_keys
from visionthink.train.rollouts import Rollout
from visionthink.train.sequences import sequences


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Rollouts in one row of distinct tokens.

    `ids` [1, tokens] and `positions` [3, 1, tokens] are what the model reads, `labels` [1, pairs] the tokens whose probability is
    asked for after each of the forest's places. `rows`, `columns` and `pairs` say, for every sampled token that is learnt from,
    its rollout, its place behind the opening and its pair.
    """

    forest: Forest
    keys: np.ndarray
    images: tuple[Pixels, ...]
    ids: Tensor
    positions: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor
    pairs: Tensor

    def inputs(self, features: Features | None) -> dict[str, Any]:
        """What a stock Qwen-VL model is called with."""
        encoded: dict[str, Any] = {}
        if features:
            _, tokens, deep = features.of_keys(self.keys)
            layers = [(layer,) for layer in deep]
            out = BaseModelOutputWithDeepstackFeatures(pooler_output=(tokens,), deepstack_features=layers)
            encoded = {"mm_encoder_outputs": {"image": out}}
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "shared": self.forest,
            "shift_labels": self.labels,
            **encoded,
        }

    def spread(self, values: Tensor, order: Tensor, width: int) -> Tensor:
        """Values of pairs [1, pairs] where rollouts have them [rollouts, width], 0 elsewhere. `order` [rollouts] is where each
        rollout stands in the result."""
        return values.new_zeros((len(order), width)).index_put((order[self.rows], self.columns), values[0, self.pairs])


class StepScorer:
    """The rollouts of one step, packed as they are asked for: once for all passes over the same ones.

    Args:
        rollouts: in order.
        images: as the tower reads them.
        pad: id of the image pad token.
    """

    def __init__(self, rollouts: Sequence[Rollout], images: PreparedImages, pad: int, device: torch.device):
        self._device, self._pad, self._images = device, pad, images
        self._rollouts, self._packed = rollouts, dict[tuple[int, ...], Packed]()
        self.tokens = 0
        """Distinct tokens that were read in all passes."""

    def packed(self, chosen: Iterable[int]) -> Packed:
        """These rollouts in ascending order of their numbers: TRL permutes them after the reference has read them."""
        key = tuple(sorted(chosen))
        if key not in self._packed:
            self._packed[key] = self._pack([self._rollouts[i] for i in key])
        packed = self._packed[key]
        self.tokens += packed.ids.shape[1]
        return packed

    def _pack(self, rollouts: Sequence[Rollout]) -> Packed:
        openings = [len(rollout.transcript.turns[0].prompt_ids) for rollout in rollouts]
        # number of the rollout, a sequence of it, and what is learnt from there
        read = [
            (i, sequence, np.flatnonzero(sequence.mask(rollout.loss_mask)))
            for i, rollout in enumerate(rollouts)
            for sequence in sequences(rollout.transcript)
        ]
        if not any(len(sampled) for *_, sampled in read):
            # nothing to learn: a pass all the same, so that processes and gradients stay in step
            read = [(0, read[0][1], np.array([openings[0]]))]
        read = [row for row in read if len(row[2])]
        prepared = self._images.of([rollouts[i].images[: sequence.views] for i, sequence, _ in read])
        keys, positions = [], []
        for (_, sequence, sampled), images in zip(read, prepared, strict=True):
            of_row = row_keys(sequence.ids, self._pad, [(image.number, image.tokens) for image in images])
            at, _ = rope_positions(of_row, [image.shape for image in images])
            last = sampled[-1]  # what follows need not be read
            keys.append(of_row[:last])
            positions.append(at[:, :last])
        tree = PrefixTree.of(keys)
        packed = np.empty((3, len(tree.keys)), dtype=np.int64)
        asked, spots = [], []
        for (i, sequence, sampled), where, at in zip(read, tree.where, positions, strict=True):
            packed[:, where] = at
            asked.append(np.stack([where[sampled - 1], sequence.ids[sampled]]))
            spots.append(np.stack([np.full(len(sampled), i), sequence.columns[sampled] - openings[i]]))
        (places, labels), pairs = np.unique(np.concatenate(asked, 1), axis=1, return_inverse=True)
        rows, columns = np.concatenate(spots, 1)
        return Packed(
            forest=Forest(tree, places, self._device),
            keys=tree.keys,
            images=tuple({image.number: image for row in prepared for image in row}.values()),
            ids=self._tensor(np.where(tree.keys < 0, self._pad, tree.keys))[None],
            positions=self._tensor(packed)[:, None],
            labels=self._tensor(labels)[None],
            rows=self._tensor(rows),
            columns=self._tensor(columns),
            pairs=self._tensor(pairs.ravel()),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)
