"""A training step with every image and every shared prefix computed once, beside the plain path and stock TRL.

Three ways of the same step: `ours` (`share on`), `plain` (`share off`), and `stock`, TRL's GRPOTrainer with an
`environment_factory` on the model as transformers loads it. They are run in turn in one process, in another order each time; CPU
seconds of a whole step (generation, reference, update, optimizer, rewards), the first step of each run left out. A ratio is that
of the runs of one turn. The bound beside it is arithmetic (`step_bound.py`). Peak memory is that of a process of its own.

`wide` has 2 + 2 layers of width 512 and random weights, `tiny` is the recipe of that name. `wide 600, G 8, half ask` reads
prompts of 600 tokens, of which half are visual, and 4 of 8 members ask for the full view of 4 times as many. Lengths and requests
follow a script; tiny speaks for itself. `--rows 7b` has the widths of Qwen2.5-VL-7B, 1 + 2 layers, which takes minutes a run.

Run: OMP_NUM_THREADS=1 python benchmarks/grpo_step.py [--quick] [--json] [--rows TEXT] [--repeats N] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

from step_table import command, spread
from step_ways import WAYS, Run, model_of, operations, timed
from step_work import Work

ROWS = (
    Work(model="tiny", prompts=14),
    Work(),
    Work(share=0.5),
    Work(share=0.5, same_words=False),
    Work(prompt=600, low=300),
    Work(prompt=600, low=300, group=16),
    Work(share=0.5, group=16),
    Work(share=0.5, group=16, same_words=False),
    Work(share=1.0),
    Work(share=1.0, same_words=False),
    Work(answer=(10, 60)),
    Work(prompt=600, low=300, group=4),
    Work(share=0.5, group=4),
    Work(share=0.5, group=4, same_words=False),
    Work(prompt=600, low=300, share=0.5),
    Work(prompt=600, low=300, share=0.5, same_words=False),
    Work(prompt=600, low=300, group=32),
    Work(prompt=600, low=300, share=0.5, group=16),
    Work(prompt=2800, low=2500),
)
WITH_7B = (Work(model="7b"), Work(model="7b", share=0.5))
QUICK = Work(prompt=60, low=12, group=4, share=0.5)
REMEMBERED = [work for work in ROWS if work.prompt >= 600 and not work.share]
"""Rows of which peak memory is measured."""
STEPS = {"tiny": 4}
"""Steps of a run; 1 where none are named."""


def measured(work: Work, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    steps = STEPS.get(work.model, 1)
    with model_of(work) as model:
        for repeat in range(repeats):
            for way in WAYS if repeat % 2 == 0 else WAYS[::-1]:
                runs[way].append(timed(work, way, model, steps))
        peaks = {way: peak(work, way, model) for way in WAYS} if work in REMEMBERED else {}
    if work.model != "tiny":
        read = {way: [run.lengths for run in of_way] for way, of_way in runs.items()}
        assert read["ours"] == read["plain"] == read["stock"], f"the ways did not do the same work: {read}"
    plain, shared = operations(runs["ours"])
    of_peers = {way: [_mean(theirs) / _mean(ours) for theirs, ours in zip(runs[way], runs["ours"], strict=True)] for way in WAYS}
    row = {
        "name": work.name,
        "work": dataclasses.asdict(work) | {"answer": list(work.answer)},
        "n": repeats * steps,
        "cpu_seconds": {way: spread([x for run in of_way for x in run.cpu]) for way, of_way in runs.items()},
        "wall_seconds": {way: spread([x for run in of_way for x in run.wall]) for way, of_way in runs.items()},
        "ratio": {way: spread(of_peers[way]) for way in WAYS[1:]},
        "bound": round(sum(plain.values()) / sum(shared.values()), 2),
        "bound_of_phases": {phase: round(plain[phase] / shared[phase], 2) for phase in plain},
        "asked": {way: spread([x for run in of_way for x in run.asked], 3) for way, of_way in runs.items()},
    }
    if peaks:
        row["peak_mib"] = {way: round(found["peak"]) for way, found in peaks.items()}
        # what no sharing changes: libraries, both models, gradients and the state of the optimizer
        row["peak_bound"] = round(peaks["ours"]["fixed"] / peaks["stock"]["peak"], 2)
    return row


def _mean(run: Run) -> float:
    return sum(run.cpu) / len(run.cpu)


def peak(work: Work, way: str, model: str) -> dict[str, float]:
    """MiB of a process that takes two steps: the most, and what is there without activations."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_remember, args=(work, way, model, results))
    process.start()
    process.join()
    return results.get()


def _remember(work: Work, way: str, model: str, results: Any) -> None:
    timed(dataclasses.replace(work, prompt=60, low=12), way, model, 0)
    fixed = _memory("VmRSS")
    timed(work, way, model, 1)
    results.put({"peak": _memory("VmHWM"), "fixed": fixed})


def _memory(what: str) -> float:
    """MiB. `ru_maxrss` would begin with the peak of the process that started this one."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return int(status[what].split()[0]) / 1024


def main() -> None:
    command("grpo_step", __doc__, ways=WAYS, works=ROWS, quick=QUICK, measure=measured, named=WITH_7B)


if __name__ == "__main__":
    main()
