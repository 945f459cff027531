"""Put a script into the mouth of a model under training; TRL's generation, and what it makes of the ids, stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from visionthink.policies.render import Renderer
from visionthink.types import Completion


def speak(model: Any, renderer: Renderer, reply: Callable[[str, int, int], Completion | str], *, unheard: bool = False) -> None:
    """`reply(question, turn, member)` says the words; member counts the rows of the same question in one call.

    Args:
        unheard: the model generates, too, and nobody hears it: all that its processes must do together is done.
    """
    tokenizer = renderer.tokenizer
    own = model.generate

    def generate(input_ids, attention_mask, **others):
        if unheard:
            own(input_ids=input_ids, attention_mask=attention_mask, **others)
        rows, seen = [], {}
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prompt = tokenizer.decode(ids[mask.bool()])
            question = prompt.split("<|vision_end|>")[1].split("<|im_end|>")[0].removesuffix(" Closer?")
            turn = prompt.count("<|im_start|>assistant\n") - 1
            member = seen[question] = seen.get(question, -1) + 1
            said = reply(question, turn, member)
            completion = said if isinstance(said, Completion) else Completion(said)
            rows.append(list(completion.token_ids) or [*renderer.plain(completion.text), renderer.end_id])
        width = max(map(len, rows))
        new = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        return torch.cat([input_ids, new], 1)

    model.generate = generate
