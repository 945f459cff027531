"""Both lanes of a gate over the same pictures, as one transcript: the answer from the low view, and where it is not kept what
follows. All that was said and shown is in it, so that its bill is the whole one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol
from typing import Self, runtime_checkable

from visionthink.certainty import VOTES, vote
from visionthink.episode import Episode, Policy, run_batch
from visionthink.errors import OptionError
from visionthink.evals.lane import Lane
from visionthink.menu import Menu
from visionthink.model import Model
from visionthink.policies.gate import Gate
from visionthink.transcript import Transcript, Turn
from visionthink.types import Look, StopReason

_NOT_ANSWERED = (StopReason.POLICY_ERROR, StopReason.REFUSED)
"""Endings that another view does not change."""


@dataclass(frozen=True, kw_only=True)
class GateLane:
    """Shows more where a gate does not keep the answer.

    `kept` answers from the low view. `escalated` begins again with the full view or, where the gate continues, shows it by force
    behind the low one.
    """

    gate: Gate
    kept: Lane | VotingLane
    escalated: Lane
    model: Model

    @property
    def menu(self) -> Menu:
        return self.kept.menu

    def run(self, episodes: Sequence[Episode]) -> list[Transcript]:
        """See `Lane.run`."""
        first = [_by_gate(transcript) for transcript in self.kept.run(episodes)]
        again = [i for i, transcript in enumerate(first) if self._shows_more(transcript)]
        menu = self.escalated.menu
        more = [self.model.episode(episodes[i].example, menu, pictures=episodes[i].pictures) for i in again]
        join = _restarted if self.gate.mode == "restart" else _continued
        joined = {i: join(first[i], second) for i, second in zip(again, self.escalated.run(more), strict=True)}
        return [joined.get(i, transcript) for i, transcript in enumerate(first)]

    def _shows_more(self, transcript: Transcript) -> bool:
        if transcript.stop_reason in _NOT_ANSWERED or transcript.visual_tokens >= transcript.visual_tokens_full:
            return False
        return not (transcript.answered and self.gate.keeps(transcript.turns[-1].scores))


@runtime_checkable
class _Samples(TypingProtocol):
    """A policy whose temperature can be changed."""

    def sampling_as(self, *, temperature: float) -> Self: ...


@dataclass(frozen=True)
class VotingLane:
    """The greedy answer, and sampled ones beside it for the score `vote`. Their tokens and time are on the bill of its turn."""

    greedy: Lane
    sampler: Policy
    model: Model

    @classmethod
    def of(cls, greedy: Lane, model: Model) -> VotingLane:
        """
        Raises:
            OptionError: the model cannot sample.
        """
        if not isinstance(model.policy, _Samples):
            raise OptionError("the score vote: needs a model whose temperature can be set, and this one's cannot")
        return cls(greedy, model.policy.sampling_as(temperature=1.0), model)

    @property
    def menu(self) -> Menu:
        return self.greedy.menu

    def run(self, episodes: Sequence[Episode]) -> list[Transcript]:
        """See `Lane.run`."""
        said = self.greedy.run(episodes)
        voters = [self.model.episode(e.example, self.menu, pictures=e.pictures) for e in episodes for _ in range(VOTES)]
        votes = run_batch(voters, self.sampler)
        return [_with_votes(one, votes[i * VOTES : (i + 1) * VOTES]) for i, one in enumerate(said)]


def _with_votes(transcript: Transcript, votes: Sequence[Transcript]) -> Transcript:
    *before, last = transcript.turns
    usage = dataclasses.replace(
        last.usage,
        output_tokens=last.usage.output_tokens + sum(v.output_tokens for v in votes),
        seconds=last.usage.seconds + sum(v.seconds for v in votes),
    )
    scores = {**last.scores, "vote": vote([v.answer for v in votes])}
    return dataclasses.replace(transcript, turns=(*before, dataclasses.replace(last, usage=usage, scores=scores)))


def _by_gate(transcript: Transcript) -> Transcript:
    """A transcript of the low view alone: the full one is on offer, to the gate."""
    turns = tuple(dataclasses.replace(turn, by="gate") for turn in transcript.turns)
    smaller = transcript.visual_tokens < transcript.visual_tokens_full
    offers = (("1", transcript.visual_tokens_full),) if smaller else ()
    return dataclasses.replace(transcript, turns=turns, offers=offers)


def _restarted(first: Transcript, full: Transcript) -> Transcript:
    looks = tuple(Look((view.box,), view.level, view.image) for view in full.turns[0].views)
    begun, *rest = full.turns
    return _joined(first, looks, full, [dataclasses.replace(begun, anew=True), *rest])


def _continued(first: Transcript, forced: Transcript) -> Transcript:
    """The request by force stands in place of the answer that was not kept."""
    request, *rest = forced.turns
    if not rest:
        return first
    answer = dataclasses.replace(
        rest[0],
        prompt=f"{request.text}\n{rest[0].prompt}",
        prompt_ids=(*request.token_ids, *rest[0].prompt_ids),
        restarted=True,
    )
    return _joined(first, request.looks, forced, [answer, *rest[1:]])


def _joined(first: Transcript, looks: tuple[Look, ...], last: Transcript, turns: Sequence[Turn]) -> Transcript:
    *before, kept = first.turns
    return dataclasses.replace(
        last,
        offers=first.offers,
        turns=(*before, dataclasses.replace(kept, looks=looks), *(dataclasses.replace(turn, by="gate") for turn in turns)),
        stop_reason=StopReason.ANSWERED_AFTER_REQUEST if last.answered else last.stop_reason,
    )
