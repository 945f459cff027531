"""Every type in every column: the value that a person would read, or a refusal that names column, row and type."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import math
import pickle
import uuid
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from visionthink.cells import Refused, kind_of, read_json, text_of
from visionthink.data.arrow import cell
from visionthink.data.examples import ExampleTable, read_examples
from visionthink.errors import DataError


def png(side: int = 28) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def of(values: list, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


NOON = dt.datetime(2024, 3, 5, 12, 30)
SECONDS = int(NOON.replace(tzinfo=dt.UTC).timestamp())
STRUCT = pa.struct([("a", pa.int32())])
ARRAYS: dict[str, tuple[pa.Array, str | None]] = {
    "string": (of(["007"], pa.string()), "007"),
    "large_string": (of(["1.10"], pa.large_string()), "1.10"),
    "string_view": (of(["None"], pa.string_view()), "None"),
    "dictionary": (of(["red"], pa.string()).dictionary_encode(), "red"),
    "dictionary of decimals": (of([Decimal("1.10")], pa.decimal128(5, 2)).dictionary_encode(), "1.10"),
    "run_end_encoded": (pa.RunEndEncodedArray.from_arrays(of([1], pa.int32()), of(["red"], pa.string())), "red"),
    "union": (pa.UnionArray.from_sparse(of([1], pa.int8()), [of([1], pa.int32()), of(["red"], pa.string())]), "red"),
    "bool": (of([True], pa.bool_()), "true"),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), of([0], pa.int8())), "false"),
    "int8": (of([-7], pa.int8()), "-7"),
    "int64": (of([2**53 + 1], pa.int64()), "9007199254740993"),
    "uint64": (of([2**64 - 1], pa.uint64()), "18446744073709551615"),
    "float16": (of([0.1], pa.float16()), "0.1"),
    "float32": (of([0.1], pa.float32()), "0.1"),
    "float64": (of([0.1], pa.float64()), "0.1"),
    "float64 that is whole": (of([2.0], pa.float64()), "2.0"),
    "infinite": (of([math.inf], pa.float32()), None),
    "decimal32": (of([Decimal("1.10")], pa.decimal32(5, 2)), "1.10"),
    "decimal64": (of([Decimal("1.10")], pa.decimal64(5, 2)), "1.10"),
    "decimal128": (of([Decimal("0.0000001")], pa.decimal128(9, 7)), "0.0000001"),
    "decimal128 with zeros": (of([Decimal("1200")], pa.decimal128(5, -2)), "1200"),
    "decimal256": (of([Decimal("1.10")], pa.decimal256(50, 2)), "1.10"),
    "date32": (of([NOON.date()], pa.date32()), "2024-03-05"),
    "date64": (of([NOON.date()], pa.date64()), "2024-03-05"),
    "time32": (of([NOON.time()], pa.time32("s")), "12:30:00"),
    "time64": (of([1_500_000_000], pa.time64("ns")), "00:00:01.5"),
    "timestamp": (of([SECONDS], pa.timestamp("s")), "2024-03-05 12:30:00"),
    "timestamp in ns": (of([SECONDS * 10**9 + 120], pa.timestamp("ns")), "2024-03-05 12:30:00.00000012"),
    "timestamp before 1970": (of([-500], pa.timestamp("ms")), "1969-12-31 23:59:59.5"),
    "timestamp with zone": (of([SECONDS], pa.timestamp("s", "Europe/Berlin")), "2024-03-05 13:30:00+01:00"),
    "timestamp with offset": (of([SECONDS], pa.timestamp("s", "-03:30")), "2024-03-05 09:00:00-03:30"),
    "timestamp too late": (of([2**40], pa.timestamp("s")), None),
    "timestamp of an unknown zone": (of([SECONDS], pa.timestamp("s", "Mars/Base")), None),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), of([uuid.UUID(int=5).bytes], pa.binary(16))),
        "00000000-0000-0000-0000-000000000005",
    ),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), of(["1.10"], pa.string())), "1.10"),
    "json object": (pa.ExtensionArray.from_storage(pa.json_(), of(['{"a": 1}'], pa.string())), None),
    "binary": (of([b"red"], pa.binary()), None),
    "large_binary": (of([b"red"], pa.large_binary()), None),
    "binary_view": (of([b"red"], pa.binary_view()), None),
    "fixed_size_binary": (of([b"red"], pa.binary(3)), None),
    "duration": (of([dt.timedelta(hours=1)], pa.duration("s")), None),
    "interval": (of([pa.MonthDayNano([1, 2, 3])], pa.month_day_nano_interval()), None),
    "struct": (of([{"a": 1}], STRUCT), None),
    "map": (of([[("a", 1)]], pa.map_(pa.string(), pa.int32())), None),
    "map of numbers": (of([[(1, 1)]], pa.map_(pa.int32(), pa.int32())), None),
    "list of lists": (of([[["a"]]], pa.list_(pa.list_(pa.string()))), None),
    "list of durations": (of([[dt.timedelta(1)]], pa.list_(pa.duration("s"))), None),
    "opaque": (pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "a", "b"), of(["x"], pa.string())), None),
    "tensor": (
        pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), of([[1, 2]], pa.list_(pa.int32(), 2))),
        None,
    ),
    "damaged text": (pa.Array.from_buffers(pa.string(), 1, of([b"\xff"], pa.binary()).buffers()), None),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_scalar_of_every_type(name):
    array, expected = ARRAYS[name]
    value = cell(array[0])
    if expected is not None:
        assert text_of(value) == expected
        return
    with pytest.raises(DataError, match=r", not text$"):
        text_of(value)


class Rows:
    """Rows that hold one cell of a type, as a file reader would give them."""

    def __init__(self, row: dict):
        self.row, self.column_names = row, list(row)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> dict:
        return self.row


COLUMNS = ("question", "image", "answer", "aliases", "data_source", "earlier", "info", "choices", "id", "evidence")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", ARRAYS)
def test_every_type_in_every_column(name, column, tmp_path):
    array, expected = ARRAYS[name]
    good = {"question": "Which?", "image": png(), "answer": "red"}
    table = ExampleTable("t", Rows(good | {column: cell(array[0])}), tmp_path)
    try:
        example = table["0"]
    except DataError as error:
        said = str(error)
        assert said.startswith("t, row 0: ") and repr(column) in said.replace("'info.use_tool'", "'info'") and "\n" not in said
        is_plain = name in ("string", "large_string", "string_view", "dictionary", "run_end_encoded", "union")
        assert expected is None or (column in ("question", "image", "earlier") and (not is_plain or column == "earlier"))
        return
    if column in ("answer", "aliases", "data_source"):
        read = {"answer": example.answer, "aliases": example.aliases[:1], "data_source": example.family}[column]
        assert read in (expected, (expected,)) and expected is not None
    assert json.loads(json.dumps(dict(example.metadata))) == example.metadata
    assert not any(isinstance(value, (bytes, Refused)) for value in example.metadata.values())
    assert pickle.loads(pickle.dumps(example)) == example  # as workers get it


IN_PARQUET = [
    name for name in ARRAYS if name not in ("run_end_encoded", "union", "interval", "decimal128 with zeros", "damaged text")
]
REFUSED_IN_PARQUET = {
    "bool8": "extension<arrow.bool8>, not text",
    "infinite": "inf, not text",
    "decimal32": "decimal32(5, 2), not text",
    "decimal64": "decimal64(5, 2), not text",
    "timestamp too late": "timestamp[ms], not text",
    "timestamp of an unknown zone": "timestamp[ms, tz=Mars/Base], not text",
    "uuid": "extension<arrow.uuid>, not text",
    "json object": "nested; text or a list of texts is expected",
    "binary": "bytes, not text",
    "large_binary": "bytes, not text",
    "binary_view": "bytes, not text",
    "fixed_size_binary": "bytes, not text",
    "duration": "duration[s], not text",
    "struct": "nested; text or a list of texts is expected",
    "map": "map<string, int32",
    "map of numbers": "map<int32, int32",
    "list of lists": "nested; text or a list of texts is expected",
    "list of durations": "duration[s], not text",
    "opaque": "extension<arrow.opaque[",
    "tensor": "extension<arrow.fixed_shape_tensor[",
}
"""What the error calls the answer; some types that a cell can have are refused as `datasets` does not hold them."""


def test_every_type_in_a_parquet_file(tmp_path):
    """One column for each: `datasets`, which reads the file, cannot hold some of them."""
    columns = {name: ARRAYS[name][0] for name in IN_PARQUET}
    parquet.write_table(pa.table({"question": ["Which?"], "image": [png()], **columns}), tmp_path / "t.parquet")
    read, refused = {}, {}
    for name in IN_PARQUET:
        try:
            read[name] = read_examples(str(tmp_path / "t.parquet"), columns=f"answer={name}")["0"].answer
        except DataError as error:
            refused[name] = str(error).partition("row 0: the answer is ")[2]
    assert read == {name: ARRAYS[name][1] for name in IN_PARQUET if name not in REFUSED_IN_PARQUET}
    assert refused.keys() == REFUSED_IN_PARQUET.keys()
    for name, said in refused.items():
        assert said.startswith(REFUSED_IN_PARQUET[name]) and said.endswith(f" (column {name!r})"), said


def test_the_names_of_classes_are_what_a_person_reads(tmp_path):
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "image": datasets.Image(),
            "answer": datasets.ClassLabel(names=["cat", "dog"]),
            "aliases": datasets.List(datasets.ClassLabel(names=["kitten", "puppy"])),
        }
    )
    image = {"bytes": png(), "path": None}
    rows = {"question": ["?", "?"], "image": [image] * 2, "answer": [1, -1], "aliases": [[1], []]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "rows")
    table = read_examples(str(tmp_path / "rows"))
    assert (table["0"].answer, table["0"].aliases) == ("dog", ("puppy",))
    with pytest.raises(DataError, match="row 1: no answer in column answer"):
        table["1"]


KINDS = st.sampled_from(
    [
        pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(),
        pa.string_view(), pa.binary(), pa.binary_view(), pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("ns"),
        pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Asia/Tokyo"), pa.duration("ms"), pa.decimal128(9, 3),
    ]
)  # fmt: skip
NESTED = st.recursive(
    KINDS,
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(pa.list_view),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.struct([("bytes", kind), ("path", pa.string())])),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=3,
)


def values(kind: pa.DataType) -> st.SearchStrategy:
    types = pa.types
    if types.is_struct(kind):
        return st.fixed_dictionaries({kind.field(i).name: values(kind.field(i).type) for i in range(kind.num_fields)})
    if types.is_map(kind):
        return st.lists(st.tuples(st.text(max_size=2), values(kind.item_type)), max_size=2)
    if types.is_fixed_size_list(kind):
        return st.lists(values(kind.value_type), min_size=2, max_size=2)
    if hasattr(kind, "value_type"):
        return st.lists(values(kind.value_type), max_size=2)
    if types.is_null(kind):
        return st.none()
    if types.is_boolean(kind):
        return st.booleans()
    if types.is_floating(kind):
        return st.floats(width=kind.bit_width)
    if types.is_decimal(kind):
        return st.decimals(-99999, 99999, places=3)
    if types.is_integer(kind):
        bits = kind.bit_width
        return (
            st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if types.is_signed_integer(kind) else st.integers(0, 2**bits - 1)
        )
    if types.is_date(kind):
        return st.dates()
    if types.is_time(kind):
        return st.integers(0, 86_399_999)
    if types.is_timestamp(kind) or types.is_duration(kind):
        return st.integers(-(2**62), 2**62)
    if str(kind).startswith(("string", "large_string")):
        return st.text(max_size=6)
    return st.binary(max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), kind=NESTED, column=st.sampled_from(COLUMNS))
def test_what_is_in_a_cell_is_used_whole_or_refused(data, kind, column):
    value = data.draw(st.none() | values(kind))
    array = pa.array([value], kind)
    read = cell(array[0])
    good = {"question": "Which?", "image": b"x", "answer": "red"}
    try:
        example = ExampleTable("t", Rows(good | {column: read}), Path(__file__).parent)["0"]
    except DataError as error:
        assert str(error).startswith("t, row 0: ") and "\n" not in str(error).replace(repr(value), "")
        return
    for text in (example.answer, *example.aliases, example.family or "", *(text for _, text in example.earlier)):
        assert type(text) is str
        assert not text.startswith(("b'", "datetime", "Decimal", "{'", "[", "<", "nan", "inf", "None")) or text in strings(value)
    json.dumps(dict(example.metadata), allow_nan=False)


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for each in value for text in strings(each)] if isinstance(value, (list, tuple)) else []


# ------------------------------------------------------------------------------------------------ JSON lines and CSV


def example(folder, name: str, content: bytes | str, **options):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_examples(str(folder / name), **options)["0"]


@pytest.mark.parametrize(
    "written, text",
    [
        ("1.10", "1.10"),
        ("1e5", "1e5"),
        ("1E-7", "1E-7"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("0.1000000000000000055", "0.1000000000000000055"),
        ("true", "true"),
        ("false", "false"),
        ('"007"', "007"),
        ('"None"', "None"),
        ("[1.50, 2]", "1.50"),
    ],
)
def test_numbers_of_json_keep_the_form_they_were_written_in(tmp_path, written, text):
    assert example(tmp_path, "t.jsonl", f'{{"question": "q", "image": "a", "answer": {written}}}').answer == text


@pytest.mark.parametrize(
    "written, complaint",
    [
        ('"answer": NaN', "no answer in column answer"),
        ('"answer": [null, ""]', "no answer in column answer"),
        ('"answer": Infinity', r"the answer is Infinity, not text \(column 'answer'\)"),
        ('"answer": "a", "answer": "b"', "says 'answer' twice"),
        ('"answer": "a", "aliases": {"b": 1}', r"the alias is nested; .* \(column 'aliases'\)"),
        ('"answer": "a", "info": {"use_tool": "true"}', r"the need is text, not true or false \(column 'info.use_tool'\)"),
        ('"answer": "a", "data_source": ["b"]', r"the family is a list, not text \(column 'data_source'\)"),
    ],
)
def test_json_that_is_refused(tmp_path, written, complaint):
    other = '{"question": "q", "image": "a", "answer": "b"}'
    with pytest.raises(DataError, match=rf"t\.jsonl, line 1: {complaint}"):
        example(tmp_path, "t.jsonl", f'{{"question": "q", "image": "a", {written}}}\n{other}')


def test_one_alias_as_text_is_an_alias(tmp_path):
    row = {"question": "q", "image": "a", "answer": ["red", None], "aliases": "crimson"}
    read = example(tmp_path, "t.jsonl", json.dumps(row))
    assert (read.answer, read.aliases) == ("red", ("crimson",))


HEADER, ROW = "question,image,answer\n", '"How many, then?",a.png,007\n'


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROW,
        ("﻿" + HEADER + ROW).encode(),
        (HEADER + ROW).encode("utf-16"),
        (HEADER + ROW).encode("utf-16-be"),
        b"\xfe\xff" + (HEADER + ROW).encode("utf-16-be"),
        (HEADER + ROW).encode("utf-32"),
        'question, image, answer\n"How many, then?", a.png, 007\n',
        "question ; image ; answer\nHow many, then? ; a.png ; 007\n",
        "question;image;answer\nHow many, then?;a.png;007\n",
        "question\timage\tanswer\r\nHow many, then?\ta.png\t007\r\n",
        "question|image|answer\rHow many, then?|a.png|007\r",
        "sep=;\nquestion;image;answer\nHow many, then?;a.png;007\n",
    ],
)
def test_files_of_values_as_programs_write_them(tmp_path, content):
    read = example(tmp_path, "t.csv", content)
    assert (read.question, read.answer, read.image) == ("How many, then?", "007", tmp_path / "a.png")


@pytest.mark.parametrize("text", ["NA", "None", "null", "nan", "1.10", "3,5", "TRUE", "1e5", "2024-03-05"])
def test_a_file_without_types_holds_text(tmp_path, text):
    assert example(tmp_path, "t.csv", f"question;image;answer\nq;a.png;{text}\n").answer == text


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("t.jsonl", '{"question": "q"}\n'.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("t.jsonl", '{"question": "q"}\n'.encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        ("t.csv", "question,image,réponse\n".encode("cp1252"), "is not UTF-8 text; save it as UTF-8"),
        ("t.csv", HEADER.encode("utf-16") + b"\0", "is damaged UTF-16 text"),
        ("t.csv", "answer, answer ,image\n1,2,3\n", "two columns have the same name: 'answer'"),
        ("t.csv", 'question,"image" ,answer\n1,2,3\n', "the header cannot be read: a quote is not closed, or text stands behind"),
        ("t.csv", "question,image,label \n1,2,3\n", "no column answer or original_answer or solution; it has .*, 'label'"),
        ("t.jsonl", '{"question": "q", " image": "a", "answer": 1}', "no column image .*; it has 'question', ' image', 'answer'"),
    ],
)
def test_files_that_are_refused_say_why(tmp_path, name, content, complaint):
    with pytest.raises(DataError, match=complaint):
        example(tmp_path, name, content)


def test_text_of_another_encoding_costs_its_row(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv, line 2: not UTF-8 text"):
        example(tmp_path, "t.csv", HEADER.encode() + "q,a.png,café\n".encode("cp1252"))


def test_two_columns_of_one_name_in_a_parquet_file(tmp_path):
    names = ["question", "image", "answer", "answer"]
    parquet.write_table(pa.Table.from_arrays([of(["x"], pa.string())] * 4, names=names), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: two columns have the same name: 'answer'"):
        read_examples(str(tmp_path / "t.parquet"))


# ------------------------------------------------------------------------------------------------ images as text

CODE = base64.b64encode(png()).decode()


@pytest.mark.parametrize(
    "written",
    [
        CODE,
        CODE.rstrip("="),
        "\n".join(CODE[i : i + 76] for i in range(0, len(CODE), 76)),
        base64.urlsafe_b64encode(png()).decode(),
        f"data:image/png;base64,{CODE}",
        f"data:;base64,{CODE}",
        {"bytes": CODE, "path": None},
    ],
)
def test_an_image_written_as_base64(tmp_path, written):
    row = {"question": "q", "image": written, "answer": "2"}
    assert example(tmp_path, "t.jsonl", json.dumps(row)).image == png()


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_other_formats_in_base64(tmp_path, kind):
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, kind)
    row = {"question": "q", "image": base64.b64encode(buffer.getvalue()).decode(), "answer": "2"}
    assert example(tmp_path, "t.jsonl", json.dumps(row)).image == buffer.getvalue()


@pytest.mark.parametrize(
    "written, complaint",
    [
        ("data:image/svg+xml,<svg/>", "the image is a data URL, but not one in base64"),
        ("data:image/png;base64,@@@@", "the image is a data URL, but not one in base64"),
        ("https://example.com/a.png", "the image is an address; .*: 'https://example.com/a.png'"),
        ("x" * 400, "the image's path cannot be used, and it is no image in base64"),
        ({"url": "a.png"}, "the image has 'url'; bytes or a path are expected"),
        ({"bytes": None, "path": None}, "the image is null, not a file"),
    ],
)
def test_images_that_are_refused(tmp_path, written, complaint):
    with pytest.raises(DataError, match=rf"t\.jsonl, line 1: {complaint}.* \(column 'image'\)"):
        example(tmp_path, "t.jsonl", json.dumps({"question": "q", "image": written, "answer": "2"}))


def test_a_long_name_of_base64_letters_is_still_a_path(tmp_path):
    name = "deadbeef" * 8
    assert example(tmp_path, "t.jsonl", json.dumps({"question": "q", "image": name, "answer": 1})).image == tmp_path / name


def test_kinds_are_named():
    assert [kind_of(v) for v in (read_json("1.5"), None, b"", [], Refused("x"))] == ["a number", "null", "bytes", "a list", "x"]
    words = ["text", "a whole number", "a number", "true or false", "an object", "nan", "inf"]
    assert [kind_of(v) for v in ("a", 1, 1.5, True, {}, float("nan"), float("inf"))] == words
