"""How long a model takes on this machine, by kind of work: what a budget in milliseconds needs (`rewards.costs.DeviceTable`).

Calls of the model are timed one at a time, over images, texts and replies of different lengths, and four numbers are fitted to
them. They hold for one request at a time on an idle device; a batch takes less time for each of its members.
"""

from __future__ import annotations

import itertools
import math
import platform
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from visionthink.errors import OptionError
from visionthink.menu import Menu
from visionthink.model import Model
from visionthink.policies.local import LocalPolicy
from visionthink.progress import stage
from visionthink.resolution import PixelBudget
from visionthink.rewards.costs import PATCHES, DeviceTable, Work
from visionthink.types import Example

_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Sizes of the measured images, as shares of the largest one."""
_WORDS = (0, 40, 160)
_OUTPUT = (1, 4, 16)
"""Words of a question's text, and tokens of a reply."""
REPEATS = 3
"""Calls of each kind, of which the shortest counts: what else runs on the machine only ever makes a call longer."""


class Call(NamedTuple):
    """One call to be timed: visual tokens along a side of its image, words of its text, tokens of its reply."""

    side: int
    words: int
    output: int


def measure(model: Model, name: str, *, most_tokens: int = 1024) -> DeviceTable:
    """Time a model that transformers runs.

    Args:
        name: of the model, for the record.
        most_tokens: visual tokens of the largest image, where the processor allows so many.

    Raises:
        OptionError: the model is not in our hands.
        DataError: its images cannot differ in size, so that the kinds of work cannot be told apart.
    """
    policy, budget = model.policy, model.budget
    if not isinstance(policy, LocalPolicy) or not isinstance(budget, PixelBudget):
        raise OptionError(f"--model {name}: measure times a model that transformers runs on this machine")
    largest = min(most_tokens, budget.max_pixels // budget.factor**2)
    sides = [max(1, round(math.sqrt(share * largest))) for share in _SHARES]
    calls = list(itertools.starmap(Call, itertools.product(sides, _WORDS, _OUTPUT)))
    endless = policy
    for end in policy.renderer.end_ids:  # so that a reply is as long as it may be
        endless = endless.forbidding(policy.renderer.tokenizer.convert_ids_to_tokens(end))
    draw = np.random.default_rng(0)
    work, milliseconds = [], []
    with stage("timing calls", len(calls) * REPEATS) as advance:
        _timed(model, endless, calls[-1], draw)  # what is compiled or allocated in a first call is not counted
        for call in calls:
            timed = [_timed(model, endless, call, draw) for _ in range(REPEATS)]
            work.append(timed[0][0])
            milliseconds.append(min(ms for _, ms in timed))
            advance(REPEATS)
    return DeviceTable.fitted(name, _device(policy), work, milliseconds)


def _timed(model: Model, policy: LocalPolicy, call: Call, draw: np.random.Generator) -> tuple[Work, float]:
    """What a call has to do, and its milliseconds. Its image is noise, so that nothing of it is known from a call before."""
    side = call.side * model.budget.factor
    image = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
    example = Example("measure", " ".join(["What is shown here?", *["word"] * call.words]), image)
    episode = model.episode(example, Menu().full())
    [said] = policy.sampling_as(max_new_tokens=call.output).complete([episode.history])
    patches, output = PATCHES * episode.space.full_tokens, len(said.token_ids)
    return Work(turns=1, prefilled=len(said.prompt_ids), patches=patches, output=output), 1000 * said.seconds


def _device(policy: LocalPolicy) -> str:
    model = policy.checkpoint.model
    if model.device.type == "cuda":
        return f"{torch.cuda.get_device_name(model.device)}, {model.dtype}".replace("torch.", "")
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {model.dtype}".replace("torch.", "")
