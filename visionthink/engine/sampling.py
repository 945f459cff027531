"""How the next token is drawn: what may not be said, at which temperature, and from which stream of random numbers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import NoBadWordsLogitsProcessor

from visionthink.engine.tower import Pixels
from visionthink.types import Spread


@dataclass(frozen=True, kw_only=True)
class Said:
    """Ids that were sampled, with the one that ended the row, and their log-probabilities under the model's own distribution:
    before any ban, at temperature 1."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    spreads: tuple[Spread, ...] = ()
    """One spread for each id, where `Sampling.spreads` asks for them."""


class Drawn(NamedTuple):
    """The next ids of all rows."""

    ids: Tensor
    """[rows]"""
    logprobs: Tensor
    """[rows], under the model's own distribution."""
    spreads: Tensor | None
    """[rows, 3]: the fields of `types.Spread`."""


Listen: TypeAlias = Callable[[Sequence[int], Sequence[int]], Collection[int]]
"""Is given the rows that have drawn a token, and the tokens; says which of these rows end with it."""


class Streams:
    """One random-number generator for each row. It is seeded by the seed of the run, the prompt, and the number of earlier rows
    with that prompt: not by the rows of the same batch.

    Args:
        most: prompts whose numbers are kept, those that were met last; 90 bytes each. Who is not among them begins above the
            numbers of all that were forgotten, so that no row is drawn a second time.
    """

    def __init__(self, seed: int | str, *, most: int = 1 << 18):
        self.seed, self.most = seed, most
        self._met: dict[bytes, int] = {}
        """The number of the next row of each prompt; who was met last stands last."""
        self._forgotten = 0
        """The highest number of a prompt that is not kept."""

    @contextlib.contextmanager
    def drawing(self, rows: Sequence[bytes]) -> Iterator[list[np.random.Generator]]:
        """The next stream for each row, named by all that tells it from others. Where the block fails, for want of memory, these
        rows count as not drawn."""
        generators = [self.of(row) for row in rows]
        try:
            yield generators
        except BaseException:
            for name in map(self._name, rows):
                if name in self._met:
                    self._met[name] -= 1
            raise

    def of(self, row: bytes) -> np.random.Generator:
        """The next stream for a row."""
        name = self._name(row)
        number = self._met.pop(name, self._forgotten)
        self._met[name] = number + 1
        if len(self._met) > self.most:
            self._forgotten = max(self._forgotten, self._met.pop(next(iter(self._met))))
        return np.random.Generator(np.random.Philox(key=int.from_bytes(name, "little") ^ number))

    def _name(self, row: bytes) -> bytes:
        return hashlib.blake2b(f"{self.seed} ".encode() + row, digest_size=16).digest()


def prompt_name(ids: Sequence[int], images: Sequence[Pixels]) -> bytes:
    """All that tells a prompt from others, whatever ran before: its ids and the content of its images."""
    return np.asarray(ids, dtype=np.int64).tobytes() + b"".join(image.digest for image in images)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The rule for one call.

    `temperature` 0 takes the likeliest token. `banned` ids and `phrases` of ids are never said. A row ends after one of
    `ends`, or after `most` tokens. `spreads` are worked out where they are asked for.
    """

    ends: frozenset[int]
    most: int
    temperature: float = 0.0
    banned: tuple[int, ...] = ()
    phrases: tuple[tuple[int, ...], ...] = ()
    spreads: bool = False
    _ban: NoBadWordsLogitsProcessor | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        phrases = [list(phrase) for phrase in self.phrases]
        object.__setattr__(self, "_ban", NoBadWordsLogitsProcessor(phrases) if phrases else None)

    def numbers(
        self, streams: Streams | None, prompts: Sequence[Sequence[int]], images: Sequence[Sequence[Pixels]]
    ) -> contextlib.AbstractContextManager[list[np.random.Generator] | None]:
        """The random numbers of each row, for a block that draws them; None at temperature 0."""
        if not self.temperature:
            return contextlib.nullcontext()
        if streams is None:
            raise ValueError("a temperature above 0 needs streams of random numbers")
        return streams.drawing([prompt_name(ids, row) for ids, row in zip(prompts, images, strict=True)])

    @property
    def memory(self) -> int:
        """The most ids before a token that decide whether it may be said."""
        return max((len(phrase) for phrase in self.phrases), default=1)

    def draw(self, logits: Tensor, before: Sequence[Sequence[int]], streams: Sequence[np.random.Generator] | None) -> Drawn:
        """The next id of each row.

        Args:
            logits: [rows, vocabulary].
            before: the last ids of each row, at least `memory` of them.
            streams: of each row; needed unless the temperature is 0.
        """
        drawn = self._drawn(logits, before, streams)
        logprobs = logits.float().log_softmax(-1)
        spreads = self._spreads(logprobs, drawn) if self.spreads else None
        return Drawn(drawn, logprobs.gather(-1, drawn[:, None])[:, 0], spreads)

    def _spreads(self, logprobs: Tensor, drawn: Tensor) -> Tensor:
        probabilities = logprobs.exp()
        # a token of probability 0 adds nothing to the entropy
        entropies = -(probabilities * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
        banned = probabilities[:, list(self.banned)].sum(-1)
        return torch.stack([entropies, probabilities.scatter(-1, drawn[:, None], 0.0).amax(-1), banned], -1)

    def _drawn(self, logits: Tensor, before: Sequence[Sequence[int]], streams: Sequence[np.random.Generator] | None) -> Tensor:
        scores = logits.float().nan_to_num(nan=0.0, neginf=-torch.inf)  # so that one bad row does not stop the others
        if self.banned:
            scores[:, list(self.banned)] = -torch.inf
        if self._ban:
            # no phrase has the id -1: it stands before what is shorter
            tails = [[-1] * self.memory + list(ids) for ids in before]
            scores = self._ban(torch.tensor([ids[-self.memory :] for ids in tails], device=scores.device), scores)
        if not self.temperature:
            return scores.argmax(-1)
        assert streams is not None
        scores = scores if scores.is_cuda else scores.cpu()  # other devices have no float64
        numbers = torch.tensor([stream.random() for stream in streams], dtype=torch.float64, device=scores.device)
        # the first token at which the sum of probabilities is above a number between 0 and 1
        exact = scores.double()
        sums = ((exact - exact.amax(-1, keepdim=True)) / self.temperature).softmax(-1).cumsum(-1)
        return torch.searchsorted(sums, (numbers * sums[:, -1])[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
