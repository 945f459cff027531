"""Groups that have nothing to compare are replaced (as DAPO does, arXiv 2503.14476)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from visionthink.train.credit import Credited
from visionthink.train.rollouts import Rollout

Groups = list[list[Rollout]]


def refilled(trainer: Credited, groups: Groups, example_ids: Sequence[str], sample: Callable[[Sequence[str]], Groups]) -> Groups:
    """Replace groups that have nothing to compare by groups of other examples, in so many rounds at most; what is left then is
    masked. All processes sample equally many groups, so none waits."""
    groups, varies = list(groups), trainer.varies
    for attempt in range(trainer.config.refill):
        poor = [i for i, group in enumerate(groups) if not varies(group)]
        accelerator = trainer.accelerator
        wanted = int(accelerator.gather(torch.tensor([len(poor)], device=accelerator.device)).max())
        if not wanted:
            break
        draw = random.Random(f"{trainer.args.seed} {trainer.state.global_step} {attempt} {accelerator.process_index}")
        present = {group[0].transcript.example_id for group in groups}
        others = [i for i in example_ids if i not in present] or example_ids
        fresh = sample(draw.choices(others, k=wanted))
        for i, group in zip(poor, filter(varies, fresh), strict=False):
            groups[i] = group
    return [group if varies(group) else [rollout.masked() for rollout in group] for group in groups]
