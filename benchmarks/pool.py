"""Throughput of two workers beside that of one, of the local pool and of Ray's, in one run.

Run: python benchmarks/pool.py [--quick] [--json]; `ratio` holds rows per second with two workers over those with one. `waiting`
rows wait 50 ms, as for an endpoint: their ratio is that of the scheduling. `curation` rows are answered by tiny-base: their ratio
is that of the cores, two of which must be free. Rows count from the moment at which every worker has finished one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of each worker

from visionthink.pools.pool import Pool
from visionthink.pools.work import Finished, Work
from visionthink.recipes.curate import CurateConfig, rows_of


@dataclass(frozen=True)
class Waiting:
    """Waits and gives back what it was given."""

    seconds: float = 0.05

    def __call__(self):
        return self._wait

    def _wait(self, row: int) -> Finished:
        time.sleep(self.seconds)
        return Finished(record={"row": row}, worker=str(os.getpid()))


def rows_per_second(pool: Pool, work: Work, rows: int) -> float:
    """From the moment at which every worker has finished a row to the last one."""
    workers, times = set[str](), list[float]()
    for finished in pool.results(work, range(rows)):
        workers.add(finished.worker)
        if len(workers) == pool.workers:
            times.append(time.perf_counter())
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    share = 4 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        config = CurateConfig(data="mini", model="tiny-base", judge="exact", max_new_tokens=8, out=Path(folder))
        kinds: dict[str, tuple[Work, int]] = {"waiting": (Waiting(), 400 // share), "curation": (rows_of(config), 240 // share)}
        pools = ("local", "ray") if importlib.util.find_spec("ray") else ("local",)
        ours: dict[str, float] = {}
        for name in pools:
            for kind, (work, rows) in kinds.items():
                for workers in (1, 2):
                    pool = Pool(ray=name == "ray", workers=workers)
                    ours[f"{name} {kind} {workers}"] = round(rows_per_second(pool, work, rows), 2)
    ratio = {f"{n} {k}": round(ours[f"{n} {k} 2"] / ours[f"{n} {k} 1"], 2) for n in pools for k in kinds}
    load = round(os.getloadavg()[0], 1)
    found = {"ratio": ratio, "ours": ours, "peer": {}, "bound": dict.fromkeys(ratio, 2.0), "load": load}
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in ratio.items():
        one, two = ours[f"{name} 1"], ours[f"{name} 2"]
        sys.stdout.write(f"{name}: {one:g} rows/s with one worker, {two:g} with two: {value:.2f} (at most 2)\n")
    sys.stdout.write(f"load of the machine at the end: {load}, on {os.cpu_count()} cores\n")


if __name__ == "__main__":
    main()
