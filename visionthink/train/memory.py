"""What a training run needs of memory, by arithmetic on sizes and settings, before anything is loaded.

All numbers are bytes of one process. P is the number of parameters, T of those that are trained (P, or the adapter's), N of
processes; b is 2, and 4 on a CPU. h, i and L are the decoder's width, inner width and layers, v, w and D those of the vision
tower. S is the longest episode in tokens and V its visual tokens, each with k patches of p values; m rollouts make a pass, R a
step. Nothing is known yet of the images: V is the most that the settings allow. Every rollout counts by itself: what
`train.sharing` computes once takes less, by as much as rollouts have in common, which is not known before.

    weights        one, ddp: 4P, with an adapter bP + 4T; zero2: 2P; zero3: 2P/N; fsdp2: 4P/N
    gradients      one, ddp: 4T; zero2, zero3, fsdp2: 4T/N (summed in float32, as the shipped files say)
    optimizer      one, ddp, fsdp2: 8T (AdamW), /N where weights are divided; zero2, zero3: 12T/N (with the weights in float32)
    reference      of the KL term without an adapter: one, ddp: 4P; zero2: 2P; zero3: 2P/N; fsdp2: 4P/N
    buckets        ddp of several: 4T; zero2: 6e8 values, zero3: 4e8 values, of 2 bytes, as the shipped files say
    gathered       zero3: 1e9 parameters of 2 bytes at most; fsdp2: embeddings and head, and two layers
    copies in half precision of weights in float32, while a pass lasts: 2P
    vLLM           its share of the GPU, always, or with sleep mode while it generates
    generation     without vLLM: as many rollouts at once as `policies.memory.fitting` allows, each with keys and values of S
                   tokens, the pixels of V in float32, and a layer of the tower or of the decoder, whichever is more
    pixels         4 R V k p, and as much again while TRL joins them to batches
    layer inputs   L m S h b (4 instead of b where weights are in float32), of the tower D m V k v b, with checkpointing
    a layer        m S (b (10 h + 6 i) + 8 h) + m S^2 for the mask; all L of them without checkpointing
    a tower layer  m V k (b (10 v + 6 w) + 8 v); without gradient, under an adapter, m V k b (4 v + 3 w)
    head           4 h (vocabulary) for its gradient, where it is trained, and 3 tiles of 4,096 x 32,768 values of 4 bytes
    loading        the whole weights, before they are divided

Certain is what does not depend on how long answers are and how large images: weights, gradients, optimizer, reference, buckets
and vLLM's share.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from visionthink.errors import OptionError
from visionthink.train.hardware import Hardware
from visionthink.train.sizes import Sizes, longest

if TYPE_CHECKING:
    from visionthink.train.config import TrainConfig

log = logging.getLogger(__name__)

Phase = Literal["load", "generate", "join", "update"]
_PHASES: dict[Phase, str] = {
    "load": "while models are loaded",
    "generate": "while rollouts are generated",
    "join": "while their pixels are joined to batches",
    "update": "while it learns from them",
}
_TILE = 4096 * 32768 * 4
"""Bytes of the logits that TRL's head holds at once; it never holds all of them."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that takes memory."""

    name: str
    bytes: float
    note: str = ""
    phases: tuple[Phase, ...] = ("generate", "join", "update")
    certain: bool = False
    """Whether it does not depend on the lengths of answers and the sizes of images."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a process of a run takes."""

    parts: tuple[Part, ...]
    hardware: Hardware
    host: float
    """The most that is used of the machine's memory, by all processes together; 0 if there is no GPU."""

    def total(self, phase: Phase, *, certain: bool = False) -> float:
        return sum(p.bytes for p in self.parts if phase in p.phases and (p.certain or not certain))

    @property
    def fullest(self) -> Phase:
        """When the most is taken."""
        return max(_PHASES, key=self.total)

    @property
    def most(self) -> float:
        return self.total(self.fullest)

    @property
    def certain(self) -> float:
        return max(self.total(phase, certain=True) for phase in _PHASES)

    def lines(self) -> list[str]:
        """A table for people, in GB of 10^9 bytes."""
        parts = [part for part in self.parts if part.bytes]
        rows = [f"{_gb(p.bytes):>8}  {p.name}{f' ({p.note})' if p.note else ''}" for p in parts]
        totals = [f"{_gb(self.total(phase)):>8}  in all {when}" for phase, when in _PHASES.items()]
        of = "the machine" if self.hardware.on_cpu else "each GPU"
        ends = [f"{_gb(self.hardware.device_bytes):>8}  there is on {of}"]
        if self.host:
            ends.append(f"{_gb(self.host):>8}  of the machine's own memory")
        return [f"{'GB':>8}  memory of one process", *rows, *totals, *ends]


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f}"


