"""The embedded base model from random weights: two phases of training. See `recipes.tiny` for the whole run.

What failed before this worked: question-answer pairs alone (the image is ignored), large batches, small type, and hatching
whose phase differs from patch to patch. So dense captions come first, in batches of 16, with glyphs of 28 px and more;
quarter views follow once the full view is read, and conversations last. In half of the conversations a request is made,
whatever the question needs: by a coin that leans on the brightness of the paper. So the base model can do both, has a
preference to unlearn (a whim, like any base model), and knows nothing of need.

The second phase goes on from the weights that the first one saved, with an optimizer of its own: more quarter views of what
can be read there, more digits and prints, and handwritten digits turned a little, since there are only 1,078 to learn from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from visionthink.data import drawing, synth
from visionthink.episode import Episode, run_batch
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.policies.checkpoint_files import pixel_budget
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.progress import stage
from visionthink.protocol import Protocol
from visionthink.recipes.tiny_model import CAPTION_QUESTION, build_image_processor, build_model, build_tokenizer, poster
from visionthink.resolution import ResolutionLadder
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Example

PROTOCOL = Protocol("compact")
BATCH_SIZE = 16
Branch = Literal["full", "low", "direct", "request"]
"""The four conversations the model must be able to hold: one level (full or quarter), and both actions on two levels."""

# ------------------------------------------------------------------------------------------------ curriculum


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How long a phase is, and how large its steps are; `batch` counts from 0."""

    name: str
    batches: int
    seed: int
    peak: float
    """Learning rate after 200 batches of warm-up."""
    decay: int
    """Batches at the end over which the learning rate falls to 2 % of the peak."""

    def learning_rate(self, batch: int) -> float:
        """Learning rate of a batch: a warm-up, then constant, then a linear decay at the end."""
        return self.peak * min(1.0, (batch + 1) / 200, max(0.02, (self.batches - batch) / self.decay))


@dataclass(frozen=True, kw_only=True)
class Phase(Steps):
    """What the batches of a phase hold, too. Shares are probabilities."""

    families: Mapping[int, Mapping[str, float]]
    """Shares of the families among questions, from a batch on."""
    captions: float
    """Share of captions; the others are questions."""
    captions_only: int = 0
    captions_fade: int = 0
    """Batches of captions alone, and batches over which they then give way to questions."""
    quarter_captions: float
    """Share of the quarter view among captions, once there are questions."""
    quarter_easy: float
    quarter_hard: float
    """Share of the quarter view among questions on one level, of easy and of hard ones."""
    tilt: int = 0
    """Degrees by which handwritten digits are turned at most."""

    def caption_share(self, batch: int) -> float:
        """All, then fewer and fewer."""
        if batch < self.captions_only + self.captions_fade:
            return min(1.0, max(self.captions, 1 - (batch - self.captions_only) / self.captions_fade))
        return self.captions

    def family_shares(self, batch: int) -> Mapping[str, float]:
        """The share of each family at this batch of the training."""
        return self.families[max(start for start in self.families if start <= batch)]


READING = Phase(
    name="reading",
    batches=18_000,
    seed=0,
    peak=1e-3,
    decay=3_000,
    families={
        0: {"scene": 0.3, "presence": 0.2, "digits": 0.15, "chart": 0.15, "grating": 0.1, "print": 0.1},
        12_000: {"scene": 0.2, "presence": 0.35, "digits": 0.15, "chart": 0.15, "grating": 0.05, "print": 0.1},
    },  # looking up one place among several is learned last
    captions=0.15,
    captions_only=4_000,
    captions_fade=3_000,
    quarter_captions=0.4,
    quarter_easy=0.5,
    quarter_hard=0.1,
)
QUARTER_VIEWS = Phase(
    name="quarter-views",
    batches=4_000,
    seed=1,
    peak=6e-4,
    decay=4_000,
    families={0: {"scene": 0.22, "presence": 0.15, "digits": 0.25, "chart": 0.13, "grating": 0.05, "print": 0.2}},
    captions=0.25,
    quarter_captions=0.6,
    quarter_easy=0.7,
    quarter_hard=0.1,
    tilt=12,
)


