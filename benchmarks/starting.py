"""What a training run does before its first step, and what it holds in memory, on a table of large images.

A table of 20,000 rows with a 2048x1024 px JPEG each, once as files beside it and once as bytes in a parquet file. The files are
hard links to a few images, and the bytes are repeated: each row is opened and measured for itself all the same. `first` is the
first start on the table, `second` the next one; each is a process of its own. `steps` opens the pictures of steps of 64 examples
as training does, with those of the next step ahead; members are shown the low view, and every other group the full one as well.
Memory is what a process holds beside mapped files, which the system can take back. No model.

Run: python benchmarks/starting.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pictures import jpeg

from visionthink import Menu, Protocol
from visionthink.data.examples import read_examples
from visionthink.policies.render import views
from visionthink.resolution import QWEN2_5_VL
from visionthink.train.pictures import OpenedPictures
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.usable import usable

STEPS, GROUPS, MEMBERS = 4, 64, 16


def files(folder: Path, rows: int) -> Path:
    """JSON lines, and an image file for each."""
    for i in range(8):
        (folder / f"source-{i}.jpg").write_bytes(jpeg(i))
    for i in range(rows):
        os.link(folder / f"source-{i % 8}.jpg", folder / f"{i}.jpg")
    lines = (json.dumps({"question": f"How many are in {i}?", "answer": "4", "image": f"{i}.jpg"}) + "\n" for i in range(rows))
    (folder / "table.jsonl").write_text("".join(lines))
    return folder / "table.jsonl"


def table(folder: Path, rows: int) -> Path:
    """The same in a parquet file, small where the same bytes follow each other; `datasets` unfolds it on the disk, to 9 GB."""
    import pyarrow
    from pyarrow import parquet

    images = [jpeg(i) for i in range(8)]
    file = folder / "table.parquet"
    schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string()), ("image", pyarrow.binary())])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for begin in range(0, rows, 250):
            part = range(begin, min(rows, begin + 250))
            columns = [[f"How many are in {i}?" for i in part], ["4"] * len(part), [images[i * 8 // rows] for i in part]]
            writer.write_table(pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema))
    return file


def source(table: Path) -> EpisodeSource:
    return EpisodeSource(examples=read_examples(str(table)), menu=Menu(), protocol=Protocol(), budget=QWEN2_5_VL)


def start(table: Path) -> dict[str, float]:
    """Opening the table and what is done before training."""
    opened = time.perf_counter()
    found = source(table)
    started, spent = time.perf_counter(), time.process_time()
    tokens, _ = usable(found)
    assert set(tokens.values()) == {2701}, "a full view of 2048x1024 px has 2,701 tokens"
    return {
        "opening_seconds": started - opened,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - spent,
        "rows": len(tokens),
    }


def step(table: Path) -> dict[str, float]:
    """Steps without a model."""
    found = source(table)
    pictures, kept, waited = OpenedPictures(found.opened), list[Any](), 0.0
    for number in range(STEPS):
        ids = [str(number * GROUPS + i) for i in range(GROUPS)]
        started = time.perf_counter()
        pictures.begin(ids)
        groups = [found.over(example, MEMBERS, opened) for example, opened in map(pictures.get, ids)]
        waited += time.perf_counter() - started if number else 0.0
        pictures.drop()
        for group in groups[::2]:
            for episode in group:
                episode.step(found.protocol.request())
        kept = [[view.image for view in views(episode.history)] for group in groups for episode in group]
        del groups
        pictures.begin([str(int(i) + GROUPS) for i in ids], ahead=True)
        while pictures.pending:  # the update takes longer than this
            time.sleep(0.01)
    return {"waited_seconds_a_step": waited / (STEPS - 1), "views_a_step": sum(map(len, kept))}


def anonymous() -> float:
    """MiB that this process holds beside mapped files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def play(work: Callable[[Path], dict[str, float]], table: Path, results: multiprocessing.SimpleQueue[dict[str, float]]) -> None:
    idle, most, over = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    found = work(table)
    over.set()
    watching.join()
    results.put(found | {"peak_mib": most[0] - idle})


def measured(work: Callable[[Path], dict[str, float]], table: Path) -> dict[str, float]:
    """In a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=play, args=(work, table, results))
    process.start()
    found = results.get()
    process.join()
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400 rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = 400 if options.quick else 20_000
    ours: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_CACHE_HOME": f"{folder}/cache", "HF_HOME": f"{folder}/huggingface"}
        for name, made in (("files", files(Path(folder), rows)), ("parquet", table(Path(folder), rows))):
            ours[f"{name}, first"] = measured(start, made)
            ours[f"{name}, second"] = measured(start, made)
            ours[f"{name}, steps"] = measured(step, made)
    bound = {"first": {"seconds": 30.0}, "second": {"seconds": 3.0}, "steps": {"peak_mib": 2048.0}}  # what was asked for
    if options.json:
        sys.stdout.write(json.dumps({"ours": ours, "bound": bound}) + "\n")
        return
    for name, found in ours.items():
        sys.stdout.write(f"{name:16} {', '.join(f'{key} {value:g}' for key, value in found.items())}\n")


if __name__ == "__main__":
    main()
