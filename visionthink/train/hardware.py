"""What a run is to run on: its processes, how they share the model, and how much memory there is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

Sharding = Literal["one", "ddp", "zero2", "zero3", "fsdp2"]
"""How the processes of a run share the model: there is one process, or by the shipped file of this name."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run is to run on."""

    processes: int = 1
    sharding: Sharding = "one"
    device_bytes: int
    """Memory of one GPU; of a process where there is none."""
    on_cpu: bool = False
    host_bytes: int = 0
    """Memory of the machine; 0 is unknown."""
    per_machine: int = 1
    """Processes on one machine."""
    vllm: bool = False
    """Whether vLLM is meant to generate on the same GPUs, although the settings of a rehearsal cannot say so where it is not
    installed."""
    offloads: bool = False
    """Whether weights or the optimizer's state are kept in the machine's own memory."""

    @property
    def shares(self) -> int:
        """Among how many processes weights are divided."""
        return self.processes if self.sharding in ("zero3", "fsdp2") else 1

    @property
    def state_shares(self) -> int:
        """Among how many processes gradients and the optimizer's state are divided."""
        return self.processes if self.sharding in ("zero2", "zero3", "fsdp2") else 1


def this_hardware() -> Hardware:
    """What this process and the others of its run have, as accelerate's launcher has set them up."""
    import torch

    from visionthink.policies.memory import free_bytes
    from visionthink.train.processes import distribution

    spread = distribution()
    count = spread.processes
    sharding: Sharding = "ddp" if count > 1 else "one"
    if spread.deepspeed:
        sharding = "zero3" if spread.zero_stage == 3 else "zero2"
    elif spread.sharded:
        sharding = "fsdp2"
    host, gpus = free_bytes(torch.device("cpu")), torch.cuda.device_count()
    if not gpus:
        return Hardware(
            processes=count, sharding=sharding, device_bytes=host // count, on_cpu=True, host_bytes=host, per_machine=count
        )
    return Hardware(
        processes=count,
        sharding=sharding,
        device_bytes=torch.cuda.mem_get_info()[1],
        host_bytes=host,
        per_machine=min(gpus, count),
        offloads=spread.offloads,
    )


def intended_hardware(documented: Hardware | None) -> Hardware:
    """What a rehearsed run is meant for: where there is no GPU, what the recipe names, shared as this run is launched."""
    here = this_hardware()
    if not here.on_cpu or documented is None:
        return here
    if here.processes == 1:
        return documented
    return dataclasses.replace(documented, processes=here.processes, sharding=here.sharding, per_machine=here.processes)
