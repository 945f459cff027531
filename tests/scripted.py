"""Replace what a model under training says by a script; everything around its words stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from visionthink.engine.sampling import Said
from visionthink.policies.render import Renderer
from visionthink.types import Completion

Reply = Callable[[str, int, int], Completion | str]
"""What is said to a question in a turn by a member; member counts the rows of the same question in one call."""


def speak(trainer: Any, reply: Reply, *, unheard: bool = False) -> None:
    """Whether prefixes are shared or transformers generates.

    Args:
        unheard: the model generates, too, and nobody hears it: all that its processes must do together is done.
    """
    renderer, model = trainer.sampler.policy.renderer, trainer.accelerator.unwrap_model(trainer.model)
    of_model, of_engine = model.generate, trainer.engine and trainer.engine.complete

    def generate(input_ids, attention_mask, **others):
        if unheard:
            of_model(input_ids=input_ids, attention_mask=attention_mask, **others)
        rows = words(renderer, [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)], reply)
        width = max(map(len, rows))
        new = torch.tensor([row + [renderer.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        return torch.cat([input_ids, new], 1)

    def complete(prompts, *given, **named):
        if unheard:
            of_engine(prompts, *given, **named)
        return [Said(ids=tuple(ids), logprobs=()) for ids in words(renderer, prompts, reply)]

    model.generate = generate
    if trainer.engine:
        trainer.engine.complete = complete


def words(renderer: Renderer, prompts: Sequence[Sequence[int]], reply: Reply) -> list[list[int]]:
    """Ids of what is said after each prompt."""
    rows, seen = [], dict[str, int]()
    for ids in prompts:
        prompt = renderer.tokenizer.decode(ids)
        question = prompt.split("<|vision_end|>")[1].split("<|im_end|>")[0].removesuffix(" Closer?")
        turn = prompt.count("<|im_start|>assistant\n") - 1
        member = seen[question] = seen.get(question, -1) + 1
        said = reply(question, turn, member)
        completion = said if isinstance(said, Completion) else Completion(said)
        rows.append(list(completion.token_ids) or [*renderer.plain(completion.text), renderer.end_id])
    return rows
