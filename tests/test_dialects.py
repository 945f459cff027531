"""What every dialect says to the model and how it reads replies, against published strings and the parsers of the peers."""

from __future__ import annotations

import random

import pytest
from calls import canonical, mutated
from PIL import Image

from visionthink import Protocol
from visionthink.protocol import DIALECTS, Answer, Request
from visionthink.types import Box, ImageView

WHOLE = (1.0, 2.0, 30.0, 40.0)
ASKING = [name for name, dialect in DIALECTS.items() if dialect.call]


def a_view():
    return ImageView(image=Image.new("RGB", (56, 56)), box=Box(0, 0, 56, 56), level=1.0, width=56, height=56, visual_tokens=4)


def said(message):
    """The text of a message, views written as `<image>`."""
    return "".join(part if isinstance(part, str) else "<image>" for part in message.content)


# ------------------------------------------------------------------------------------------------ fuzz


def check_mutated_calls(count):
    """Damaged calls: never an exception; what is understood can be written and read again; no call lacks its opening."""
    rng = random.Random(0)
    understood = dict.fromkeys(ASKING, 0)
    for n in range(count):
        dialect = ASKING[n % len(ASKING)]
        protocol = Protocol(dialect)
        text = mutated(canonical(dialect, rng), rng)
        reply = protocol.parse(text)
        protocol.is_well_formed(text)
        if protocol.request_opening not in text:
            assert reply == Answer(text), (dialect, text)
        if isinstance(reply, Request):
            understood[dialect] += 1
            again = protocol.parse(protocol.request(*reply.calls))
            assert isinstance(again, Request), (dialect, text, reply)
            # where no image is named, the first one is meant
            calls = [[(c.box, c.regions, c.level, c.source or 0, c.unit, c.frame) for c in r.calls] for r in (reply, again)]
            assert calls[0] == calls[1], (dialect, text)
    return understood


def test_mutated_calls():
    check_mutated_calls(3000)


@pytest.mark.slow
def test_many_mutated_calls():
    understood = check_mutated_calls(100_000)
    assert min(understood.values()) > 200, understood