def estimate(config: TrainConfig, sizes: Sizes, hardware: Hardware) -> Estimate:
    """What one process of a run takes, by the formulas at the top of this module."""
    from visionthink.policies import memory

    P = sizes.parameters
    adapter = sizes.adapter(config.lora_rank) if config.lora_rank else 0
    trained, deepspeed = adapter or P, hardware.sharding in ("zero2", "zero3")
    b = 4 if hardware.on_cpu else 2
    weight = b if adapter or deepspeed else 4
    whole = 2 if not hardware.on_cpu and (adapter or hardware.sharding not in ("one", "ddp")) else 4
    state = 8 if _optimizer(config).startswith("adamw_torch") else 2 if "8bit" in _optimizer(config) else 0
    masters = 4 if deepspeed else 0
    text = sizes.config.get_text_config()
    tokens, visual = longest(config, sizes)
    rollouts = config.rollouts_per_process(hardware.processes)
    micro = config.micro_batch or rollouts // config.updates_per_step
    reference = P * weight / hardware.shares if config.kl_coef and not adapter else 0
    vllm = hardware.vllm or config.vllm == "colocate"
    share = _vllm_share(config) * hardware.device_bytes if vllm and not hardware.on_cpu else 0
    asleep = bool(config.trl.get("vllm_enable_sleep_mode"))
    always: tuple[Phase, ...] = ("generate", "join", "update")
    there = not hardware.offloads
    parts = [
        Part(name="weights", bytes=(P * weight + 4 * adapter) / hardware.shares, certain=there),
        Part(name="gradients", bytes=4 * trained / hardware.state_shares, certain=there),
        Part(name="optimizer", bytes=(state + masters) * trained / hardware.state_shares, certain=there),
        Part(name="reference model", bytes=reference, phases=("load", *always), certain=there),
        Part(name="buckets of gradients", bytes=_buckets(hardware, P, trained), certain=there),
        Part(name="gathered weights", bytes=_gathered(hardware, P, text), phases=("generate", "update")),
        Part(name="vLLM", bytes=share, phases=("generate",) if asleep else ("load", *always), certain=True),
    ]
    if weight == 4 and not hardware.on_cpu and hardware.shares == 1:
        parts.append(Part(name="weights in half precision", bytes=2 * P, phases=("generate", "update")))
    pixels = rollouts * visual * sizes.patches * sizes.patch_values * 4
    parts += [
        Part(name="pixels of a step", bytes=pixels, phases=("join", "update")),
        Part(name="the same, joined to batches", bytes=pixels, phases=("join",)),
    ]
    parts += _update(config, sizes, micro * tokens, micro * visual, micro * tokens**2, b, weight, frozen_tower=bool(adapter))
    parts.append(Part(name="loaded weights", bytes=whole * P, phases=("load",), certain=True))
    if config.vllm == "off" and not vllm:
        room = hardware.device_bytes - sum(part.bytes for part in parts if "generate" in part.phases)
        together = memory.fitting([tokens] * rollouts, memory.bytes_per_token(sizes.config, b), max(0, int(room)))
        cache, decoder, tower = memory.values_per_token(sizes.config)
        # a layer of the decoder comes after the last one of the tower
        each = tokens * cache * b + visual * sizes.patches * sizes.patch_values * 4 + max(tokens * decoder, visual * tower) * b
        note = f"{together} of {rollouts} rollouts at once"
        parts.append(Part(name="generation", note=note, bytes=together * each, phases=("generate",)))
    loaded = max(whole * P, 4 * P if reference else 0)
    host = 0 if hardware.on_cpu else hardware.per_machine * (loaded + 2 * pixels)
    return Estimate(parts=tuple(parts), hardware=hardware, host=host)


