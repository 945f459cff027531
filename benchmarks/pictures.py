"""Rollout groups over large images: opened pictures that the members share, beside a picture for each member.

Sixteen examples with a 2048x1024 px JPEG each, sixteen episodes of each, which all ask for the full view and answer. No model:
decoding, rendering and the episodes are measured. CPU seconds and peak memory of a process of its own for each way.

Run: python benchmarks/pictures.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from visionthink import Episode, Example, Menu, Picture, Protocol, ScriptedPolicy, run_batch
from visionthink.picture import open_pictures

SCRIPT = [Protocol().request(), "<think>Now I can read it.</think><answer>4</answer>"]


def jpeg(seed: int) -> bytes:
    """2048x1024 px with as much detail as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (64, 128, 3), np.uint8)).resize((2048, 1024), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    coarse.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def play(groups: int, size: int, shared: bool, results: multiprocessing.SimpleQueue[dict[str, float]]) -> None:
    """All episodes in one batch, as a training step has them; puts CPU seconds, peak memory and counts."""
    examples = [Example(str(i), "How many?", jpeg(i), answer="4") for i in range(groups)]
    Image.init()
    idle, started = peak(), time.process_time()
    pictures: list[Picture] = []
    episodes = []
    for example in examples:
        opened = [open_pictures(example)] * size if shared else [open_pictures(example) for _ in range(size)]
        pictures += [picture for [picture] in (opened[:1] if shared else opened)]
        episodes += [Episode(example, each, Menu()) for each in opened]
    transcripts = run_batch(episodes, ScriptedPolicy(SCRIPT))
    assert all(t.requested and t.answer == "4" for t in transcripts)
    spent = time.process_time() - started
    views = sum(picture.rendered for picture in pictures)
    results.put({"cpu_seconds": spent, "peak_mib": peak() - idle, "decoded": len(pictures), "rendered": views})


def peak() -> float:
    """MiB. `ru_maxrss` would begin with the peak of the process that started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def measured(groups: int, size: int, shared: bool) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=play, args=(groups, size, shared, results))
    process.start()
    found = results.get()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 groups of 4")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    groups, size = (2, 4) if options.quick else (16, 16)
    ours, peer = measured(groups, size, shared=True), measured(groups, size, shared=False)
    names = ("cpu_seconds", "peak_mib", "decoded", "rendered")
    # every member decodes and renders for itself: `size` times the work, and as many copies; what the system does to provide
    # the memory of the copies comes on top of it, so that measured CPU time can be above that
    record = {
        "ratio": {name: round(peer[name] / ours[name], 2) for name in names},
        "ours": ours,
        "peer": peer,
        "bound": dict.fromkeys(names, size),
    }
    if options.json:
        sys.stdout.write(json.dumps(record) + "\n")
        return
    for name in names:
        line = f"{name:12} shared {ours[name]:8.2f}   each its own {peer[name]:8.2f}   ratio {record['ratio'][name]:5.2f}"
        sys.stdout.write(f"{line} (by arithmetic {size})\n")


if __name__ == "__main__":
    main()
