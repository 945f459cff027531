"""Work for the benchmarks of a training step: models with random weights, examples of a given number of tokens, and a script.

Random weights neither ask nor stop. So the script says what every member of a group says, in the place where a token is drawn:
all forward passes are made, on the same tokens in every way of computing them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from visionthink import Example, Protocol, chatml
from visionthink.engine.sampling import Sampling
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.policies.render import Renderer
from visionthink.recipes import recipe
from visionthink.train.config import TrainConfig

PROTOCOL = Protocol("compact")
SIDE = 28
"""Pixels along the side of a visual token."""
NUMBERS = np.random.default_rng(0)
WORDS = " colour is the number left right shape dark faint many"


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Of a Qwen2.5-VL: the decoder's and the vision tower's."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    layers: int
    vision_hidden: int
    vision_ffn: int
    vision_heads: int
    vision_layers: int
    window: int


WIDE = Widths(
    hidden=512,
    ffn=1376,
    heads=8,
    kv_heads=2,
    layers=2,
    vision_hidden=160,
    vision_ffn=432,
    vision_heads=4,
    vision_layers=2,
    window=224,
)
"""About the proportions of the 7B."""
WIDTHS_7B = Widths(
    hidden=3584,
    ffn=18944,
    heads=28,
    kv_heads=4,
    layers=1,
    vision_hidden=1280,
    vision_ffn=3420,
    vision_heads=16,
    vision_layers=2,
    window=112,
)
"""Those of Qwen2.5-VL-7B, of which one layer of 28 and two of 32 are there, and 512 of 152,064 tokens."""
MODELS = {"wide": WIDE, "7b": WIDTHS_7B}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One row of a table: what a step of training does.

    `prompt` tokens of a question and a low view, of which `low` are visual; the full view has four times as many. `share` of
    the `group` members ask for it, all in the `same_words` or each in others. What is said in a turn takes `answer` tokens, from
    the first of the two numbers to the second. `tiny` is the recipe of that name, whose model speaks for itself.
    """

    model: str = "wide"
    prompts: int = 1
    group: int = 8
    prompt: int = 300
    low: int = 150
    share: float = 0.0
    same_words: bool = True
    answer: tuple[int, int] = (10, 20)

    @property
    def name(self) -> str:
        if self.model == "tiny":
            return f"tiny, {self.prompts} x {self.group}"
        asks = {0.0: "direct", 0.5: "half ask", 1.0: "all ask"}[self.share]
        words = f", {'same' if self.same_words else 'different'} words" if self.share else ""
        long = f", answers {self.answer[0]}-{self.answer[1]}" if self.answer != Work.answer else ""
        prompts = f" x {self.prompts}" if self.prompts > 1 else ""
        return f"{self.model} {self.prompt}{prompts}, G {self.group}, {asks}{words}{long}"

    def config(self, model: str, out: Path, steps: int) -> TrainConfig:
        """Of a run of `steps` steps on the model in a folder."""
        if self.model == "tiny":
            chosen = recipe("tiny").config
            return chosen.replace(steps=steps, out=out, prompts_per_step=self.prompts, group_size=self.group)
        return TrainConfig(
            model=model,
            out=out,
            steps=steps,
            prompts_per_step=self.prompts,
            group_size=self.group,
            learning_rate=1e-4,
            max_new_tokens=self.answer[1],
            kl_coef=0.01,
            judge="exact",
            refill=0,
            exclude="",
            shuffle=False,
        )

    def examples(self, steps: int) -> list[Example]:
        """For `steps` steps. Those of the first are small, since it is not measured: what is made once is made by it."""
        if self.model == "tiny":
            chosen = recipe("tiny")
            return chosen.examples(chosen.config.replace(steps=steps, prompts_per_step=self.prompts))
        small = dataclasses.replace(self, prompt=60, low=12)
        return [(self if step else small)._example(step * self.prompts + i) for step in range(steps) for i in range(self.prompts)]

    def _example(self, number: int) -> Example:
        renderer, rng = Renderer(open_checkpoint("tiny-base").tokenizer), np.random.default_rng(number)
        rows, columns = _sides(self.low)
        pixels = rng.integers(0, 256, (2 * rows * SIDE, 2 * columns * SIDE, 3), np.uint8)
        around = 2 + len(renderer.encode(chatml.opening(PROTOCOL.opening("", (), can_request=True), "chatml")))
        words = rng.choice(WORDS.split(), self.prompt - self.low - around)
        return Example(str(number), "".join(f" {word}" for word in words), Image.fromarray(pixels), answer="0")


def _sides(tokens: int) -> tuple[int, int]:
    """Rows and columns of so many visual tokens, as square as can be."""
    rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


