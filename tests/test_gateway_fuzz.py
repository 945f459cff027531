"""Requests that schemathesis makes up from the gateway's own OpenAPI document, valid ones and others."""

from __future__ import annotations

import itertools
import re
import subprocess

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from environments import clean, fuzzing_python
from gateway import before, serving
from upstream import Script, said, streamed, upstream

from visionthink import Protocol

pytestmark = [pytest.mark.slow, pytest.mark.network]

REQUEST = said("<think>small</think>", Protocol("agent").request())
ANSWER = said("<think>ok</think>", "<answer>4", "2</answer>")
CASES = 150
"""For each of the two operations; several times as many were run by hand, see docs/explanation/log.md."""
OPTIONS = (
    *("--include-method", "POST", "--phases", "fuzzing", "-n", f"{CASES}", "--seed", "1", "--no-shrink", "--continue-on-failure"),
    *("--max-response-time", "20", "--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
    # what the document cannot say is refused, too: that a URL holds an image, that a message has a text
    *("--exclude-checks", "positive_data_acceptance,unsupported_method"),
)


def test_no_request_is_answered_otherwise_than_documented(tmp_path):
    """No status 500, none that is not in the document, no other form of a response, no invalid request that is accepted."""
    python, turns = fuzzing_python(), itertools.count()

    def rest(body: dict) -> Script:
        server.sent.clear()
        return streamed(*(REQUEST if next(turns) % 3 == 0 and "resize_image" in str(body) else ANSWER))

    with upstream() as (server, url), serving(before(url, patience=20)) as address:
        server.rest = rest
        command = [str(python), "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *OPTIONS]
        done = subprocess.run(command, capture_output=True, text=True, env=clean(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(rf"{2 * CASES} generated, {2 * CASES} passed", done.stdout), done.stdout[-2000:]
    assert next(turns) > 10  # some of the requests were questions
