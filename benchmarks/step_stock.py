"""Stock TRL for the benchmarks of a training step: `GRPOTrainer` with `environment_factory`, and nothing of ours in the model.

It reads the same ids as ours: the chat template and the messages are made so that both agree, which the benchmark checks. Low
views are made before the clock runs, and the reward is a comparison of two strings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_template

from visionthink import Example
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.processor import ImageTextProcessor
from visionthink.policies.render import Renderer
from visionthink.protocol.replies import extract_answer
from visionthink.train.config import TrainConfig

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ ('user' if m.role == 'tool' else m.role) + '\n' }}"
    "{%- if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}" + IMAGE + "{% elif 'text' in c %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{%- for call in (m.tool_calls or []) %}{% set f = call.function or call %}<tool_call>\n"
    "{{ {'name': f.name, 'arguments': f.arguments} | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Completions:
    """Lengths in tokens, in ascending order, and the share that asked."""

    lengths: list[int]
    asked: float


def stock_trainer(
    config: TrainConfig, examples: Sequence[Example], checkpoint: Checkpoint, found: list[Completions]
) -> GRPOTrainer:
    """Of the same run.

    Args:
        checkpoint: whose tokenizer and image processor are taken; its model is loaded anew, by transformers.
        found: gets what was said in each step.
    """
    by_id = {example.id: example for example in examples}
    low = {key: halved(example.images[0]) for key, example in by_id.items()}

    class Environment:
        def reset(self, example: str, **_: Any) -> list[dict[str, Any]]:
            self.image = by_id[example].images[0]
            return [{"type": "image", "image": low[example]}, {"type": "text", "text": f"{by_id[example].question} Closer?"}]

        def resize_image(self, action: str) -> list[dict[str, Any]]:
            """Return the image at its original resolution.

            Args:
                action: "resize".
            """
            return [{"type": "image", "image": self.image}]

    def accuracy(completions: Any, completion_ids: Any, example: Sequence[str], **_: Any) -> list[float]:
        asked = [any(message["role"] == "tool" for message in messages) for messages in completions]
        found.append(Completions(lengths=sorted(map(len, completion_ids)), asked=sum(asked) / len(asked)))
        said = [str(messages[-1].get("content") or "") for messages in completions]
        return [float(extract_answer(text) == by_id[key].answer) for text, key in zip(said, example, strict=True)]

    renderer = Renderer(checkpoint.tokenizer)
    ours = config.to_trl(processes=1, on_cpu=True, bridge_tokens=1 << 15, longest=1 << 15, never_sampled=renderer.never_sampled)
    names = (
        "max_steps per_device_train_batch_size steps_per_generation gradient_accumulation_steps num_generations "
        "max_completion_length generation_kwargs loss_type importance_sampling_level scale_rewards use_bias_correction_kl "
        "epsilon beta temperature learning_rate lr_scheduler_type warmup_steps max_grad_norm weight_decay seed report_to "
        "disable_tqdm shuffle_dataset bf16 use_cpu gradient_checkpointing dataloader_pin_memory"
    )
    arguments = GRPOConfig(
        output_dir=str(config.out),
        max_tool_calling_iterations=1,
        save_strategy="no",
        logging_strategy="no",
        **{name: getattr(ours, name) for name in names.split()},
    )
    checkpoint.tokenizer.response_template = qwen3_template
    processor = ImageTextProcessor(
        image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer, chat_template=TEMPLATE
    )
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(checkpoint.path, dtype=torch.float32),
        reward_funcs=[accuracy],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "example": key} for key in by_id]),
        processing_class=processor,
        environment_factory=Environment,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def halved(image: Any) -> Any:
    """A quarter of the pixels."""
    return image.resize((image.width // 2, image.height // 2))