def random_model(widths: Widths, folder: Path) -> str:
    """A checkpoint with random weights and the tokenizer of the tiny model; returns its folder."""
    base = open_checkpoint("tiny-base")
    config, half = base.model.config, widths.hidden // widths.heads // 2
    torch.manual_seed(0)
    time = half // 4
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": config.text_config.vocab_size,
                "hidden_size": widths.hidden,
                "intermediate_size": widths.ffn,
                "num_hidden_layers": widths.layers,
                "num_attention_heads": widths.heads,
                "num_key_value_heads": widths.kv_heads,
                "max_position_embeddings": 32768,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [time, (half - time) // 2, half - time - (half - time) // 2],
                },
                **{name: getattr(config.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
            },
            vision_config={
                "depth": widths.vision_layers,
                "hidden_size": widths.vision_hidden,
                "intermediate_size": widths.vision_ffn,
                "num_heads": widths.vision_heads,
                "out_hidden_size": widths.hidden,
                "fullatt_block_indexes": [widths.vision_layers - 1],
                "window_size": widths.window,
                "patch_size": 14,
            },
            **{
                name: getattr(config, name)
                for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
            },
        )
    )
    model.generation_config = base.model.generation_config
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": SIDE**2, "longest_edge": 20_000 * SIDE**2})
    save_checkpoint(folder, model=model, tokenizer=base.tokenizer, image_processor=processor, protocol=PROTOCOL)
    return str(folder)


# ------------------------------------------------------------------------------------------------ the script


class Script:
    """What the members of a group say, in tokens.

    In the first turn `share` of them ask, the others answer; in the second all answer. Lengths are spread evenly over those that
    are wanted, the longest among them, and are the same in every group.
    """

    def __init__(self, work: Work, renderer: Renderer):
        self._end = renderer.end_id
        self._words = [renderer.plain(f" {word}")[0] for word in WORDS.split()]
        request, asking = [*renderer.plain(PROTOCOL.request()), self._end], round(work.share * work.group)
        alike = self._said(random.Random(0), work.answer[0] - len(request)) if work.same_words else []
        lengths = np.linspace(*work.answer, work.group).round().astype(int).tolist()
        self._said_in: list[list[list[int]]] = [[], []]
        for turn, member in itertools.product((0, 1), range(work.group)):
            rng = random.Random(f"{turn} {member}")
            if turn == 0 and member < asking:
                length = lengths[-1 - member] - len(request)
                said = [*(alike if work.same_words else self._said(rng, length)), *request]
            else:
                answer = [*renderer.plain(f"<answer>{member % 2}</answer>"), self._end]
                said = [*self._said(rng, lengths[-1 - member] - len(answer)), *answer]
            self._said_in[turn].append(said)

    def _said(self, rng: random.Random, length: int) -> list[int]:
        return rng.choices(self._words, k=max(0, length))

    def replies(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """After each prompt of one call, in which the members of a group stand in order."""
        met: Counter[tuple[int, ...]] = Counter()
        said = []
        for ids in prompts:
            opening, turn = tuple(ids[: list(ids).index(self._end)]), (list(ids).count(self._end) - 1) // 2
            said.append(self._said_in[turn][met[opening]])
            met[opening] += 1
        return said

    def speak(self, model: Any, engine: Any = None) -> None:
        """Replace what a model samples by it, and what the engine samples where there is one."""
        generate = model.generate

        def scripted(input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> Any:
            prompts = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
            forced = LogitsProcessorList([Forced(self.replies(prompts), input_ids.shape[1])])
            return generate(input_ids=input_ids, attention_mask=attention_mask, logits_processor=forced, **others)

        model.generate = scripted
        if engine is None:
            return
        complete = engine.complete

        def completed(prompts: Sequence[Sequence[int]], images: Any, sampling: Sampling, *_: Any, **named: Any) -> Any:
            rule = Drawn(ends=sampling.ends, most=sampling.most, temperature=sampling.temperature, banned=sampling.banned)
            return complete(prompts, images, rule, Given(self.replies(prompts)), **named)

        engine.complete = completed


class Forced(LogitsProcessor):
    """Leaves `generate` no choice."""

    def __init__(self, rows: Sequence[Sequence[int]], begin: int):
        self._rows, self._begin = rows, begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = input_ids.shape[1] - self._begin
        chosen = torch.tensor([row[min(at, len(row) - 1)] for row in self._rows])[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


class Given:
    """In the place of `Streams`: what each row says, a token at a time."""

    def __init__(self, rows: Sequence[Sequence[int]]):
        self._rows = rows

    def drawing(self, _rows: Sequence[bytes]) -> contextlib.AbstractContextManager[list[Iterator[int]]]:
        return contextlib.nullcontext([iter(row) for row in self._rows])


class Drawn(Sampling):
    """Draws as usual, and then says what is given."""

    def _drawn(self, logits: torch.Tensor, before: Any, streams: Any) -> torch.Tensor:
        super()._drawn(logits, before, [NUMBERS] * len(streams))
        return torch.tensor([next(stream) for stream in streams])
