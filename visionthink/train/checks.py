"""What is known to go wrong in the middle of a run, looked at before it begins."""

from __future__ import annotations

import torch
from PIL import Image

from visionthink import chatml
from visionthink.action_space import ActionSpace
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.render import Renderer
from visionthink.train.config import TrainConfig
from visionthink.train.processes import Distribution
from visionthink.train.rollouts import EpisodeSource
from visionthink.types import CallError, ImageView


def bridge_tokens(source: EpisodeSource, renderer: Renderer, largest: ActionSpace) -> int:
    """The most ids that may stand between two turns: the views of the largest request in their message, or an error message."""
    if not source.menu.asks:
        return 0
    blank = Image.new("RGB", (1, 1))
    views = [
        ImageView(image=blank, box=v.box, level=v.level, width=v.width, height=v.height, visual_tokens=v.visual_tokens)
        for v in largest.largest_request
    ]
    replies = [source.protocol.observation(views), *(source.protocol.tool_error(reason) for reason in CallError)]
    return max(len(renderer.encode(chatml.bridge([reply], source.protocol.boundary))) for reply in replies)


def longest_episode(
    config: TrainConfig, source: EpisodeSource, checkpoint: Checkpoint, renderer: Renderer, largest: str, bridge: int
) -> int:
    """Tokens that an episode may take, within the model's context. One that outgrows it after several requests ends there, as a
    failure of the policy.

    Raises:
        OptionError: the levels of the ladder, or one request for a region, may take more than the context.
    """
    [episode] = source.episodes(largest, 1)
    opening = len(renderer.prompt_ids(episode.history))

    def tokens(turns: int) -> int:
        return opening + turns * config.max_new_tokens + (turns - 1) * bridge

    least = min(source.menu.most_turns, max(len(source.menu.ladder.levels), 2))
    context = checkpoint.model.config.get_text_config().max_position_embeddings
    if (needed := tokens(least)) > context:
        raise OptionError(
            f"max_new_tokens {config.max_new_tokens}: an episode of example {largest} may take {needed} tokens, and the model "
            f"reads {context}; lower max_new_tokens or set max_image_tokens"
        )
    return min(tokens(source.menu.most_turns), context)


def refuse_distribution(spread: Distribution) -> None:
    """What a run would only find out at its end, or when its models are loaded.

    Raises:
        OptionError: several GPUs are visible to a single process, or the weights could not be gathered to be saved, or would not
            be read by each process.
    """
    if torch.cuda.device_count() > 1 and spread.processes == 1:
        raise OptionError("several GPUs and one process: use accelerate launch, or choose a GPU with CUDA_VISIBLE_DEVICES=0")
    if spread.zero_stage == 3 and not spread.gathered:
        raise OptionError(
            "DeepSpeed at stage 3 would not gather the weights that are saved: set zero3_save_16bit_model: true in accelerate's "
            "file, or stage3_gather_16bit_weights_on_model_save: true in DeepSpeed's"
        )
    if spread.fsdp == 1:
        raise OptionError("FSDP in its first version: set fsdp_version: 2 in accelerate's file")
    if spread.loads_once:
        raise OptionError("fsdp_cpu_ram_efficient_loading: every process reads the weights; set it to false in accelerate's file")
