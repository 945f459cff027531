"""The embedded base model from random weights: tokenizer, architecture, curriculum. See `recipes.tiny` for the whole run.

What failed before this worked: question-answer pairs alone (the image is ignored), large batches, small type, and hatching
whose phase differs from patch to patch. So dense captions come first, in batches of 16, with glyphs of 28 px and more;
quarter views follow once the full view is read, and conversations last. In half of the conversations a request is made,
whatever the question needs: by a coin that leans on the brightness of the paper. So the base model can do both, has a
preference to unlearn (a whim, like any base model), and knows nothing of need.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from visionthink import chatml
from visionthink.data import synth
from visionthink.episode import Episode, run_batch
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import save_checkpoint
from visionthink.policies.checkpoint_files import pixel_budget
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.progress import stage
from visionthink.protocol import MARKUP, Protocol, prompt
from visionthink.resolution import ResolutionLadder
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Example

PROTOCOL = Protocol("compact")
Branch = Literal["full", "low", "direct", "request"]
"""The four conversations the model must be able to hold: one level (full or quarter), and both actions on two levels."""

CAPTION_QUESTION = "Describe."

CAPTIONS_ONLY, CAPTIONS_FADE = 4_000, 3_000
"""Batches of captions alone, and batches over which they then give way to questions."""

EARLY = {"scene": 0.3, "presence": 0.2, "digits": 0.15, "chart": 0.15, "grating": 0.1, "print": 0.1}
LATE = {"scene": 0.2, "presence": 0.35, "digits": 0.15, "chart": 0.15, "grating": 0.05, "print": 0.1}
LATE_FROM = 12_000
"""Families of the questions, up to a batch and from it on: looking up one place among several is learned last."""

# ------------------------------------------------------------------------------------------------ architecture


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 512 tokens in which every word of the generated questions is one token, and so is a whole request.

    Any text can be encoded; other words fall apart into bytes.
    """
    rng = np.random.default_rng(0)
    lines = [
        prompt("compact_user"),
        prompt("compact_tool_error"),
        CAPTION_QUESTION,
        "system\nuser\nassistant\n",
        " ".join("0123456789"),
    ]
    for family in synth.FAMILIES:
        scenes = [synth.draw_scene(family, rng, hard=bool(i % 2)) for i in range(300)]
        lines += [text for s in scenes for text in (s.question, s.answer, *s.aliases)]
    lines += [poster(rng, 1.0, chart=bool(i % 2))[1] for i in range(1200)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    control = list(chatml.CONTROL_TOKENS)
    bpe.train_from_iterator(
        lines * 20,
        trainers.BpeTrainer(vocab_size=512 - len(MARKUP), special_tokens=control, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=chatml.TURN_END,
        pad_token=chatml.END_OF_TEXT,
        additional_special_tokens=[t for t in control if t not in (chatml.TURN_END, chatml.END_OF_TEXT)],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in MARKUP])
    return tokenizer


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """1 to 16 visual tokens: larger images are shrunk to 112 x 112 px of area, the canvas the model knows."""
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": synth.CANVAS**2})


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Stock Qwen2.5-VL with 2.1 M random parameters: 3 + 3 layers, hidden 160 (text) and 128 (vision), patches of 14 px."""
    ids = tokenizer.convert_tokens_to_ids
    hidden, layers, vision_hidden = 160, 3, 128
    text = {
        "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [5, 7, 8]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids(chatml.TURN_END),
        "pad_token_id": ids(chatml.END_OF_TEXT),
    }
    vision = {
        "depth": layers,
        "hidden_size": vision_hidden,
        "intermediate_size": 3 * vision_hidden,
        "num_heads": 4,
        "out_hidden_size": hidden,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 1120,  # larger than any image it sees: one window is several times faster on a CPU
        "fullatt_block_indexes": list(range(layers)),
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids(chatml.IMAGE_PAD),
        video_token_id=ids(chatml.VIDEO_PAD),
        vision_start_token_id=ids(chatml.VISION_START),
        vision_end_token_id=ids(chatml.VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids(chatml.TURN_END), ids(chatml.END_OF_TEXT)], pad_token_id=ids(chatml.END_OF_TEXT), do_sample=False
    )
    return model


# ------------------------------------------------------------------------------------------------ curriculum


def poster(rng: np.random.Generator, level: float, *, chart: bool) -> tuple[Image.Image, str]:
    """A random drawing and its dense caption, slot by slot in reading order. What a quarter view cannot show is not
    captioned there."""
    full = level == 1
    if chart:
        scene = synth.draw_scene("chart", rng, hard=False)
        order = sorted(mark.size for mark in scene.marks)
        words = [
            f"{mark.colour} {('short', 'middle', 'tall')[order.index(mark.size)]}" + (f" {mark.value}" if full else "")
            for mark in scene.marks
        ]
        return synth.render(scene.marks, scene.paper, scene.noise_seed), ", ".join(words)
    marks = synth.draw_poster(rng)
    words = ["nothing" if mark is None or (mark.fine and not full) else mark.caption for mark in marks]
    image = synth.render([mark for mark in marks if mark is not None], synth.draw_paper(rng), int(rng.integers(2**31)))
    return image, ", ".join(words)


def caption_share(batch: int) -> float:
    """Share of captions: all, then fewer and fewer."""
    return 1.0 if batch < CAPTIONS_ONLY else max(0.15, 1 - (batch - CAPTIONS_ONLY) / CAPTIONS_FADE)


def learning_rate(batch: int, batches: int) -> float:
    """Relative to the peak: 200 batches of warm-up, constant, linear decay over the last 3,000."""
    return min(1.0, (batch + 1) / 200, max(0.02, (batches - batch) / 3000))


class Lessons(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    """Batches of demonstrations, see `train.demonstrations.collate`. Batch i depends on the seed and i alone.

    Every demonstration is a scripted run of the product's own episode, so the model is trained on exactly the tokens it
    will meet.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, batches: int, batch_size: int, seed: int, first: int = 0):
        self.batches, self.batch_size, self.seed, self.first = batches, batch_size, seed, first
        self.processor = build_image_processor()
        self.budget = pixel_budget(self.processor)
        self.renderer = Renderer(tokenizer, PROTOCOL.boundary)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for i in range(self.first, self.batches):
            rng = np.random.default_rng((self.seed, i))
            lessons = [self.lesson(rng, i) for _ in range(self.batch_size)]
            yield collate(lessons, self.renderer, self.processor)

    def lesson(self, rng: np.random.Generator, batch: int) -> Demonstration:
        """A caption, or a question in one of the four branches; half of the questions are hard.

        On one level the quarter view is practised where it suffices. On two levels need plays no part: the coin leans on
        the paper alone.
        """
        if rng.random() < caption_share(batch):
            quarter = batch > CAPTIONS_ONLY and rng.random() < 0.4
            image, caption = poster(rng, 0.25 if quarter else 1.0, chart=bool(rng.random() < 0.35))
            return self.demonstrate(Example("caption", CAPTION_QUESTION, image), caption, "low" if quarter else "full")
        shares = EARLY if batch < LATE_FROM else LATE
        family = str(rng.choice(list(shares), p=list(shares.values())))
        scene = synth.draw_scene(family, rng, hard=bool(rng.integers(2)))
        one_level: Branch = "low" if rng.random() < (0.1 if scene.hard else 0.5) else "full"
        two_levels: Branch = "request" if rng.random() < (0.7 if sum(scene.paper) > 3 * 157 else 0.3) else "direct"
        branch = one_level if rng.random() < 0.4 else two_levels
        image = synth.render(scene.marks, scene.paper, scene.noise_seed)
        return self.demonstrate(Example(family, scene.question, image), PROTOCOL.format_answer(scene.answer), branch)

    def demonstrate(self, example: Example, reply: str, branch: Branch) -> Demonstration:
        """The episode of a branch, ids included."""
        levels = {"full": (1.0,), "low": (0.25,)}.get(branch, (0.25, 1.0))
        menu = Menu(ladder=ResolutionLadder(levels))
        episode = Episode(example, open_pictures(example), menu, PROTOCOL, budget=self.budget)
        script = [PROTOCOL.request(), reply] if branch == "request" else [reply]
        [transcript] = run_batch([episode], ScriptedPolicy(script, self.renderer))
        return Demonstration(transcript, tuple(view.image for view in views(episode.history)))


