"""`transformers serve` where there is no torchvision: its processor for Qwen2.5-VL wants the video half, which needs it."""

from __future__ import annotations

import sys

import transformers
from transformers.cli.transformers import main

from visionthink.policies.processor import ImageTextProcessor


def open_processor(folder: str, **_: object) -> ImageTextProcessor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


transformers.AutoProcessor.from_pretrained = open_processor
sys.argv = ["transformers", "serve", *sys.argv[1:]]
main()
