"""Tables of every format, and rows that cannot be used."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import datasets
import fsspec
import pytest
from PIL import Image

from visionthink.data.examples import ExampleTable, read_examples
from visionthink.data.rows import place as place_of
from visionthink.data.sources import open_rows
from visionthink.errors import DataError
from visionthink.images import open_image


def png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(56))
    return tmp_path


def size(example) -> tuple[int, int]:
    return open_image(example.image).image.size


def test_csv_and_tsv(folder):
    (folder / "rows.csv").write_text('question,answer,image\n"Two,\nlines?",red,a.png\nshort,row\nWhich?,blue,a.png\n')
    table = read_examples(str(folder / "rows.csv"))
    assert len(table) == 3 and table["0"].question == "Two,\nlines?" and size(table["2"]) == (56, 56)
    with pytest.raises(DataError, match=r"rows\.csv, line 4: has 2 values for 3 columns"):
        _ = table["1"]
    (folder / "rows.tsv").write_text("question\tanswer\timage\nWhat?\tred, blue\ta.png\n")
    assert read_examples(str(folder / "rows.tsv"))["0"].answer == "red, blue"


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("t.jsonl", '{"question": 1}\n\n \n{"question": 2}\n{"question": 3}\n', [1, 4, 5]),
        ("t.jsonl", '\n{"question": 1}\n', [2]),
        ("t.csv", "question,answer,image\n\n1,2\n1,2\n", [3, 4]),
        ("t.csv", 'question,answer,image\n"1\n\n",2,\n1,2\n', [2, 5]),
        ("t.csv", 'question,answer,image\n"1,2\n1,2\n1,2\n', [2, 3, 4]),
        ("t.csv", "sep=;\nquestion;answer;image\n1;2\n", [3]),
        ("t.csv", "question,answer,image\r\n1,2\r\n1,2\r\n", [2, 3]),
    ],
)
def test_rows_are_named_by_the_line_that_they_begin_in(tmp_path, name, content, lines):
    (tmp_path / name).write_text(content, newline="")
    rows, _ = open_rows(str(tmp_path / name), "test")
    assert [place_of(rows, i) for i in range(len(rows))] == [f"line {line}" for line in lines]
    columns = dict.fromkeys(("question", "answer", "image"), rows.column_names[0])
    with pytest.raises(DataError, match=rf"{name}, line {lines[-1]}: "):
        ExampleTable(name, rows, tmp_path, columns).first(9)[str(len(lines) - 1)]


def test_a_folder_of_images_with_its_table(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "question": "What?", "answer": "red"}\n')
    assert size(read_examples(str(folder))["0"]) == (56, 56)


def test_webdataset_shards(folder):
    with tarfile.open(folder / "shard-0.tar", "w") as tar:
        for name, content in (("1.png", png(56)), ("1.json", json.dumps({"question": "What?", "answer": "red"}).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    table = read_examples(str(folder / "shard-0.tar"))
    assert (table["0"].question, table["0"].answer, size(table["0"])) == ("What?", "red", (56, 56))


def test_several_files_by_a_pattern(folder):
    for i in range(2):
        rows = [{"question": f"{i}?", "answer": "red", "image": {"bytes": png(28), "path": None}}]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"part-{i}.parquet")
    assert [e.question for e in read_examples(str(folder / "part-*.parquet")).values()] == ["0?", "1?"]


def test_other_names_of_columns_and_another_folder_of_images(folder):
    (folder / "tables").mkdir()
    (folder / "tables" / "rows.jsonl").write_text(json.dumps({"q": "What?", "meta": {"label": "red"}, "pic": "a.png"}))
    table = read_examples(
        str(folder / "tables" / "rows.jsonl"), columns="question=q,answer=meta.label,image=pic", image_root=str(folder)
    )
    assert (table["0"].question, table["0"].answer, size(table["0"])) == ("What?", "red", (56, 56))
    with pytest.raises(DataError, match="no column nowhere; it has 'q', 'meta', 'pic'"):
        read_examples(str(folder / "tables" / "rows.jsonl"), columns="question=nowhere")


def test_several_images_and_an_earlier_conversation(folder):
    said = [{"role": "user", "content": "Look: <image>"}, {"role": "assistant", "content": "A cat."}]
    row = {"question": "And <image>?", "answer": "red", "image": ["a.png", "a.png"], "earlier": said}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    example = read_examples(str(folder / "rows.jsonl"))["0"]
    assert [open_image(image).image.size for image in example.images] == [(56, 56), (56, 56)]
    assert example.earlier == (("user", "Look: <image>"), ("assistant", "A cat."))
    assert "earlier" not in example.metadata


@pytest.mark.parametrize(
    "row, complaint",
    [
        ({"image": "../up.png"}, "lies outside of"),
        ({"image": "/etc/passwd"}, "lies outside of"),
        ({"image": "https://example.com/a.png"}, "the image is an address"),
        ({"image": "x" * 300}, "the image's path cannot be used"),
        ({"image": ["a.png", 7]}, "the image is a whole number, not a file"),
        ({"image": ["a.png", "../up.png"]}, "lies outside of"),
        ({"earlier": "hello"}, "earlier is not a list of messages with role and content"),
        ({"earlier": [{"role": "tool", "content": "hello"}]}, "earlier is not a list of messages with role and content"),
        ({"image": 7}, "the image is a whole number, not a file"),
        ({"question": "\ud800"}, "holds half of a UTF-16 pair"),
        ({"question": ["a"]}, "the question is a list, not text"),
        ({"answer": [["red"]]}, "the answer is nested"),
        ({"answer": "  "}, "no answer in column answer"),
    ],
)
def test_bad_rows_are_named(folder, row, complaint):
    good = {"question": "What?", "answer": "red", "image": "a.png"}
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (good, good | row, good)))
    table = read_examples(str(folder / "rows.jsonl"))
    assert table["0"].answer == table["2"].answer == "red"
    with pytest.raises(DataError) as caught:
        _ = table["1"]
    assert "rows.jsonl, line 2: " in str(caught.value) and complaint in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"question,answer,image\n", "has no rows"),
        ("a.csv", b"question,question,image\na,b,c\n", "two columns have the same name"),
        ("a.jsonl", b"[1]\n[2]\n", "none of the first lines is a JSON object"),
        ("a.parquet", b"", "is empty"),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "cannot be read"),
        ("a.tar", b"not a tar file", "cannot be read"),
        ("a.xlsx", b"x", "expected a .parquet, .jsonl, .csv, .tsv or .tar file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_examples(str(tmp_path / name))
    assert name in str(caught.value) and complaint in str(caught.value)


def test_a_quote_that_is_not_closed_costs_one_row(tmp_path):
    rows = [f"q{i},a{i},{i}.png\n" for i in range(12)]
    rows[2] = '"q2,a2,2.png\n'
    rows[7] = '"of two\nlines",a7,7.png\n'
    path = tmp_path / "t.csv"
    path.write_text("question,answer,image\n" + "".join(rows))
    table, _ = open_rows(str(path), "train")
    assert len(table) == 12
    with pytest.raises(DataError, match="a quote is not closed"):
        table[2]
    assert table[7]["question"] == "of two\nlines"
    assert [table[i]["answer"] for i in (0, 1, 3, 8, 11)] == ["a0", "a1", "a3", "a8", "a11"]


def test_images_beside_a_pattern_of_files(tmp_path):
    image = tmp_path / "img.png"
    Image.new("RGB", (60, 60)).save(image)
    datasets.Dataset.from_dict({"question": ["q"], "answer": ["a"], "image": ["img.png"]}).to_parquet(tmp_path / "part-1.parquet")
    assert Path(read_examples(str(tmp_path / "part-*.parquet"))["0"].image) == image


def test_an_empty_cell_of_numbers_is_no_answer(tmp_path):
    table = datasets.Dataset.from_dict({"question": ["q", "r"], "answer": [1.5, float("nan")], "image": ["a", "a"]})
    table.to_parquet(tmp_path / "t.parquet")
    examples = read_examples(str(tmp_path / "t.parquet"))
    assert examples["0"].answer == "1.5"
    with pytest.raises(DataError, match="row 1: no answer"):
        examples["1"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "folder", "part-0.parquet", "part-*.parquet"])
def test_tables_at_addresses(tmp_path, name):
    """As on an object store, with their images beside them."""
    stored = png(56)
    row = {"question": "What colour?", "answer": "red", "image": "images/a.png"}
    for place in (tmp_path, tmp_path / "folder"):
        (place / "images").mkdir(parents=True)
        (place / "images" / "a.png").write_bytes(stored)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "rows.csv").write_text("question,answer,image\nWhat colour?,red,images/a.png\n")
    (tmp_path / "folder" / "metadata.csv").write_text("question,answer,file_name\nWhat colour?,red,images/a.png\n")
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "part-0.parquet")
    example = read_examples(f"file://{tmp_path}/{name}")["0"]
    assert (example.question, example.answer, example.image) == ("What colour?", "red", stored)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path), "memory://here", recursive=True)
    if not name.endswith("parquet"):  # which datasets reads, in memory of its own
        assert read_examples(f"memory://here/{name}")["0"] == example


def test_what_is_wrong_at_an_address_is_named(tmp_path):
    rows = [{"question": "?", "answer": "a", "image": image} for image in ("none.png", "../a.png", "/etc/passwd", "s3://b/a.png")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_examples(f"file://{tmp_path}/rows.jsonl")
    why = ("no such file", "lies outside of", "lies outside of", "the image is an address")
    for key, text in zip("0123", why, strict=True):
        with pytest.raises(DataError, match=text) as error:
            table[key]
        assert str(error.value).startswith(f"file://{tmp_path}/rows.jsonl, line {int(key) + 1}: ")
    for source, text in (
        (f"file://{tmp_path}/none.jsonl", f"file://{tmp_path}/none.jsonl: no such file"),
        (f"file://{tmp_path}", f"file://{tmp_path}: expected a .parquet, .jsonl, .csv, .tsv or .tar file, or a folder with"),
        ("nowhere://a/rows.csv", "nowhere://a/rows.csv: cannot be read (Protocol not known: nowhere)"),
        (f"file://{tmp_path}/*.jsonl", f"file://{tmp_path}/*.jsonl: no such file"),
    ):
        with pytest.raises(DataError) as error:
            read_examples(source)
        assert str(error.value).startswith(text)
    with pytest.raises(DataError, match=r"^nowhere://a: cannot be read \(Protocol not known: nowhere\)$"):
        read_examples(str(tmp_path / "rows.jsonl"), image_root="nowhere://a")


def test_only_images_of_this_machine_can_be_known_again(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "answer": "a", "image": "a.png"}\n')
    assert str(tmp_path) in read_examples(str(tmp_path / "rows.jsonl")).fingerprint
    assert read_examples(str(tmp_path / "rows.jsonl"), image_root=f"file://{tmp_path}").fingerprint == ""
    assert read_examples(f"file://{tmp_path}/rows.jsonl").first(1).fingerprint == ""