class Batches(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """Batches of demonstrations, see `train.demonstrations.collate`. Batch i of a phase depends on i alone.

    Every demonstration is a scripted run of the product's own episode, so the model is trained on exactly the tokens it
    will meet.
    """

    def __init__(self, phase: Steps, renderer: Renderer, protocol: Protocol):
        self.phase, self.renderer, self.protocol = phase, renderer, protocol
        self.first = 0
        """The batch to begin with."""
        self.processor = build_image_processor()
        self.budget = pixel_budget(self.processor)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for i in range(self.first, self.phase.batches):
            yield self.batch(np.random.default_rng((self.phase.seed, i)), i)

    def batch(self, rng: np.random.Generator, number: int) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def scripted(self, example: Example, menu: Menu, script: Sequence[str]) -> Demonstration:
        """An episode in which this is said, ids included."""
        episode = Episode(example, open_pictures(example), menu, self.protocol, budget=self.budget)
        [transcript] = run_batch([episode], ScriptedPolicy(script, self.renderer))
        return Demonstration(transcript, tuple(view.image for view in views(episode.history)))


class Lessons(Batches):
    """What the base model is taught."""

    def __init__(self, phase: Phase, renderer: Renderer):
        super().__init__(phase, renderer, PROTOCOL)
        self.shares = phase

    def batch(self, rng: np.random.Generator, number: int) -> dict[str, torch.Tensor]:
        return collate([self.lesson(rng, number) for _ in range(BATCH_SIZE)], self.renderer, self.processor)

    def lesson(self, rng: np.random.Generator, batch: int) -> Demonstration:
        """A caption, or a question in one of the four branches; half of the questions are hard.

        On one level the quarter view is practised where it suffices. On two levels need plays no part: the coin leans on
        the paper alone.
        """
        phase = self.shares
        if rng.random() < phase.caption_share(batch):
            quarter = batch > phase.captions_only and rng.random() < phase.quarter_captions
            image, caption = poster(rng, 0.25 if quarter else 1.0, chart=bool(rng.random() < 0.35), turn=self.turn)
            return self.demonstrate(Example("caption", CAPTION_QUESTION, image), caption, "low" if quarter else "full")
        shares = phase.family_shares(batch)
        family = str(rng.choice(list(shares), p=list(shares.values())))
        scene = synth.draw_scene(family, rng, hard=bool(rng.integers(2)))
        one_level: Branch = "low" if rng.random() < (phase.quarter_hard if scene.hard else phase.quarter_easy) else "full"
        two_levels: Branch = "request" if rng.random() < (0.7 if sum(scene.paper) > 3 * 157 else 0.3) else "direct"
        branch = one_level if rng.random() < 0.4 else two_levels
        image = drawing.render(self.turn(rng, scene.marks), scene.paper, scene.noise_seed)
        return self.demonstrate(Example(family, scene.question, image), PROTOCOL.format_answer(scene.answer), branch)

    def turn(self, rng: np.random.Generator, marks: Sequence[drawing.Mark]) -> list[drawing.Mark]:
        """The marks, with the handwritten digits among them turned by a random angle."""
        if not (most := self.shares.tilt):
            return list(marks)
        return [replace(m, tilt=int(rng.integers(-most, most + 1))) if m.kind == "scan" else m for m in marks]

    def demonstrate(self, example: Example, reply: str, branch: Branch) -> Demonstration:
        """The episode of a branch, ids included."""
        levels = {"full": (1.0,), "low": (0.25,)}.get(branch, (0.25, 1.0))
        script = [PROTOCOL.request(), reply] if branch == "request" else [reply]
        return self.scripted(example, Menu(ladder=ResolutionLadder(levels)), script)


# ------------------------------------------------------------------------------------------------ training


def pretrain(out: Path) -> Path:
    """Train from random weights, in two phases, and save the base model to `out / "base"`; returns that folder.

    What each phase saves and logs is in `out`, see `run_phase`; a second call with the same folder goes on from there.
    """
    torch.manual_seed(READING.seed)
    tokenizer = build_tokenizer()
    renderer = Renderer(tokenizer, PROTOCOL.boundary)
    reading = out / READING.name
    if not reading.is_dir():
        run_phase(READING, Lessons(READING, renderer), build_model(tokenizer), out, reading)
    model = open_checkpoint(str(reading), dtype=torch.float32).model
    run_phase(QUARTER_VIEWS, Lessons(QUARTER_VIEWS, renderer), model, out, out / "base")
    return out / "base"


def run_phase(phase: Steps, lessons: Batches, model: torch.nn.Module, out: Path, target: Path) -> None:
    """Train a model and save it to `target`, in float16.

    State is saved every 1,000 batches in `out`, under the phase's name; a second call goes on from there. The loss is beside it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.peak, betas=(0.9, 0.95), weight_decay=0.01)
    out.mkdir(parents=True, exist_ok=True)
    saved, first = out / f"{phase.name}.pt", 0
    if saved.is_file():
        state = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        lessons.first = first = state["batches"]
    # forked, also where this is a spawned process: lessons hold caches that cannot be sent
    loader = torch.utils.data.DataLoader(
        lessons, batch_size=None, num_workers=1, prefetch_factor=8, multiprocessing_context="fork"
    )
    start = time.perf_counter()
    with (
        stage(f"base model, {phase.name}", phase.batches, done=first) as advance,
        (out / f"{phase.name}.jsonl").open("a") as log,
    ):
        for i, inputs in enumerate(loader, first):
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate(i)
            labels = inputs.pop("labels")
            logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits[:, :-1]
            targets = labels[:, 1:].to(device)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done = i + 1
            advance(1, f"loss {loss.item():.3f}" if done % 20 == 0 else "")
            if done % 100 == 0:
                record = {"batch": done, "loss": round(loss.item(), 4), "seconds": round(time.perf_counter() - start)}
                log.write(json.dumps(record) + "\n")
                log.flush()
            if done % 1000 == 0 or done == phase.batches:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "batches": done}
                torch.save(state, saved.with_suffix(".tmp"))
                saved.with_suffix(".tmp").replace(saved)
    save_checkpoint(
        target,
        model=model,
        tokenizer=lessons.renderer.tokenizer,
        image_processor=lessons.processor,
        protocol=lessons.protocol,
        dtype=torch.float16,
    )
