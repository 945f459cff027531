from __future__ import annotations

import random

import pytest
from PIL import Image

from visionthink.action_space import ActionSpace
from visionthink.errors import ImageError, OptionError
from visionthink.menu import Menu
from visionthink.picture import Picture
from visionthink.providers import SIZE_RULES
from visionthink.resolution import QWEN2_5_VL, QWEN3_VL, PixelBudget, ResolutionLadder, parse_size

TINY = PixelBudget(28, 784, 12544)


def sizes(ladder: ResolutionLadder, width: int, height: int, budget: PixelBudget) -> list[tuple[float, int, int]]:
    """(level, width, height) of the levels that are worth having."""
    [levels] = ActionSpace(Menu(ladder=ladder), [(width, height)], budget).levels
    return [(level, *ladder.size(level, width, height, budget)) for level in levels]


@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl"])
def test_counts_equal_the_real_processors(family):
    """2,000 random sizes and the extremes, against the image processor itself: its resize rule for all, its pixels for some."""
    from transformers import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    budget = SIZE_RULES[family]
    patch = budget.factor // 2
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}, patch_size=patch, merge_size=2
    )
    rng = random.Random(0)
    tried = [(int(10 ** rng.uniform(0, 4)), int(10 ** rng.uniform(0, 4))) for _ in range(2600)]
    tried += [(1, 1), (1, 200), (200, 1), (28, 28), (14, 14), (42, 42), (13, 2600), (10000, 10000), (10000, 50), (3584, 3584)]
    checked = 0
    for width, height in tried:
        if max(width, height) / min(width, height) > 200:
            with pytest.raises(ImageError):
                budget.visual_tokens(width, height)
            with pytest.raises(ValueError):
                smart_resize(height, width, budget.factor, budget.min_pixels, budget.max_pixels)
            continue
        h, w = smart_resize(height, width, budget.factor, budget.min_pixels, budget.max_pixels)
        assert budget.fit(width, height) == (w, h), (width, height)
        assert processor.get_number_of_image_patches(height, width) == 4 * budget.visual_tokens(width, height), (width, height)
        checked += 1
    assert checked >= 2000
    for width, height in [s for s in tried if s[0] * s[1] < 40_000 and max(s) / min(s) <= 200][:40]:
        grid = processor(images=[Image.new("RGB", (width, height))], return_tensors="np")["image_grid_thw"][0]
        assert grid.prod() == 4 * budget.visual_tokens(width, height), (width, height)


def test_the_figure_of_the_paper_by_formula():
    assert QWEN2_5_VL.visual_tokens(2048, 1024) == 2701
    assert QWEN3_VL.visual_tokens(2048, 1024) == 2048


def test_low_view_is_a_quarter_of_the_effective_view():
    ladder = ResolutionLadder()
    clamped = PixelBudget(28, 3136, 2048 * 784)
    assert clamped.visual_tokens(4032, 3024) == 2028
    # half of width and height would be clamped to the same 2,028 tokens; a quarter of what is kept is not
    assert clamped.visual_tokens(2016, 1512) == 2028
    (low, w, h), _ = sizes(ladder, 4032, 3024, clamped)
    assert (low, clamped.visual_tokens(w, h)) == (0.25, 520)


@pytest.mark.parametrize("arithmetic", ["effective", "released_eval", "released_train", "released_adaptvision"])
def test_every_level_of_a_long_image_can_be_shown(arithmetic):
    """Rounding the low view must not push a valid image over the aspect limit."""
    rng = random.Random(1)
    ladder = ResolutionLadder((0.25, 1), arithmetic)
    for _ in range(2000):
        short = rng.randint(1, 300)
        long = min(50_000, int(short * rng.uniform(90, 200)))
        for width, height in ((long, short), (short, long)):
            for budget in (QWEN2_5_VL, QWEN3_VL):
                for _, w, h in sizes(ladder, width, height, budget):
                    assert budget.visual_tokens(w, h) >= 1


def test_exact_quarters_on_the_canvas():
    assert sizes(ResolutionLadder(), 112, 112, TINY) == [(0.25, 56, 56), (1.0, 112, 112)]
    assert [TINY.visual_tokens(w, h) for _, w, h in sizes(ResolutionLadder(), 112, 112, TINY)] == [4, 16]


def test_ladder_collapses_where_nothing_is_saved():
    assert sizes(ResolutionLadder(), 224, 224, QWEN3_VL) == [(1.0, 224, 224)]
    assert sizes(ResolutionLadder(), 1, 1, QWEN2_5_VL) == [(1.0, 1, 1)]
    assert [level for level, _, _ in sizes(ResolutionLadder((1 / 16, 0.25, 1)), 1120, 1120, QWEN2_5_VL)] == [1 / 16, 0.25, 1]


def test_released_arithmetic():
    evaluated = ResolutionLadder((0.25, 1), "released_eval")
    assert evaluated.size(0.25, 301, 199, QWEN2_5_VL) == (150, 99)
    assert evaluated.size(1.0, 301, 199, QWEN2_5_VL) == (301, 199)
    trained = ResolutionLadder((0.25, 1), "released_train")
    assert trained.size(0.25, 300, 200, QWEN2_5_VL) == (313, 209)
    assert trained.size(1.0, 300, 200, QWEN2_5_VL) == (626, 418)


def test_full_view_is_untouched_and_low_view_is_lanczos():
    picture = Picture.open(Image.effect_noise((112, 112), 50).convert("RGB"))
    space = ActionSpace(Menu(), [picture.size], TINY)
    [low] = space.render(space.opening, [picture])
    [offer] = space.offers()
    [full] = space.render(offer.looks, [picture])
    assert full.image is picture.image
    assert low.image.tobytes() == picture.image.resize((56, 56), Image.Resampling.LANCZOS).tobytes()
    assert space.render(space.opening, [picture]) == (low,) and picture.rendered == 2


@pytest.mark.parametrize(
    "text, levels", [("0.25,1", (0.25, 1)), ("1/4,1", (0.25, 1)), ("1", (1,)), ("0.0625,0.25,1", (0.0625, 0.25, 1))]
)
def test_parse(text, levels):
    assert ResolutionLadder.parse(text).levels == levels


@pytest.mark.parametrize("text", ["", "0", "2", "1,0.25", "a,b", "0.25,0.25", "1/0", "nan"])
def test_parse_refuses(text):
    with pytest.raises(OptionError):
        ResolutionLadder.parse(text)


@pytest.mark.parametrize("text", ["", "10", "0x5", "axb", "1x2x3", "-1x5"])
def test_size_refuses(text):
    with pytest.raises(OptionError):
        parse_size(text)


def test_providers():
    assert SIZE_RULES["openai"].visual_tokens(1024, 1024) == 765
    assert SIZE_RULES["openai"].visual_tokens(4032, 3024) == 765
    assert SIZE_RULES["claude"].visual_tokens(1000, 1000) == 1296
    assert SIZE_RULES["claude"].visual_tokens(4032, 3024) <= 1568
    assert SIZE_RULES["gemini"].visual_tokens(300, 300) == 258
    assert SIZE_RULES["gemini"].visual_tokens(1024, 1024) == 1032
