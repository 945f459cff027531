"""The embedded model before any training: tokenizer, image processor and architecture, and the posters whose captions it is
taught first, since their words are in the tokenizer. See `recipes.tiny_base` for the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
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
from visionthink.data import drawing, synth
from visionthink.protocol import MARKUP, prompt

CAPTION_QUESTION = "Describe."


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
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": drawing.CANVAS**2})


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


def poster(
    rng: np.random.Generator,
    level: float,
    *,
    chart: bool,
    turn: Callable[[np.random.Generator, Sequence[drawing.Mark]], Sequence[drawing.Mark]] = lambda rng, marks: marks,
) -> tuple[Image.Image, str]:
    """A random drawing and its dense caption, slot by slot in reading order. What a quarter view cannot show is not
    captioned there. `turn` may vary the marks before they are drawn."""
    full = level == 1
    if chart:
        scene = synth.draw_scene("chart", rng, hard=False)
        order = sorted(mark.size for mark in scene.marks)
        words = [
            f"{mark.colour} {('short', 'middle', 'tall')[order.index(mark.size)]}" + (f" {mark.value}" if full else "")
            for mark in scene.marks
        ]
        return drawing.render(scene.marks, scene.paper, scene.noise_seed), ", ".join(words)
    marks = synth.draw_poster(rng)
    words = ["nothing" if mark is None or (mark.fine and not full) else mark.caption for mark in marks]
    image = drawing.render(
        turn(rng, [mark for mark in marks if mark is not None]), drawing.draw_paper(rng), int(rng.integers(2**31))
    )
    return image, ", ".join(words)
