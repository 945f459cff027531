"""One process of a training run with a judge of its own: `torchrun ... outage_run.py OUT URL URL`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from visionthink.cli import main


def run() -> int:
    out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    judge = out / f"judge-{rank}.toml"
    judge.write_text(f'[[judge]]\nurl = "{sys.argv[2 + rank]}"\nmodel = "m"\ncache = ""\ntimeout = 0.5\ndeadline = 1\n')
    settings = "--steps 6 --prompts-per-step 4 --group-size 4 --save-steps 6 --updates-per-step 1 --max-new-tokens 8 --refill 2"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(["train", "tiny", "--out", str(out / "run"), "--judge", str(judge), *settings.split()])
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
    (out / f"ended-{rank}.json").write_text(json.dumps({"status": status, "error": " ".join(errors)}))
    sys.stderr.write(said.getvalue())
    return status


if __name__ == "__main__":
    sys.exit(run())