def _update(
    config: TrainConfig, sizes: Sizes, tokens: int, visual: int, mask: int, b: int, residual: int, *, frozen_tower: bool
) -> list[Part]:
    """Forward and backward pass of a micro-batch."""
    text, vision = sizes.config.get_text_config(), sizes.config.vision_config
    patches = visual * sizes.patches
    kept = config.gradient_checkpointing
    layer = tokens * (b * (10 * text.hidden_size + 6 * text.intermediate_size) + 8 * text.hidden_size)
    tower = patches * (b * (10 * vision.hidden_size + 6 * vision.intermediate_size) + 8 * vision.hidden_size)
    inputs = text.num_hidden_layers * tokens * text.hidden_size * residual
    tower_inputs = vision.depth * patches * vision.hidden_size * residual
    if frozen_tower:
        tower, tower_inputs = patches * b * (4 * vision.hidden_size + 3 * vision.intermediate_size), 0
    elif not kept:
        tower, tower_inputs = vision.depth * tower, 0
    head = 3 * min(_TILE, 4 * tokens * text.vocab_size) + (0 if frozen_tower else 4 * text.hidden_size * text.vocab_size)
    found = {
        "inputs of the layers": inputs if kept else 0,
        "a layer" if kept else "the layers": layer if kept else text.num_hidden_layers * layer,
        "attention mask": mask,
        "inputs of the vision layers": tower_inputs,
        "a vision layer" if kept or frozen_tower else "the vision layers": tower,
        "head": head,
    }
    return [Part(name=name, bytes=count, phases=("update",)) for name, count in found.items()]


def _buckets(hardware: Hardware, parameters: int, trained: int) -> float:
    if hardware.processes == 1:
        return 0
    values = {"ddp": 2 * trained, "zero2": 600_000_000, "zero3": 400_000_000}.get(hardware.sharding, 0)
    return 2 * min(values, 3 * parameters)


def _gathered(hardware: Hardware, parameters: int, text: Any) -> float:
    if hardware.shares == 1:
        return 0
    if hardware.sharding == "zero3":
        return 2 * min(parameters, 1_000_000_000)
    return 4 * text.vocab_size * text.hidden_size + 4 * parameters / text.num_hidden_layers


def _optimizer(config: TrainConfig) -> str:
    return str(config.trl.get("optim", "adamw_torch"))


def _vllm_share(config: TrainConfig) -> float:
    """The share of the GPU's memory that vLLM takes."""
    from trl import GRPOConfig

    return float(config.trl.get("vllm_gpu_memory_utilization", GRPOConfig.vllm_gpu_memory_utilization))


def check_memory(found: Estimate) -> None:
    """Refuse what cannot fit, and warn of what may not.

    Raises:
        OptionError: what the run takes for certain is more than there is.
    """
    there = found.hardware.device_bytes
    of = "of memory for each process" if found.hardware.on_cpu else "on each GPU"
    if found.certain > there:
        phase = max(_PHASES, key=lambda phase: found.total(phase, certain=True))
        certain = [p for p in found.parts if p.certain and phase in p.phases and p.bytes]
        sums = " + ".join(f"{_gb(p.bytes)} {p.name}" for p in certain)
        raise OptionError(
            f"this run cannot fit: it takes {_gb(found.certain)} GB {_PHASES[phase]} ({sums}), "
            f"and there are {_gb(there)} GB {of}; use --launch zero3, more GPUs, or --lora-rank 32"
        )
    if found.most > there:
        largest: Sequence[Part] = sorted((p for p in found.parts if found.fullest in p.phases), key=lambda p: -p.bytes)[:4]
        sums = ", ".join(f"{_gb(p.bytes)} {p.name}" for p in largest)
        log.warning(
            "may not fit: up to %s GB %s, and there are %s GB %s, if every image is as large and every answer as long as the "
            "settings allow (the most: %s)",
            _gb(found.most),
            _PHASES[found.fullest],
            _gb(there),
            of,
            sums,
        )
    if 0 < found.hardware.host_bytes < found.host:
        log.warning("may not fit: %s GB of the machine's own memory of %s", _gb(found.host), _gb(found.hardware.host_bytes))
