"""What one step sampled on this process, in the form in which TRL takes it; rewards go back to the ids they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from PIL import Image

from visionthink.errors import VisionThinkError
from visionthink.train.exclusions import Exclusion
from visionthink.train.rollouts import Rollout
from visionthink.transcript import Transcript

Part = Literal["accuracy", "format", "penalty", "bonus"]


@dataclass(frozen=True)
class Blank:
    """What TRL gets in place of a rollout whose first turn failed and which has no ids: a prompt and an answer, both masked."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    image: Image.Image

    def instead_of(self, rollout: Rollout) -> Rollout:
        first, *more = rollout.transcript.turns
        first = replace(first, prompt_ids=self.prompt_ids, token_ids=self.token_ids)
        transcript = replace(rollout.transcript, turns=(first, *more))
        return replace(rollout, transcript=transcript, images=(self.image,), loss_mask=(0,) * len(transcript.token_ids))


@dataclass(frozen=True)
class SampledStep:
    """The rollouts of a step, groups in order. The opening is TRL's prompt, all that follows its completion."""

    rollouts: tuple[Rollout, ...] = ()

    @classmethod
    def of(cls, groups: Sequence[Sequence[Rollout]], blank: Blank) -> SampledStep:
        rollouts = (rollout for group in groups for rollout in group)
        return cls(tuple(r if r.transcript.token_ids else blank.instead_of(r) for r in rollouts))

    @property
    def transcripts(self) -> list[Transcript]:
        return [rollout.transcript for rollout in self.rollouts]

    @property
    def completion_ids(self) -> list[list[int]]:
        """Ids after the opening."""
        return [list(t.token_ids[len(t.turns[0].prompt_ids) :]) for t in self.transcripts]

    def generated(self, *, with_logprobs: bool, with_images: bool = True) -> tuple[Any, ...]:
        """What `GRPOTrainer._generate` of TRL 1.16 returns: prompt ids, completion ids, masks of sampled ids, last messages,
        log-probabilities of sampling, extra fields, images, images shown by tools.

        Args:
            with_logprobs: where another engine than the trainer sampled, whose probabilities are corrected for.
            with_images: whether TRL is to make pixels of every rollout.
        """
        transcripts = self.transcripts
        begins = [len(t.turns[0].prompt_ids) for t in transcripts]
        images = [list(rollout.images) for rollout in self.rollouts]
        return (
            [list(t.token_ids[:n]) for t, n in zip(transcripts, begins, strict=True)],
            self.completion_ids,
            [list(r.loss_mask[n:]) for r, n in zip(self.rollouts, begins, strict=True)],
            [[{"role": "assistant", "content": t.turns[-1].text}] for t in transcripts],
            [sampling_logprobs(t) for t in transcripts] if with_logprobs else None,
            {},
            images if with_images else None,
            images if with_images else [],
        )

    def rewards(self, part: Part, completion_ids: Sequence[Sequence[int]], sign: int = 1) -> list[float | None]:
        """One part of the reward of each rollout. A member that was not scored gets None from every part: TRL then leaves it out
        of the group's statistics.

        Args:
            completion_ids: of what TRL wants rewarded; they must be this step's, in order.

        Raises:
            VisionThinkError: they are not.
        """
        if list(map(list, completion_ids)) != self.completion_ids:
            raise VisionThinkError("rewards are asked for other completions than those of the step")
        return [None if r.score.total is None else sign * getattr(r.score, part) for r in self.rollouts]


def request_view(*_: Any, **__: Any) -> NoReturn:
    """The tool that the model may call. TRL accepts tokens that the model did not sample, and images, inside a completion only if
    the trainer has a tool. This one is never called: the episode answers requests.

    Raises:
        VisionThinkError: TRL has called it.
    """
    raise VisionThinkError("a request is answered by the episode, and not by TRL")


def sampling_logprobs(transcript: Transcript) -> list[float]:
    """Log-probabilities of the ids after the opening, 0 where nothing was sampled; what a vLLM run corrects with."""
    opening, *_ = transcript.turns
    values = [
        value
        for turn in transcript.turns
        for value in (*[0.0] * len(turn.prompt_ids), *(turn.logprobs or [0.0] * len(turn.token_ids)))
    ]
    return values[len(opening.prompt_ids) :]


def measures(
    groups: Sequence[Sequence[Rollout]], exclusions: Sequence[Exclusion], varies: Callable[[Sequence[Rollout]], bool]
) -> dict[str, float]:
    """What a person watching the run wants to know of the policy as it is, by name; left out is a mean over nothing.

    Args:
        exclusions: for which members may have been left out.
        varies: whether a group has anything to compare.
    """
    rollouts = [rollout for group in groups for rollout in group]
    transcripts = [r.transcript for r in rollouts if r.forced is None]
    values: dict[str, list[float]] = {
        "zero_variance": [not varies(group) for group in groups],
        "request_ratio": [t.requested for t in transcripts],
    }
    for need in ("easy", "hard"):
        values[f"request_ratio/{need}"] = [t.requested for t in transcripts if t.need == need]
    values["retain_cumulative"] = [t.retain_cumulative for t in transcripts]
    reasons = [None if r.score.total is not None else _unscored_because(r) for r in rollouts]
    for reason in ("judge", *exclusions):
        values[f"unscored/{reason}"] = [r == reason for r in reasons]
    scored = [(r, r.score.accuracy) for r in rollouts if r.score.accuracy is not None]
    for action, requested in (("direct", False), ("request", True)):
        values[f"accuracy/{action}"] = [a for r, a in scored if r.forced is None and r.transcript.requested == requested]
    for action in dict.fromkeys(r.forced for r in rollouts if r.forced):
        values[f"forced/{action}"] = [a for r, a in scored if r.forced == action]
    values["completions/mean_length"] = [sum(r.transcript.loss_mask) for r in rollouts]
    values["completions/clipped_ratio"] = [t.stop_reason == "length" for t in transcripts]
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def _unscored_because(rollout: Rollout) -> str:
    """Why a rollout has no reward: the filter that left it out, or the judge."""
    return rollout.score.verdict.reason if rollout.score.verdict.by == "filter" else "judge"
