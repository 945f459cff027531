"""Accuracy of one evaluated run minus another's on the same questions, in points, with a 95 % interval (paired bootstrap).

Run: python benchmarks/paired.py RUN OTHER [--json], two folders of `visionthink eval`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from visionthink.evals.bootstrap import Interval, bootstrap
from visionthink.evals.comparison import by_id, right
from visionthink.evals.run_folder import read_run


def difference(run: Path, other: Path) -> Interval | None:
    ours, theirs = (by_id(read_run(folder).scored) for folder in (run, other))
    return bootstrap([100.0 * (right(ours[i]) - right(theirs[i])) for i in ours if i in theirs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = difference(options.run, options.other)
    if found is None:
        sys.exit("error: no question is in both runs")
    text = f"{found.mean:+.1f} ({found.low:.1f} to {found.high:.1f}), {found.n} questions"
    sys.stdout.write((json.dumps(dataclasses.asdict(found)) if options.json else text) + "\n")


if __name__ == "__main__":
    main()
