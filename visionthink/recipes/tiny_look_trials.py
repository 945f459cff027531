"""The cold start of the embedded model that can look: what its own trials showed to be the cheapest way to be right.

Every action is tried by force on questions of the training split: to answer, and each of the ten crops. Of those that led to
the right answer, and not by a guess, the cheapest ones are learnt from. So nobody tells where the evidence is: answers do.
Reinforcement learning alone finds these looks slowly: at first one look in nine shows what a question needs at the least cost,
and an offer that always helps, all of the image, is found before the place is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from visionthink.data import places
from visionthink.data.synth import Cell
from visionthink.episode import run_batch
from visionthink.menu import Menu
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.forced import ForcedPolicy, Steerable
from visionthink.policies.render import Renderer
from visionthink.progress import stage
from visionthink.recipes.tiny_base import BATCH_SIZE, Batches, Steps, run_phase
from visionthink.recipes.tiny_look_base import MENU, PROTOCOL, look_tokens
from visionthink.rewards.judge import judge_transcripts
from visionthink.rewards.spec import read_judge
from visionthink.train.demonstrations import collate
from visionthink.transcript import Transcript
from visionthink.types import Example

QUESTIONS = 2_500
TRIALS = Steps(name="trials", batches=1_500, seed=5, peak=8e-4, decay=1_500)
SURE = 0.5
"""An answer of less probability under the model is a guess."""
ONE_LEVEL = 0.25
"""Share of conversations about one level, where there is nothing to decide, so that they are not unlearnt."""
_AT_ONCE = 250


@dataclass(frozen=True)
class Trial:
    """A question, and what was said first on the cheapest ways to its answer: requests, or None for none."""

    example: Example
    first: tuple[str | None, ...]


def trials(model_name: str, examples: Sequence[Example]) -> list[Trial]:
    """Each action once on each question, greedily; questions that nothing leads to the answer of are left out."""
    model = load(model_name, menu="ten", max_new_tokens=8, batch_size=64)
    assert isinstance(model.policy, Steerable)
    judge, actions = read_judge("exact"), (None, *look_tokens())
    found = []
    with stage("trying every action", len(examples)) as advance:
        for begin in range(0, len(examples), _AT_ONCE):
            part = examples[begin : begin + _AT_ONCE]
            cheapest: list[dict[str | None, int]] = [{} for _ in part]
            for action in actions:
                policy = ForcedPolicy(model.policy, model.protocol, [action])
                transcripts = run_batch([model.episode(example) for example in part], policy)
                for right, transcript, verdict in zip(cheapest, transcripts, judge_transcripts(judge, transcripts), strict=True):
                    if verdict.verdict == "correct" and _probability(transcript) >= SURE:
                        right[action] = transcript.visual_tokens
            for example, right in zip(part, cheapest, strict=True):
                if right:
                    found.append(Trial(example, tuple(a for a, cost in right.items() if cost == min(right.values()))))
            advance(len(part), "")
    return found


def _probability(transcript: Transcript) -> float:
    """Probability of the answer. Its first token is left out: it is the tag, which says that there is an answer and not another
    look."""
    return math.exp(sum((transcript.turns[-1].logprobs or ())[1:]))


class Decisions(Batches):
    """Conversations that take one of the cheapest ways."""

    def __init__(self, phase: Steps, renderer: Renderer, found: Sequence[Trial]):
        super().__init__(phase, renderer, PROTOCOL)
        self.found = found

    def batch(self, rng: np.random.Generator, number: int) -> dict[str, torch.Tensor]:
        lessons = []
        for i in rng.integers(len(self.found), size=BATCH_SIZE):
            trial = self.found[int(i)]
            first = trial.first[int(rng.integers(len(trial.first)))]
            answer = self.protocol.format_answer(trial.example.answer or "")
            if rng.random() < ONE_LEVEL:
                low = trial.example.need == "easy" and rng.random() < 0.5
                lessons.append(self.scripted(trial.example, Menu().low() if low else Menu().full(), [answer]))
                continue
            lessons.append(self.scripted(trial.example, MENU, [answer] if first is None else [first, answer]))
        return collate(lessons, self.renderer, self.processor)


def cold_start(base: Path, out: Path, cells: Sequence[Cell]) -> Path:
    """Try, and learn from what was cheapest; returns the folder of the model. Goes on where it was interrupted."""
    target = out / "started"
    if not target.is_dir():
        examples = places.suite(QUESTIONS, split="train", seed=1_000, cells=cells)
        opened = open_checkpoint(str(base), dtype=torch.float32)
        lessons = Decisions(TRIALS, Renderer(opened.tokenizer, PROTOCOL.boundary), trials(str(base), examples))
        run_phase(TRIALS, lessons, opened.model, out, target)
    return target
