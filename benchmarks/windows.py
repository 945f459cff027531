"""The vision tower under sdpa: attention to all windows of one length in one call, beside a call for each window.

Windowed layers of Qwen2.5-VL-7B's tower in float32, with random weights, over an image of 2048x1024 px, whose 10,804 patches make
190 windows. Pairs of forward passes, first the one way and then the other, then in the other order; CPU seconds of this process,
medians; the ratio is that of the pairs. Widths are small, so that the cost of the calls shows: with the model's own, products are
nearly everything on a CPU. `even` is an image of 2016x1008 px, where all windows are equal and no token changes its place.

The bound of the ratio: without any cost of calls what is left is at least the products of the matrices, at the rate of a large
product measured here.

Run: OMP_NUM_THREADS=1 python benchmarks/windows.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel, Qwen2_5_VLVisionConfig

from visionthink.engine.windows import GROUPED, group_windows

WIDTHS = {"hidden_size": 256, "num_heads": 16, "intermediate_size": 256, "out_hidden_size": 256}


GRIDS = {"uneven": [1, 74, 146], "even": [1, 72, 144]}
"""Patches of the images."""


class Calls(TorchFunctionMode):
    """Counts calls of attention."""

    count = 0

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.nn.functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def compared(grid: list[int], windowed: int, pairs: int) -> dict[str, Any]:
    """Towers of `windowed` layers that attend within windows, and nothing else: those that see the whole image do not change."""
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(depth=windowed, fullatt_block_indexes=[], **WIDTHS)
    tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa").eval()
    group_windows(SimpleNamespace(model=SimpleNamespace(visual=tower)))
    patches = grid[1] * grid[2]
    pixels, grids = torch.randn(patches, 3 * 2 * config.patch_size**2), torch.tensor([grid])

    def forward(implementation: str) -> tuple[float, torch.Tensor, int]:
        tower.config._attn_implementation = implementation
        with torch.inference_mode(), Calls() as calls:
            started = time.process_time()
            features = tower(pixels, grids).pooler_output
            return time.process_time() - started, features, calls.count

    (_, ours, together), (_, stock, each) = forward(GROUPED), forward("sdpa")
    seconds: dict[str, list[float]] = {GROUPED: [], "sdpa": []}
    for pair in range(pairs):
        for implementation in (GROUPED, "sdpa") if pair % 2 else ("sdpa", GROUPED):
            seconds[implementation].append(forward(implementation)[0])
    ratios = [theirs / mine for theirs, mine in zip(seconds["sdpa"], seconds[GROUPED], strict=True)]
    least = operations(config, grid) / rate()
    return {
        "ratio": {"cpu_seconds": round(statistics.median(ratios), 3), "calls": round(each / together, 1)},
        "ours": {"cpu_seconds": round(statistics.median(seconds[GROUPED]), 3), "calls": together},
        "peer": {"cpu_seconds": round(statistics.median(seconds["sdpa"]), 3), "calls": each},
        "bound": {"cpu_seconds": round(statistics.median(seconds["sdpa"]) / least, 2), "products": round(least, 3)},
        "pairs": [round(min(ratios), 3), round(max(ratios), 3)],
        "equal_bits": torch.equal(ours, stock),
    }


def operations(config: Any, grid: list[int]) -> float:
    """Floating-point operations of all products, see `visionthink.evals.flops`."""
    patches, hidden = grid[1] * grid[2], config.hidden_size
    side = config.window_size // config.patch_size
    windows = [min(side, grid[1] - y) * min(side, grid[2] - x) for y in range(0, grid[1], side) for x in range(0, grid[2], side)]
    layer = 2 * patches * hidden * (4 * hidden + 3 * config.intermediate_size) + 4 * hidden * sum(w * w for w in windows)
    merger = 2 * patches // 4 * ((4 * hidden) ** 2 + 4 * hidden * config.out_hidden_size)
    return 2 * patches * 3 * 2 * config.patch_size**2 * hidden + config.depth * layer + merger


def rate() -> float:
    """Floating-point operations a second in a product of large matrices, the best of five."""
    a, b, best = torch.randn(1024, 1024), torch.randn(1024, 1024), 0.0
    for _ in range(5):
        started = time.process_time()
        for _ in range(8):
            a @ b
        best = max(best, 8 * 2 * 1024**3 / (time.process_time() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first image alone, two layers and three pairs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    layers, pairs = (2, 3) if options.quick else (4, 5)
    found = {name: compared(grid, layers, pairs) for name, grid in GRIDS.items() if name == "uneven" or not options.quick}
    if options.json:
        kinds = ("ratio", "ours", "peer", "bound", "pairs", "equal_bits")
        sys.stdout.write(json.dumps({kind: {name: record[kind] for name, record in found.items()} for kind in kinds}) + "\n")
        return
    for name, record in found.items():
        ours, peer = record["ours"], record["peer"]
        line = f"{name:7} grouped {ours['cpu_seconds']:7.3f} s in {ours['calls']} calls   "
        line += f"one by one {peer['cpu_seconds']:7.3f} s in {peer['calls']}   "
        line += f"ratio {record['ratio']['cpu_seconds']:.3f} (pairs {record['pairs']}, at most "
        sys.stdout.write(f"{line}{record['bound']['cpu_seconds']})   equal bits: {record['equal_bits']}\n")


if __name__ == "__main__":
    main()
