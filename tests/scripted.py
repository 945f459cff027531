"""Put a script into the mouth of a model under training; TRL's generation, and what it makes of the ids, stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from visionthink.policies.render import Renderer
from visionthink.types import Completion


def speak(trainer: Any, renderer: Renderer, reply: Callable[[str, int, int], Completion | str]) -> None:
    """`reply(question, turn, member)` says the words; member counts the rows of the same question in one call."""
    tokenizer = renderer.tokenizer

    def generate(input_ids, attention_mask, **_):
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

    trainer.model.generate = generate
