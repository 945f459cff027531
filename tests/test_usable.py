"""What is measured before training: once per table, again where an image file is another, and with the same result."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from launching import on_processes
from PIL import Image
from pyarrow import parquet

from visionthink import Example, Menu, Protocol
from visionthink.data.examples import read_examples
from visionthink.errors import DataError
from visionthink.images import measure
from visionthink.resolution import QWEN2_5_VL
from visionthink.train import usable as module
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.usable import usable


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "visionthink" / "measured"


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Examples that were measured, by id."""
    found: list[str] = []
    usual = module._measure
    monkeypatch.setattr(module, "_measure", lambda source, key, *more: found.append(key) or usual(source, key, *more))
    return found


def encoded(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def table(tmp_path) -> Path:
    """Six rows: three that can be trained on, one without a file, one without an answer, one too small for the ladder."""
    sizes = {"a": (112, 112), "b": (224, 112), "c": (448, 448), "tiny": (28, 28), "e": (112, 112)}
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(encoded(*size))
    rows = [{"question": "?", "answer": "1", "image": f"{name}.png"} for name in ("a", "b", "c", "missing", "e", "tiny")]
    rows[4]["answer"] = ""
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "t.jsonl"


def source(table, menu: Menu | None = None, **options) -> EpisodeSource:
    examples = read_examples(str(table), **options) if isinstance(table, (str, Path)) else table
    return EpisodeSource(examples=examples, menu=menu or Menu(), protocol=Protocol(), budget=QWEN2_5_VL)


def test_a_second_start_measures_nothing_and_finds_the_same(table, cache, measured, capsys, caplog):
    first = usable(source(table))
    assert first[0] == {"0": 16, "1": 32, "2": 256}
    assert list(first[1]) == ["3", "4"]
    assert re.search(r", line 4: .*missing\.png: no such file$", first[1]["3"]) and "line 5: no answer" in first[1]["4"]
    assert len(measured) == 6 and len(list(cache.iterdir())) == 1
    said = [record.message for record in caplog.records]
    caplog.clear()
    assert usable(source(table)) == first and len(measured) == 6
    assert [record.message for record in caplog.records] == said and said[-1].startswith("1 examples left out: their images are")
    lines = [line.partition(" after")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "measuring the images of the examples: 0 of 6",
        "measuring the images of the examples: 6 of 6",
        "measuring the images of the examples: all 6 were done before",
    ]


def test_files_that_changed_are_measured_again_and_no_others(table, cache, measured):
    usable(source(table))
    measured.clear()
    (table.parent / "b.png").write_bytes(encoded(56, 112))
    (table.parent / "c.png").unlink()
    (table.parent / "missing.png").write_bytes(encoded(112, 224))
    tokens, unreadable = usable(source(table))
    assert sorted(measured) == ["1", "2", "3"]
    assert tokens == {"0": 16, "1": 8, "3": 32} and list(unreadable) == ["2", "4"]
    measured.clear()
    assert usable(source(table)) == (tokens, unreadable) and measured == []


def test_another_table_menu_budget_or_part_is_measured_anew(table, cache, measured):
    usable(source(table))
    usable(source(table, Menu().full()))
    assert len(measured) == 12
    usable(EpisodeSource(examples=read_examples(str(table)), menu=Menu(), protocol=Protocol(), budget=QWEN2_5_VL.capped(64)))
    assert len(measured) == 18
    usable(source(read_examples(str(table)).first(2)))
    assert len(measured) == 20
    usable(source(table, columns="question=image"))
    assert len(measured) == 26
    text = table.read_text()
    table.write_text(text.replace("a.png", "e.png", 1))
    usable(source(table))
    assert len(measured) == 32


@pytest.mark.parametrize("content", ["", "{", "[]", '{"0": 3}', '{"0": [1, "", [["a"]]]}', "[" * 100_000])
def test_a_damaged_cache_is_made_anew(table, cache, measured, content):
    first = usable(source(table))
    [file] = cache.iterdir()
    file.write_text(content)
    assert usable(source(table)) == first and len(measured) == 12
    assert usable(source(table)) == first and len(measured) == 12


def test_without_a_place_for_the_cache_everything_is_measured(table, tmp_path, monkeypatch, measured, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = usable(source(table))
    assert usable(source(table)) == first and len(measured) == 12
    assert any("are measured again at the next start" in record.message for record in caplog.records)


def test_examples_that_are_in_memory_are_not_kept(cache, measured):
    examples = {"x": Example("x", "?", Image.new("RGB", (112, 112)), answer="1")}
    assert usable(source(examples)) == ({"x": 16}, {}) == usable(source(examples))
    assert measured == ["x", "x"] and not cache.exists()
    with pytest.raises(DataError, match="no example to train on: of 1, 1 cannot be read"):
        usable(source({"x": Example("x", "?", Image.new("RGB", (112, 112)))}))


def test_images_in_a_table_are_known_with_the_table(tmp_path, cache, measured):
    def write(*sizes: tuple[int, int]) -> None:
        images = [encoded(*size) for size in sizes]
        columns = {"question": ["?"] * len(sizes), "answer": ["1"] * len(sizes), "image": images}
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")

    write((112, 112), (224, 112))
    assert usable(source(tmp_path / "t.parquet"))[0] == {"0": 16, "1": 32}
    assert usable(source(tmp_path / "t.parquet"))[0] == {"0": 16, "1": 32} and len(measured) == 2
    write((112, 112), (448, 448))
    os.utime(tmp_path / "t.parquet", (1, 1))
    assert usable(source(tmp_path / "t.parquet"))[0] == {"0": 16, "1": 256} and len(measured) == 4


def test_of_a_jpeg_only_the_beginning_is_read(tmp_path):
    """On a disk behind a network the rest is what takes long; other formats may say behind the pixels how they stand."""
    image, exif = Image.effect_noise((640, 480), 100).convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", quality=95, exif=exif)
    script = (
        "import builtins, io, pathlib, sys, visionthink.images as images\n"
        "from PIL import Image\n"
        "read = []\n"
        "usual = io.BufferedReader.read\n"
        "class Reader(io.FileIO):\n"
        "    def readinto(self, buffer):\n"
        "        n = super().readinto(buffer); read.append(n); return n\n"
        "pathlib.Path.open = lambda path, mode: io.BufferedReader(Reader(path))\n"
        "size = images.measure(sys.argv[1])\n"
        "assert read and sum(read) <= 32768, read\n"
        "print(size)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.jpg")], capture_output=True, text=True)
    assert done.stdout == "(480, 640)\n", done.stderr
    assert (tmp_path / "x.jpg").stat().st_size > 200_000
    assert measure(tmp_path / "x.jpg") == measure((tmp_path / "x.jpg").read_bytes()) == (480, 640)


@pytest.mark.slow
def test_of_two_processes_one_measures(table, cache, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import json, os, sys\n"
        "from visionthink import Menu, Protocol\n"
        "from visionthink.data.examples import read_examples\n"
        "from visionthink.resolution import QWEN2_5_VL\n"
        "from visionthink.train import usable as module\n"
        "from visionthink.train.rollouts import EpisodeSource\n"
        "found, usual = [], module._measure\n"
        "module._measure = lambda source, key, *more: found.append(key) or usual(source, key, *more)\n"
        "source = EpisodeSource(examples=read_examples(sys.argv[1]), menu=Menu(), protocol=Protocol(), budget=QWEN2_5_VL)\n"
        "tokens, unreadable = module.usable(source)\n"
        "open(f\"{sys.argv[2]}/{os.environ['RANK']}.json\", 'w').write(json.dumps([len(found), tokens, list(unreadable)]))\n"
    )
    done = on_processes(2, script, table, tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = [{"0": 16, "1": 32, "2": 256}, ["3", "4"]]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [[6, *expected], [0, *expected]]
    assert done.stderr.count("measuring the images of the examples: 6 of 6") == 1
