"""Tables of examples: the released schema as it is, plain names, and rows that cannot be used."""

from __future__ import annotations

import io
import json

import datasets
import pytest
from PIL import Image

from visionthink.data.examples import read_examples
from visionthink.errors import DataError
from visionthink.images import open_image


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def released(**changes) -> datasets.Dataset:
    columns = {
        "problem": ["<image>How many?", "<image>Which colour?"],
        "images": [[{"bytes": png(56), "path": None}], [{"bytes": png(84), "path": None}]],
        "original_answer": ["2", None],
        "solution": ["<answer>2</answer>", "red"],
        "doc_id": [7, 8],
        "data_source": ["open_source_require_high", "open_source_no_require_high"],
    }
    return datasets.Dataset.from_dict(columns | changes)


@pytest.mark.parametrize("kind", ["parquet", "folder", "splits", "decoded"])
def test_the_released_schema(tmp_path, kind):
    rows = released()
    if kind == "decoded":
        rows = rows.cast_column("images", datasets.List(datasets.Image()))
    path = tmp_path / ("rows.parquet" if kind == "parquet" else "rows")
    if kind == "parquet":
        rows.to_parquet(path)
    else:
        (datasets.DatasetDict(train=rows) if kind == "splits" else rows).save_to_disk(path)
    table = read_examples(str(path))
    assert list(table) == ["0", "1"]
    assert [e.question for e in table.values()] == ["<image>How many?", "<image>Which colour?"]
    assert [e.answer for e in table.values()] == ["2", "red"]
    assert [open_image(e.image).image.size for e in table.values()] == [(56, 56), (84, 84)]
    assert table["1"].metadata == {"doc_id": 8} and table["1"].family == "open_source_no_require_high"


def test_json_lines_with_paths(tmp_path):
    """Relative to the table, or absolute."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(28))
    rows = [
        {"question": "What?", "image": str(tmp_path / "images" / "a.png"), "answer": ["red"]},
        {"question": "Which?", "image": "images/a.png", "answer": ["red", "crimson"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = read_examples(str(tmp_path / "rows.jsonl")).values()
    assert (one.question, one.answer, one.aliases) == ("What?", "red", ())
    assert (two.question, two.answer, two.aliases) == ("Which?", "red", ("crimson",))
    assert [open_image(e.image).image.size for e in (one, two)] == [(28, 28)] * 2


def test_the_need_that_the_released_rows_know(tmp_path):
    released(info=[{"use_tool": True}, {"use_tool": False}]).to_parquet(tmp_path / "rows.parquet")
    assert [e.need for e in read_examples(str(tmp_path / "rows.parquet")).values()] == ["hard", "easy"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"solution": ["2", ""]}, "row 1: no answer in column original_answer or solution"),
        ({"images": [[], []]}, "row 1: no image in column images"),
        ({"problem": ["a", None]}, "row 1: no question in column problem"),
        ({"images": [[{"bytes": None, "path": None}]] * 2}, "row 1: the image is null, not a file"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, changes, message):
    released(**changes).save_to_disk(tmp_path / "rows")
    with pytest.raises(DataError, match=message):
        _ = read_examples(str(tmp_path / "rows"))["1"]


def test_a_table_that_cannot_be_used(tmp_path):
    released().remove_columns("images").to_parquet(tmp_path / "a.parquet")
    listed = "it has 'problem', 'original_answer'"
    with pytest.raises(DataError, match=rf"a\.parquet: no column image or images or file_name; {listed}"):
        read_examples(str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"b\.parquet: no such file"):
        read_examples(str(tmp_path / "b.parquet"))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match=r"c\.parquet: cannot be read"):
        read_examples(str(tmp_path / "c.parquet"))
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(DataError, match=r"d\.txt: expected a \.parquet, \.jsonl, \.csv, \.tsv or \.tar file"):
        read_examples(str(tmp_path / "d.txt"))
