"""What the model really read in an episode: one sequence, or several where requests stand in canonical words.

In a canonical episode (`Protocol.canonical`) nothing follows what was sampled in a turn that asks: the next prompt goes on from
the prompt before it. `Transcript.token_ids` then holds the ids of all turns, but no sequence that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionthink.transcript import Transcript


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadSequence:
    """Ids that the model read, or sampled, one after the other.

    `ids` and `columns` [tokens]: a column is a token's place in `Transcript.token_ids`, and -1 where the token stands in an
    earlier sequence too. `views` is how many of the episode's views it holds: so many first ones.
    """

    ids: np.ndarray
    columns: np.ndarray
    views: int

    def mask(self, loss_mask: Sequence[int]) -> np.ndarray:
        """A mask of `Transcript.token_ids` as one of these ids [tokens]: each token is learnt from in one sequence."""
        return np.array([*loss_mask, 0])[self.columns]


def sequences(transcript: Transcript) -> list[ReadSequence]:
    """In order. Each column of `Transcript.token_ids` is in one of them. A usual transcript is one sequence; a canonical one has
    another for every request that was followed: the prompt before it, the request in canonical words, bridge and reply.

    Raises:
        ValueError: the transcript was read from JSON, which does not keep prompt ids.
    """
    all_ids = np.array(transcript.token_ids, dtype=np.int64)
    found, columns, prompt, views, end = [], np.arange(0), 0, 0, 0
    ids = all_ids[:0]
    for turn in transcript.turns:
        if not turn.prompt_ids:  # the policy failed before it read anything
            continue
        if turn.restarted:
            found.append(ReadSequence(ids=ids, columns=columns, views=views))
            ids, columns = ids[:prompt], np.full(prompt, -1)
        begin, end = end, end + len(turn.prompt_ids) + len(turn.token_ids)
        ids, columns = np.concatenate([ids, all_ids[begin:end]]), np.concatenate([columns, np.arange(begin, end)])
        prompt, views = len(ids) - len(turn.token_ids), views + len(turn.views)
    return [*found, ReadSequence(ids=ids, columns=columns, views=views)]
