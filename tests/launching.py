"""Programs on several processes of this machine, connected by gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from environments import ROOT


def zero(stage: int) -> dict[str, str]:
    """What `accelerate launch` puts into the environment for DeepSpeed on a CPU."""
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
        "DS_ACCELERATOR": "cpu",
    }


def fsdp(saved: str) -> dict[str, str]:
    """The same for FSDP 2."""
    return {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": saved,
    }


def torchrun(processes: int) -> list[str]:
    """Arguments of Python that start a program on so many processes."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def on_processes(
    processes: int,
    *program: str | Path,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Runs a script, or `-m` and a module, with its arguments."""
    command = [str(python), *torchrun(processes), *map(str, program)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(command, env=variables | (environment or {}), capture_output=True, text=True, timeout=timeout)