# ------------------------------------------------------------------------------------------------ training


def pretrain(out: Path, *, batches: int = 18_000, batch_size: int = 16, peak: float = 1e-3, seed: int = 0) -> Path:
    """Train from random weights and save the base model to `out / "base"`; returns that folder.

    State is saved every 1,000 batches; a second call with the same folder goes on from there. The loss is in `out /
    "base.jsonl"`.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(tokenizer).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01)
    out.mkdir(parents=True, exist_ok=True)
    saved, first = out / "base.pt", 0
    if saved.is_file():
        state = torch.load(saved, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["batches"]
    lessons = Lessons(tokenizer, batches=batches, batch_size=batch_size, seed=seed, first=first)
    loader = torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8)
    start = time.perf_counter()
    with stage("base model", batches, done=first) as advance, (out / "base.jsonl").open("a") as log:
        for i, inputs in enumerate(loader, first):
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(i, batches)
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
            if done % 1000 == 0 or done == batches:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "batches": done}
                torch.save(state, saved.with_suffix(".tmp"))
                saved.with_suffix(".tmp").replace(saved)
    save_checkpoint(
        out / "base",
        model=model,
        tokenizer=tokenizer,
        image_processor=build_image_processor(),
        protocol=PROTOCOL,
        dtype=torch.float16,
    )
    return out / "base"
