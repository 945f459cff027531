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
from PIL import Image
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from visionthink.data import drawing, place_families, place_scenes, synth
from visionthink.geometry import ten_crops
from visionthink.menu import Menu, named_menu
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.protocol import Protocol
from visionthink.recipes.tiny_base import BATCH_SIZE, Batches, Steps, run_phase
from visionthink.recipes.tiny_model import CAPTION_QUESTION, poster
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.transcript import COVERED
from visionthink.types import Call, Example, Need

MENU, _dialect = named_menu("ten")
PROTOCOL = Protocol(_dialect or "")
CROPS = ten_crops(112, 112, 0)
_WORDS = (" in", " frame", "Are", " digits", " and", " same", " that", " points", " to")
"""Words of the questions in `data.places` that the tokenizer of the base would take apart into letters."""


ONE_LEVEL, DIRECT, AT_RANDOM = 0.3, 0.25, 0.135
"""Shares of the conversations: about one level, half of them of the quarter view where that suffices; answers without a look;
looks at a random place. The others show the evidence."""


@dataclass(frozen=True, kw_only=True)
class LookPhase(Steps):
    """What the batches of a phase hold. Shares are probabilities."""

    captions: float
    frames: float
    """Captions, and drawings with frames among them."""
    families: Mapping[str, float]
    """Questions, by family of `data.places`, or `where`: at which place the frame of a colour is. The rest are of
    `data.synth`."""


LOOKING = LookPhase(
    name="looking",
    batches=4_000,
    seed=2,
    peak=1e-3,
    decay=1,
    captions=0.25,
    frames=2 / 3,
    families={"framed": 0.3, "named": 0.2, "pair": 0.12, "hidden": 0.1, "all": 0.08, "period": 0.04},
)
FRAMES = LookPhase(
    name="base",
    batches=10_000,
    seed=3,
    peak=1e-3,
    decay=5_000,
    captions=0.2,
    frames=5 / 6,
    families={"framed": 0.38, "where": 0.12, "pair": 0.18, "named": 0.09, "hidden": 0.05, "all": 0.05, "period": 0.03},
)
"""Digits in crops are read soon; to find the frame of a colour among several is learnt last."""


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
            if rng.random() < shares.frames:
                image, caption = framed_poster(rng, level)
            else:
                image, caption = poster(rng, level, chart=bool(rng.random() < 0.35))
            return self.scripted(Example("caption", CAPTION_QUESTION, image), Menu().fixed_level(level), [caption]), False
        example = self._question(rng)
        answer, branch = self.protocol.format_answer(example.answer or ""), rng.random()
        if branch < ONE_LEVEL:
            low = example.need == "easy" and rng.random() < 0.5
            return self.scripted(example, Menu().low() if low else Menu().full(), [answer]), False
        if branch < ONE_LEVEL + DIRECT:
            return self.scripted(example, MENU, [answer]), False
        ours = branch < 1 - AT_RANDOM
        names = self._showing(rng, example) if ours else list(rng.permutation(list(CROPS))[: 1 + (rng.random() < 0.1)])
        look = self.protocol.request(Call(regions=tuple(map(str, names))))
        return self.scripted(example, MENU, [look, answer]), ours

    def _question(self, rng: np.random.Generator) -> Example:
        shares, hard = self.shares.families, bool(rng.integers(2))
        family = str(rng.choice([*shares, "others"], p=[*shares.values(), 1 - sum(shares.values())]))
        if family == "others":
            drawn = synth.draw_scene(str(rng.choice(list(synth.FAMILIES))), rng, hard=hard)
            image, evidence = drawing.render(drawn.marks, drawn.paper, drawn.noise_seed), drawn.needed
            question, answer = drawn.question, drawn.answer
        else:
            scene = place_families.compose("framed" if family == "where" else family, rng, hard=hard)
            image, evidence, question, answer = scene.image(), scene.evidence, scene.question, scene.answer
            if family == "where":
                frame = scene.marks[0]
                question, answer = f"Where is the {frame.colour} frame?", drawing.PLACES[_slot(frame)]
                evidence, hard = ((evidence[0][0], 0.25),), False
        need: Need = "hard" if hard else "easy"
        return Example(family, question, image, answer=answer, evidence=evidence, need=need)

    def _showing(self, rng: np.random.Generator, example: Example) -> list[str]:
        """Crops that show the evidence: for each box one of those that do, so that a half is met as often as a quadrant."""
        names: list[str] = []
        for box, _ in example.evidence:
            if box.covered_by(CROPS[name] for name in names) < COVERED:
                names.append(str(rng.choice([name for name, crop in CROPS.items() if box.covered_by([crop]) >= COVERED])))
        return names


def _slot(mark: drawing.Mark) -> int:
    """The slot of four in which a mark is, in reading order."""
    return 2 * (mark.y > place_scenes.SLOT) + (mark.x > place_scenes.SLOT)


def framed_poster(rng: np.random.Generator, level: float) -> tuple[Image.Image, str]:
    """Digits in frames, and the dense caption, slot by slot in reading order."""
    scene = place_families.compose("framed", rng, hard=bool(rng.integers(2)))
    words = ["nothing"] * 4
    for mark in scene.marks:
        slot = _slot(mark)
        if mark.kind == "frame":
            words[slot] = mark.colour
        elif level < 1 and mark.fine:
            words[slot] += " nothing"
        else:
            words[slot] += f" {mark.value}"
    return scene.image(), ", ".join(words)


def pretrain(out: Path) -> Path:
    """Train from `tiny-base`, in two phases; returns the folder of the base that can look. Goes on where it was
    interrupted, see `tiny_base.run_phase`."""
    opened = open_checkpoint("tiny-base", dtype=torch.float32)
    tokenizer = extended(opened.tokenizer)
    renderer = Renderer(tokenizer, PROTOCOL.boundary)
    model, previous = opened.model, ""
    for phase in (LOOKING, FRAMES):
        done = out / phase.name
        if not done.is_dir():
            if previous:
                model = open_checkpoint(previous, dtype=torch.float32).model
            else:
                torch.manual_seed(phase.seed)
                model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
            run_phase(phase, Looks(phase, renderer), model, out, done)
        previous = str(done)
    return done
