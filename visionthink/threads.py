"""How threads of numerical libraries wait. Imports nothing that would start them."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let idle OpenMP threads sleep; the OpenMP runtime reads this when torch is imported, so no command may import it before.

    By default an idle thread spins until the slowest one arrives, which costs much where another process holds one of the cores;
    docs/explanation/log.md has times of `make demo`. A policy that the user has set wins, and `GOMP_SPINCOUNT` would override
    that policy, so it is left alone then as well.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
