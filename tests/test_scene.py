"""What a menu means for images of given sizes: offers, costs and crops, against numbers of the published systems."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from calls import spoken
from PIL import Image

from visionthink import Menu, Picture, Protocol, Regions, ResolutionLadder
from visionthink.errors import OptionError
from visionthink.geometry import cells, from_box, grown, ten_crops, to_box, usable
from visionthink.menu import FREE, NAMED
from visionthink.protocol import Request
from visionthink.resolution import QWEN2_5_VL, QWEN3_VL, PixelBudget
from visionthink.scene import INSTEAD, Resolved, Scene
from visionthink.types import Box, Call, CallError, Look, Shown, whole

TINY = PixelBudget(28, 784, 12544)

# ------------------------------------------------------------------------------------------------ property


def random_size(rng):
    while True:
        width, height = (int(10 ** rng.uniform(0, 4)) for _ in range(2))
        if max(width, height) <= 200 * min(width, height):
            return width, height


def check_random_calls(count):
    """Calls through a dialect's parser and a menu's geometry: never an exception, a crop outside of the image or an empty one,
    and as many visual tokens as the image processor makes of the view, which keeps crops as they are."""
    from transformers import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    budgets = (QWEN2_5_VL, QWEN3_VL, TINY)
    processors = {
        b: Qwen2VLImageProcessorPil(
            size={"shortest_edge": b.min_pixels, "longest_edge": b.max_pixels}, patch_size=b.factor // 2, merge_size=2
        )
        for b in budgets
    }
    rng = random.Random(0)
    crops = {name: 0 for name in NAMED}
    refused = set()
    for n in range(count):
        name = list(NAMED)[n % len(NAMED)]
        menu, dialect = NAMED[name]
        protocol, budget = Protocol(dialect or "agent"), rng.choice(budgets)
        several = protocol.asks_of_any_image and rng.random() < 0.3
        sizes = [random_size(rng) for _ in range(rng.choice((2, 3)) if several else 1)]
        scene = Scene(menu, sizes, budget)
        shown = scene.shown(scene.opening)
        for turns in range(rng.choice((1, 1, 2))):
            text = spoken(protocol.dialect, sizes[0], rng)
            reply = protocol.parse(text)
            if not isinstance(reply, Request):
                continue
            resolved = scene.resolve(reply.calls, shown, turns=turns)
            if isinstance(resolved, CallError):
                refused.add(resolved)
                continue
            views = scene.shown(resolved.looks)
            assert views, (name, sizes, text)
            for view in views:
                case = (name, budget, sizes, text, view)
                image = scene.wholes[view.image]
                assert view.box.within(image) == view.box and view.box.area > 0, case
                height, width = smart_resize(view.height, view.width, budget.factor, budget.min_pixels, budget.max_pixels)
                assert view.visual_tokens == (width // budget.factor) * (height // budget.factor) > 0, case
                if view.box != image:
                    crops[name] += 1
                    assert (view.width, view.height) == (width, height), case
                    assert view.visual_tokens >= menu.least_tokens, case
                    assert not menu.most_tokens or view.visual_tokens <= menu.most_tokens, case
                if n % 10 == 0:
                    patches = processors[budget].get_number_of_image_patches(view.height, view.width)
                    assert patches == 4 * view.visual_tokens, case
            shown += views
    return crops, refused


def test_random_calls():
    check_random_calls(3000)


@pytest.mark.slow
def test_many_random_calls():
    crops, refused = check_random_calls(100_000)
    assert all(crops[name] > 500 for name, (menu, _) in NAMED.items() if menu.has_regions), crops
    assert refused == {
        CallError.EMPTY_BOX,
        CallError.TOO_LONG,
        CallError.UNKNOWN_VIEW,
        CallError.UNKNOWN_REGION,
        CallError.NOT_ON_OFFER,
    }
