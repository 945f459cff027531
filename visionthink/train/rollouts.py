"""From examples to scored rollout groups. No trainer, no tensors: episodes are driven, judged, and told apart.

A group is `group_size` episodes of one example. With `forced` > 0 that many of them are made to take each of some actions, by
default to answer directly and to ask: all branches then stay trained and measured, however lopsided the policy has become. Only
what the policy chose itself is trained: a forced decision is masked.
"""

from __future__ import annotations

import bisect
import logging
import math
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from PIL import Image

from visionthink.action_space import ActionSpace
from visionthink.episode import Episode, Policy, RunBatch, run_batch
from visionthink.errors import DataError, InputError
from visionthink.menu import Menu
from visionthink.picture import Picture, measured, open_pictures
from visionthink.policies.forced import ForcedPolicy, Steerable
from visionthink.policies.render import views
from visionthink.protocol import DIALECTS, Protocol
from visionthink.resolution import PixelBudget
from visionthink.rewards.ahead import AskedAhead
from visionthink.rewards.cascade import remote
from visionthink.rewards.channels import Channels
from visionthink.rewards.rubric import Rubric
from visionthink.train.exclusions import Exclusion, exclusions
from visionthink.train.forced_looks import words
from visionthink.train.pictures import Opened, OpenedPictures
from visionthink.transcript import RolloutGroup, Transcript
from visionthink.types import Example, StopReason

log = logging.getLogger(__name__)

T = TypeVar("T")


