"""Servers that are not ours, for tests: a process on a free port, until it is healthy."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def transformers_serve(command: Sequence[str], home: Path) -> Iterator[str]:
    """Address of `transformers serve`, started by `command`, with an empty hub cache below `home`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "hub").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*command, *f"--host 127.0.0.1 --port {port} --device cpu --dtype float32".split()],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        assert process.poll() is None, "the server did not start"
        yield f"{url}/v1"
    finally:
        process.kill()
        process.wait()
