"""The embedded base model that can look at parts of an image: `tiny-base`, taught for one more phase. See `recipes.tiny_look`.

Its requests are AwaRes' ten crops (arXiv 2603.16932), one token each. It learns to say them without a preference: in some
conversations a look at a place drawn uniformly at random is part of what it must say. In others the look is made by us, shows
what the answer depends on, and is not learnt from; there it learns to read a crop beside the quarter view. So the base can read
whatever it is shown, and knows neither when to look nor where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from visionthink.data import drawing, places, synth
from visionthink.geometry import ten_crops
from visionthink.menu import Menu, named_menu
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.protocol import Protocol
from visionthink.recipes.tiny_base import BATCH_SIZE, Batches, Steps, run_phase
from visionthink.recipes.tiny_model import CAPTION_QUESTION, poster
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Box, Call, Example

MENU, _dialect = named_menu("ten")
PROTOCOL = Protocol(_dialect or "")
CROPS = ten_crops(112, 112, 0)
_WORDS = (" in", " frame", "Are", " digits", " and", " same", " that", " points", " to")
"""Words of the questions in `data.places` that the tokenizer of the base would take apart into letters."""


@dataclass(frozen=True, kw_only=True)
class LookPhase(Steps):
    """Shares are probabilities."""

    captions: float
    """Captions; a third of them of drawings without frames."""
    families: Mapping[str, float]
    """Questions, by family of `data.places`; the rest are of `data.synth`."""
    hard: float
    full: float
    low: float
    """Questions on one level; of the quarter view only easy ones."""
    direct: float
    """Answers without a look; the rest look."""
    random: float
    """Looks that are said, at a place drawn at random; the others show the evidence, and are not learnt from."""
    several: float
    """Looks at two crops."""


LOOKING = LookPhase(
    name="looking",
    batches=9_000,
    seed=2,
    peak=1e-3,
    decay=5_000,
    captions=0.25,
    families={"framed": 0.3, "named": 0.2, "pair": 0.12, "hidden": 0.1, "all": 0.08, "period": 0.04},
    hard=0.5,
    full=0.15,
    low=0.15,
    direct=0.25,
    random=0.3,
    several=0.1,
)


def look_tokens() -> list[str]:
    """A request of each offer."""
    return [PROTOCOL.request(Call(regions=(name,))) for name in CROPS]


def extended(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer with one token for each offer, and for each word of the new questions."""
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in (*look_tokens(), *_WORDS)])
    return tokenizer


class Looks(Batches):
    """What the base is taught about looking."""

    def __init__(self, phase: LookPhase, renderer: Renderer):
        super().__init__(phase, renderer, PROTOCOL)
        self.shares = phase

    def batch(self, rng: np.random.Generator, number: int) -> dict[str, torch.Tensor]:
        lessons = [self.lesson(rng) for _ in range(BATCH_SIZE)]
        inputs = collate([lesson for lesson, _ in lessons], self.renderer, self.processor)
        for labels, (lesson, ours) in zip(inputs["labels"], lessons, strict=True):
            if ours:
                first = lesson.transcript.turns[0]
                labels[: len(first.prompt_ids) + len(first.token_ids)] = -100
        return inputs

    def lesson(self, rng: np.random.Generator) -> tuple[Demonstration, bool]:
        """A demonstration, and whether its first turn was ours."""
        shares = self.shares
        if rng.random() < shares.captions:
            level = 0.25 if rng.random() < 0.5 else 1.0
            if rng.random() < 1 / 3:
                image, caption = poster(rng, level, chart=bool(rng.random() < 0.35))
            else:
                image, caption = framed_poster(rng, level)
            return self.scripted(Example("caption", CAPTION_QUESTION, image), Menu().fixed_level(level), [caption]), False
        example = self._question(rng)
        answer = self.protocol.format_answer(example.answer or "")
        kind = rng.random()
        if kind < shares.full:
            return self.scripted(example, Menu().full(), [answer]), False
        if kind < shares.full + shares.low:
            return self.scripted(example, Menu().low() if example.need == "easy" else Menu().full(), [answer]), False
        if kind < shares.full + shares.low + shares.direct:
            return self.scripted(example, MENU, [answer]), False
        if rng.random() < shares.random:
            count = 2 if rng.random() < shares.several else 1
            names = [list(CROPS)[i] for i in rng.permutation(len(CROPS))[:count]]
            return self.scripted(example, MENU, [self._request(names), answer]), False
        return self.scripted(example, MENU, [self._request(self._showing(rng, example)), answer]), True

    def _question(self, rng: np.random.Generator) -> Example:
        shares, hard = self.shares.families, bool(rng.random() < self.shares.hard)
        others = 1 - sum(shares.values())
        family = str(rng.choice([*shares, "others"], p=[*shares.values(), others]))
        if family in shares:
            scene = places.compose(family, rng, hard=hard)
            return Example(
                family, scene.question, scene.image(), answer=scene.answer, evidence=scene.evidence,
                need="hard" if hard else "easy",
            )  # fmt: skip
        family = str(rng.choice(list(synth.FAMILIES)))
        drawn = synth.draw_scene(family, rng, hard=hard)
        image = drawing.render(drawn.marks, drawn.paper, drawn.noise_seed)
        return Example(
            family, drawn.question, image, answer=drawn.answer, evidence=drawn.needed, need="hard" if hard else "easy"
        )  # fmt: skip

    def _request(self, names: list[str]) -> str:
        return "".join(self.protocol.request(Call(regions=(name,))) for name in names)

    def _showing(self, rng: np.random.Generator, example: Example) -> list[str]:
        """Crops that show the evidence: for each box one of those that do, so that a half is met as often as a quadrant."""
        names: list[str] = []
        for box, _ in example.evidence:
            if not any(box.covered_by([CROPS[name]]) >= 0.95 for name in names):
                enough = [name for name, crop in CROPS.items() if Box(*box).covered_by([crop]) >= 0.95]
                names.append(str(rng.choice(enough)))
        return names[:1] if "all" in names[:1] else [n for n in names if n != "all"] if len(names) < 2 else names


def framed_poster(rng: np.random.Generator, level: float) -> tuple[drawing.Image.Image, str]:
    """Digits in frames, and the dense caption, slot by slot in reading order."""
    scene = places.compose("framed", rng, hard=bool(rng.integers(2)))
    words = ["nothing"] * 4
    for mark in scene.marks:
        slot = 2 * (mark.y > 56) + (mark.x > 56)
        if mark.kind == "frame":
            words[slot] = mark.colour
        elif level < 1 and mark.fine:
            words[slot] += " nothing"
        else:
            words[slot] += f" {mark.value}"
    return scene.image(), ", ".join(words)


def pretrain(out: Path, phase: LookPhase = LOOKING) -> Path:
    """Train from `tiny-base`, and save the base that can look to `out / "base"`; returns that folder. Goes on where it was
    interrupted, see `tiny_base.run_phase`."""
    opened = open_checkpoint("tiny-base", dtype=torch.float32)
    tokenizer = extended(opened.tokenizer)
    torch.manual_seed(phase.seed)
    opened.model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    run_phase(phase, Looks(phase, Renderer(tokenizer, PROTOCOL.boundary)), opened.model, out, out / "base")
    return out / "base"