def training_order(example_ids: Sequence[T], count: int, *, seed: int, shuffle: bool) -> list[T]:
    """The first `count` ids of all of them again and again, each time in another order where `shuffle` is set. What a step trains
    on follows from the seed and the number of the step alone, so a resumed run sees what an uninterrupted one sees."""
    n = len(example_ids)
    epochs = range(-(-count // n))
    order = [i for e in epochs for i in (random.Random(f"{seed} {e}").sample(example_ids, n) if shuffle else example_ids)]
    return order[:count]


@dataclass(frozen=True, kw_only=True)
class EpisodeSource:
    """Makes the episodes of a run."""

    examples: Mapping[str, Example]
    menu: Menu
    protocol: Protocol
    budget: PixelBudget
    _reading: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Examples are read by several threads, and a mapping need not allow that."""

    @property
    def can_ask(self) -> bool:
        """Whether there may be something to ask for, and a way to do it."""
        return bool(self.menu.asks & self.protocol.asks)

    def episodes(self, example_id: str, count: int) -> list[Episode]:
        """Several of one example, which share its opened pictures and their views.

        Raises:
            InputError: the example cannot be read.
        """
        return self.over(self.example(example_id), count)

    def opened(self, example_id: str) -> Opened:
        """An example and its pictures, with the views that are shown first, and those of the next level, rendered.

        Raises:
            InputError: it cannot be read.
        """
        example = self.example(example_id)
        pictures = open_pictures(example, row=f"example {example.id}")
        if pictures:  # an episode says that there is none
            space = ActionSpace(self.menu, [picture.size for picture in pictures], self.budget)
            levels = [offer.looks for offer in space.offers() if offer.level is not None]
            for looks in (space.opening, *levels[:1]):
                space.render(looks, pictures)
        return example, pictures

    def example(self, example_id: str) -> Example:
        """An example, read by one thread at a time.

        Raises:
            InputError: it cannot be read.
        """
        with self._reading:
            return self.examples[example_id]

    def over(self, example: Example, count: int = 1, pictures: Sequence[Picture] | None = None) -> list[Episode]:
        """The same as `episodes`, for an example that need not be one of the source's, or for pictures that are opened."""
        pictures = pictures or open_pictures(example, row=f"example {example.id}")
        return [Episode(example, pictures, self.menu, self.protocol, budget=self.budget) for _ in range(count)]

    def space(self, example: Example) -> ActionSpace:
        """What an episode would show and offer, without decoding its images.

        Raises:
            ImageError: the header of an image cannot be read, or no model can be shown such an image.
        """
        return ActionSpace(self.menu, measured(example, row=f"example {example.id}"), self.budget)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A transcript, the views that were shown, its loss mask (as `Transcript.loss_mask`; zero where a decision was forced, all
    zero where the member is left out) and its score. `forced` names the action it was made to take."""

    transcript: Transcript
    images: tuple[Image.Image, ...]
    loss_mask: tuple[int, ...]
    score: Channels
    forced: str | None = None
    decision: int | None = None
    """Place of the id, after the opening, with which it decided to answer; None where nothing is forced, or it asked."""
    probability: float | None = None
    """Probability of its first action under the policy; None where that is not decided by ids alone, or nothing is forced."""

    def masked(self) -> Rollout:
        """The same, with nothing to learn from."""
        return replace(self, loss_mask=(0,) * len(self.loss_mask))


def _views_read(transcript: Transcript) -> int:
    """Views whose visual tokens are among the ids: those of a turn that failed are not."""
    return sum(len(turn.views) for turn in transcript.turns if turn.prompt_ids)


class GroupSampler:
    """Samples and scores groups. What takes the place of an example that cannot be read is one of `replacements`, else any.
    `run` drives the episodes.

    Raises:
        OptionError: branches are to be forced, and this policy cannot be kept from asking.
    """

    def __init__(
        self,
        source: EpisodeSource,
        policy: Steerable,
        rubric: Rubric,
        group_size: int,
        *,
        forced: int = 0,
        actions: Sequence[str] = ("direct", "request"),
        exclude: Sequence[Exclusion] = (),
        mask_over_limit: bool = False,
        replacements: Sequence[str] | None = None,
        run: RunBatch = run_batch,
    ):
        self.run = run
        self.source, self.policy, self.rubric, self.group_size = source, policy, rubric, group_size
        self.forced, self.exclude, self.mask_over_limit = forced if source.can_ask else 0, tuple(exclude), mask_over_limit
        self.rejected: dict[str, str] = {}
        """Examples that could not be read, and why."""
        self.pictures = OpenedPictures(source.opened)
        """Held until a step's members have ended; the views that they were shown stay with them."""
        self._replacements = list(source.examples) if replacements is None else replacements
        self._words: dict[int, str] = {}
        """For members that are made to look, by their history: the text of their request."""
        self._policies: dict[str | None, Policy] = {None: policy}
        for action in actions if self.forced else ():
            script = [None] if action == "direct" else lambda history: [self._words[id(history)]]
            self._policies[action] = ForcedPolicy(policy, source.protocol, script)

    def sample(self, example_ids: Sequence[str]) -> list[list[Rollout]]:
        """One group per example, in order; another example takes the place of one that cannot be read. A judge behind a server is
        asked about members that have ended while others still speak."""
        self.pictures.begin(example_ids)
        groups = [self._episodes(example_id) for example_id in example_ids]
        self.pictures.drop()
        # a judge that waits for a server is asked as members end; rules, which compute, would only hold up the model
        ahead = AskedAhead(self.rubric.judge) if remote(self.rubric.judge) else None
        self._words = {
            id(episode.history): words(action, episode)
            for group in groups
            for episode, action in zip(group, self._actions(), strict=True)
            if action not in (None, "direct")
        }
        for action, policy in self._policies.items():
            live = [e for group in groups for e, a in zip(group, self._actions(), strict=True) if a == action]
            self.run(live, policy, ahead.begin if ahead else None)
        transcripts = [[episode.transcript() for episode in group] for group in groups]
        rubric = replace(self.rubric, judge=ahead) if ahead else self.rubric
        excluded = [exclusions(group, self.exclude) for group in transcripts]
        scores = rubric.score_groups(transcripts, excluded, [group[0].example.evidence for group in groups])
        return [self._rollouts(*parts) for parts in zip(groups, transcripts, scores, strict=True)]

    def _episodes(self, example_id: str) -> list[Episode]:
        others = random.Random(example_id)
        while True:
            try:
                example, pictures = self.pictures.get(example_id)
                return self.source.over(example, self.group_size, pictures)
            except InputError as error:
                if example_id not in self.rejected:
                    log.warning("%s; another example takes its place", error)
                self.rejected[example_id] = str(error)
            left = [i for i in self._replacements if i not in self.rejected]
            if not left:
                raise DataError(f"no example can be read; the last: {self.rejected[example_id]}")
            example_id = others.choice(left)

    def _actions(self) -> list[str | None]:
        """What each member of a group is made to do; None leaves it free. Free members come first: of two that say the same, the
        later one is the duplicate."""
        forced = [action for action in self._policies if action for _ in range(self.forced)]
        return [*[None] * (self.group_size - len(forced)), *forced]

    def _rollouts(self, episodes: Sequence[Episode], group: RolloutGroup, scores: Sequence[Channels]) -> list[Rollout]:
        rollouts = [
            Rollout(
                transcript=t,
                images=tuple(v.image for v in views(episode.history))[: _views_read(t)],
                loss_mask=self._mask(t, action),
                score=score,
                forced=action,
                decision=self._decision(t.turns[0].token_ids) if self._decides(t, action) else None,
                probability=self._probability(t) if self.forced and action is None else None,
            )
            for t, episode, score, action in zip(group, episodes, scores, self._actions(), strict=True)
        ]
        return [r.masked() if r.score.total is None or self._is_masked(r.transcript) else r for r in rollouts]

    def _is_masked(self, transcript: Transcript) -> bool:
        return self.mask_over_limit and transcript.stop_reason is StopReason.OVER_LIMIT

    def _decides(self, transcript: Transcript, action: str | None) -> bool:
        return bool(self.forced and action in (None, "direct") and transcript.turns[0].action == "answer")

    def _mask(self, transcript: Transcript, action: str | None) -> tuple[int, ...]:
        mask = list(transcript.loss_mask)
        first = transcript.turns[0]
        begin = len(first.prompt_ids)
        if action == "direct" and first.token_ids:  # drawn with the request banned: not the policy's own choice
            mask[begin + self._decision(first.token_ids)] = 0
        elif action not in (None, "direct"):  # nothing of the first turn was sampled
            mask[begin : begin + len(first.token_ids)] = [0] * len(first.token_ids)
        return tuple(mask)

    def _probability(self, transcript: Transcript) -> float | None:
        """Probability of the first action of a free member, where nothing is said before it: of all ids of a request, or of the
        first id of the answer."""
        first = transcript.turns[0]
        if not first.logprobs or DIALECTS[self.source.protocol.dialect].thinks:
            return None
        if first.looks:
            return math.exp(sum(first.logprobs))
        return math.exp(first.logprobs[0]) if first.action == "answer" and self._decision(first.token_ids) == 0 else None

    def _decision(self, token_ids: Sequence[int]) -> int:
        """Index of the token that opens the answer, where a request might have begun instead; 0 without a tag."""
        decode = self.policy.renderer.tokenizer.decode
        begun = decode(token_ids).find(self.source.protocol.answer_opening)
        return bisect.bisect_right(range(len(token_ids)), begun, key=lambda i: len(decode(token_ids[: i + 1])))
