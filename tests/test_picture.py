"""A file is decoded once and a view is rendered once, whoever needs it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionthink import Episode, Example, Menu, Protocol, ScriptedPolicy, run_batch
from visionthink.data.curation import Curator
from visionthink.data.labels import Thresholds
from visionthink.errors import DataError, ImageError
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.model import Model
from visionthink.picture import Picture, open_pictures
from visionthink.resolution import QWEN2_5_VL
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.rollouts import EpisodeSource
from visionthink.types import Box, whole

ASK = Protocol().request()
ANSWER = "<think>I see.</think><answer>4</answer>"


@pytest.fixture
def large(tmp_path) -> Path:
    """A JPEG of 2048x1024 px: 648 visual tokens at a quarter, 2,701 in full."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    Image.fromarray(noise).resize((2048, 1024)).save(tmp_path / "large.jpg")
    return tmp_path / "large.jpg"


@pytest.fixture
def counted(monkeypatch):
    """How often Pillow opened a file, and resampled an image."""
    counts = {"opened": 0, "resized": 0}
    opened, resized = Image.open, Image.Image.resize

    def open_and_count(*args, **options):
        counts["opened"] += 1
        return opened(*args, **options)

    def resize_and_count(*args, **options):
        counts["resized"] += 1
        return resized(*args, **options)

    monkeypatch.setattr(Image, "open", open_and_count)
    monkeypatch.setattr(Image.Image, "resize", resize_and_count)
    return counts


def test_a_group_of_sixteen_decodes_once_and_renders_each_view_once(large, counted):
    source = EpisodeSource(
        examples={"e": Example("e", "How many?", large, answer="4")}, menu=Menu(), protocol=Protocol(), budget=QWEN2_5_VL
    )
    episodes = source.episodes("e", 16)
    transcripts = run_batch(episodes, ScriptedPolicy([ASK, ANSWER]))
    assert all(t.levels_seen == (0.25, 1.0) and t.visual_tokens == 648 + 2701 for t in transcripts)
    assert counted == {"opened": 1, "resized": 1}  # the full view is the picture itself
    assert {id(episode.pictures[0]) for episode in episodes} == {id(episodes[0].pictures[0])}
    assert episodes[0].pictures[0].rendered == 2
    assert len({id(part) for e in episodes for m in e.history for part in m.content if not isinstance(part, str)}) == 2


def test_counting_for_curation_opens_an_image_once(large, counted):
    model = Model(ScriptedPolicy(["<think>a</think><answer>4</answer>"]), Protocol(), Menu(), QWEN2_5_VL)
    thresholds = Thresholds(rollouts=4, difference=3, wrong=0)
    curator = Curator(model=model, judge=RulesJudge(), thresholds=thresholds)
    record, transcripts = curator.count(0, Example("e", "How many?", large, answer="4"))
    assert (record.correct_low, record.correct_full, len(transcripts)) == (4, 4, 8)
    assert counted == {"opened": 1, "resized": 1}


def test_views():
    image = Image.fromarray(np.arange(60 * 100 * 3, dtype=np.uint8).reshape(60, 100, 3))
    picture = Picture.open(image, name="p")
    box = Box(10, 20, 66, 48)
    crop = picture.view(box, 56, 28, level=1.0, visual_tokens=2)
    assert crop.image.tobytes() == image.crop(box).tobytes() and (crop.box, crop.width, crop.height) == (box, 56, 28)
    enlarged = picture.view(box, 112, 56, level=1.0, visual_tokens=8)
    assert enlarged.image.tobytes() == image.resize((112, 56), Image.Resampling.LANCZOS, box=box).tobytes()
    assert picture.view(box, 56, 28, level=1.0, visual_tokens=2) is crop
    assert picture.view(whole(100, 60), 100, 60, level=1.0, visual_tokens=8).image is picture.image
    assert picture.rendered == 3


def test_errors_name_the_picture(tmp_path):
    with pytest.raises(ImageError, match=r"^example e, image 2 of 2: the file is empty$"):
        open_pictures(Example("e", "q", (Image.new("RGB", (9, 9)), b"")))
    with pytest.raises(ImageError, match=r"^row 7, .*none\.png: no such file$"):
        open_pictures(Example("e", "q", tmp_path / "none.png"), row="row 7")
    with pytest.raises(ImageError, match=r"^example thin: an image of 201x1 px has an aspect ratio above 200$"):
        open_pictures(Example("thin", "q", Image.new("RGB", (201, 1))))
    with pytest.raises(DataError, match=r"example e: has 1 image\(s\), but 2 were opened"):
        Episode(Example("e", "q", Image.new("RGB", (9, 9))), [Picture(Image.new("RGB", (9, 9)))] * 2)


def test_threads_read_side_by_side_and_nothing_global_is_touched(large):
    """While one thread decodes, another finds Pillow's limit and the filters of warnings as they were."""
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    assert before[0] >= MAX_IMAGE_PIXELS
    seen, pictures, done = set(), [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add((Image.MAX_IMAGE_PIXELS, len(warnings.filters)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    readers = [threading.Thread(target=lambda: pictures.append(Picture.open(large))) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    done.set()
    watcher.join()
    assert seen == {(before[0], len(before[1]))}
    assert len({p.image.tobytes() for p in pictures}) == 1 and len(pictures) == 8


def test_episodes_read_no_file(tmp_path, large):
    """Pictures are handed in opened: the file may be gone."""
    example = Example("e", "How many?", large)
    pictures = open_pictures(example)
    large.unlink()
    [transcript] = run_batch([Episode(example, pictures)], ScriptedPolicy([ASK, ANSWER]))
    assert transcript.answer == "4" and transcript.sizes == ((2048, 1024),)


def test_the_benchmark_counts(tmp_path):
    command = [sys.executable, "benchmarks/pictures.py", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    record = json.load(io.StringIO(done.stdout))
    assert (record["ours"]["decoded"], record["ours"]["rendered"]) == (2, 4)
    assert (record["ratio"]["decoded"], record["ratio"]["rendered"], record["bound"]["decoded"]) == (4.0, 4.0, 4)
