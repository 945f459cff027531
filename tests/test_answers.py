"""Lines of saved answers: judged as they stand, or unscored with the reason; a reference that is missing is none."""

from __future__ import annotations

import json

import pytest
from episodes import record as transcript
from episodes import turn
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import copied_at, places

from visionthink.cells import text_of
from visionthink.errors import DataError
from visionthink.evals.answers import read_answers
from visionthink.evals.printed import read_printed
from visionthink.evals.scoring import score
from visionthink.rewards.judge import NO_REFERENCE, Answer, Verdict
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.transcript import Transcript


def content(folder, record: object):
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    (folder / "rows.jsonl").write_bytes(line + b"\n")
    [answer] = read_answers(folder / "rows.jsonl")
    return answer.content


MISSING = [None, "", "  ", "None", "nan", "NaT", "<NA>", "[]", "['None']", "[None]", "[None, None]", "[nan]", "['', '']", "()"]
MISSING += ["('None',)", [], [None], [""], [None, ""]]


@pytest.mark.parametrize("target", MISSING)
def test_a_reference_that_is_missing_in_a_log_of_lmms_eval(tmp_path, target):
    record = {"doc_id": 0, "input": "Who signed?", "target": target, "filtered_resps": "A. Muster"}
    assert content(tmp_path, record) == Verdict("unscored", "input", NO_REFERENCE)


@pytest.mark.parametrize(
    "target, references",
    [
        ("['4711']", ("4711",)),
        ("none", ("none",)),
        ("['none', 'None']", ("none", "None")),
        ("[None, '4711']", ("4711",)),
        ("[0, 1]", ("[0, 1]",)),
        ("(A)", ("(A)",)),
        ("null", ("null",)),
        ("NA", ("NA",)),
        ("Nancy", ("Nancy",)),
        (["a", None], ("a",)),
        (1.5, ("1.5",)),
        (True, ("true",)),
    ],
)
def test_references_that_are_there(tmp_path, target, references):
    record = {"doc_id": 0, "input": "Who?", "target": target, "filtered_resps": "x"}
    assert content(tmp_path, record) == Answer("Who?", "x", references)


def test_a_reference_of_another_kind_in_a_log(tmp_path):
    record = {"doc_id": 0, "target": "{'text': 'a'}", "filtered_resps": "x"}
    assert content(tmp_path, record) == Verdict("unscored", "input", "line 1: target is a mapping, not text")


def test_a_log_of_a_split_without_answers(tmp_path):
    """The case `lmms-target-none`."""
    rows = [("None", "4711"), ("['None']", "A. Muster"), ("['4711']", "4711"), ("none", "None")]
    lines = [{"doc_id": i, "input": "Q?", "target": t, "filtered_resps": r} for i, (t, r) in enumerate(rows)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for closed in (False, True):
        summary = score(read_answers(tmp_path / "s.jsonl"), RulesJudge(closed=closed))
        assert (summary["correct"], summary["wrong"], summary["unscored_reasons"]) == (2, 0, {NO_REFERENCE: 2})


def unscored(reason: str) -> Verdict:
    return Verdict("unscored", "input", reason)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"ground_truth": None}, unscored(NO_REFERENCE)),
        ({"ground_truth": []}, unscored(NO_REFERENCE)),
        ({"ground_truth": "None"}, Answer("Q?", "a", ("None",))),
        ({"ground_truth": {"a": 1}}, unscored("line 1: ground_truth is an object, not text; text or a list")),
        ({"prediction": ["a"]}, unscored("line 1: prediction is a list, not text")),
        ({"prediction": False}, Answer("Q?", "false", ("b",))),
        (b'{"question": "Q?", "prediction": 1.10, "ground_truth": 1e-20}', Answer("Q?", "1.10", ("1e-20",))),
        (
            b'{"question": "Q?", "prediction": 1, "prediction": 2}',
            unscored("line 1: says 'prediction' twice"),
        ),
        (b'{"question": "Q?", "prediction": NaN, "ground_truth": 1}', unscored("line 1: prediction is null")),
        (
            b'{"question": "Q?", "prediction": 1, "ground_truth": Infinity}',
            unscored("line 1: ground_truth is I"),
        ),
    ],
)
def test_plain_rows(tmp_path, changes, expected):
    record = changes if isinstance(changes, bytes) else {"question": "Q?", "prediction": "a", "ground_truth": "b"} | changes
    found = content(tmp_path, record)
    if isinstance(expected, Verdict) and isinstance(found, Verdict):
        assert found.reason.startswith(expected.reason)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"aliases": "red"}, "aliases: 'red' is not a list"),
        ({"aliases": ["red", 7]}, "aliases[1]: 7 is not text"),
        ({"answer": 7}, "answer: 7 is not text"),
        ({"answer": None}, "ended as answered, without an answer"),
        ({"reference": ["red"]}, "reference: ['red'] is not text"),
        ({"question": None}, "question: None is not text"),
        (
            {"stop_reason": "won"},
            "stop_reason: 'won' is not one of answered, answered_after_request, asked_on_last_level, over_limit, malformed_call, "
            "empty, length, refused, policy_error",
        ),
        ({"turns": 7}, "turns: 7 is not a list"),
        ({"sizes": [[float("inf"), 1]]}, "sizes[0][0]: inf is not a whole number"),
    ],
)
def test_transcripts_that_are_damaged(tmp_path, changes, reason):
    record = transcript("a", turn(0.25, 4), answer="red", reference="red").to_dict() | changes
    assert content(tmp_path, record) == Verdict("unscored", "input", f"line 1: {reason}")


def test_a_file_that_is_not_utf_8(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes('{"question": "Q?"}\n'.encode("utf-16"))
    with pytest.raises(DataError, match=r"rows\.jsonl: is UTF-16 text; save it as UTF-8"):
        list(read_answers(tmp_path / "rows.jsonl"))


RECORDS = [
    transcript("a", turn(0.25, 4), answer="red", reference="red").to_dict() | {"verdict": "correct"},
    {"doc_id": 1, "input": "How many?", "target": "['2', 'two']", "filtered_resps": ["2"], "doc": {"question": "How many?"}},
    {"question": "How many?", "ground_truth": ["2", "two"], "prediction": "2", "id": "a"},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["None", "['a']", "[nan]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), which=st.integers(0, 2))
def test_a_line_is_judged_as_it_stands_or_unscored_by_its_number(data, which, tmp_path_factory):
    record, parent, last = copied_at(RECORDS[which], data.draw(st.sampled_from(places(RECORDS[which]))))
    if data.draw(st.booleans()):
        parent[last] = data.draw(JSON)
    else:
        del parent[last]
    line = json.dumps(record).encode()
    if data.draw(st.booleans()):
        cut, byte = data.draw(st.integers(0, len(line))), data.draw(st.binary(max_size=2)).replace(b"\n", b"")
        line = line[:cut] + byte + line[cut + data.draw(st.integers(0, 2)) :]
    folder = tmp_path_factory.mktemp("lines", numbered=True)
    good = json.dumps(RECORDS[2]).encode()
    (folder / "rows.jsonl").write_bytes(good + b"\n" + (line if line.strip() else b"x") + b"\n" + good + b"\n")
    before, answer, after = read_answers(folder / "rows.jsonl")
    assert (before.line, answer.line, after.line) == (1, 2, 3) and before.content == after.content
    found = answer.content
    assert isinstance(found, (Answer, Transcript)) or found.reason == NO_REFERENCE or found.reason.startswith("line 2: ")
    if isinstance(found, Verdict):
        assert (found.verdict, "\n" in found.reason) == ("unscored", False)
    if isinstance(found, Answer):
        assert found.references and all(type(text) is str for text in (found.question, found.prediction, *found.references))
    assert score([before, answer, after], RulesJudge())["n"] == 3


PRINTED = {
    "['7' '8']": "a list without commas between its values, as numpy writes it",
    "['cat' 'dog', 'cow']": "a list without commas between its values, as numpy writes it",
    "[7 8]": "a list without commas between its values, as numpy writes it",
    "[None None]": "a list without commas between its values, as numpy writes it",
    "b'cat'": "bytes as Python writes them, not text",
    "tensor(3)": "written as Python writes tensor(...), not text",
    "Decimal('1.10')": "written as Python writes Decimal(...), not text",
    "array([], dtype=object)": "written as Python writes array(...), not text",
    "set()": "written as Python writes set(...), not text",
    "[np.int64(3)]": "a list with objects of Python, not of texts",
    "<PIL.Image.Image image mode=RGB size=5x5 at 0x7F>": "an object of Python, not text",
    "[['7', '8'], ['9']]": "a list of lists, not of texts",
    "{'7', '8'}": "a set, not text",
    "['7'": "a list whose end is missing",
    "['7', ...]": "a list that cannot be read",
}


@pytest.mark.parametrize("target", PRINTED)
def test_a_target_that_is_the_text_of_something_else_is_unscored(tmp_path, target):
    record = {"doc_id": 0, "input": "Q?", "target": target, "filtered_resps": "78"}
    assert content(tmp_path, record) == Verdict("unscored", "input", f"line 1: target is {PRINTED[target]}")


@pytest.mark.parametrize(
    "target, references",
    [
        ("('7',)", ("7",)),
        ("[7.10]", ("7.10",)),
        ("[7]", ("7",)),
        ('["it\'s", null]', ("it's",)),
        ("['it\\'s',\n 'caf\\xe9']", ("it's", "café")),
        ('["\\ud83d\\ude00"]', ("😀",)),
        ("[3, 4)", ("[3, 4)",)),
        ("(3, 4)", ("(3, 4)",)),
        ("[x, y]", ("[x, y]",)),
        ("[[1, 2], [3, 4]]", ("[[1, 2], [3, 4]]",)),
        ("{1, 2}", ("{1, 2}",)),
        ("f(x)", ("f(x)",)),
        ("[sin(0), 1]", ("[sin(0), 1]",)),
        ("'cat'", ("'cat'",)),
    ],
)
def test_targets_that_are_lists_and_texts_that_only_look_like_them(tmp_path, target, references):
    record = {"doc_id": 0, "input": "Q?", "target": target, "filtered_resps": "x"}
    assert content(tmp_path, record) == Answer("Q?", "x", references)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.none() | st.text(max_size=8) | st.integers(), min_size=1, max_size=4))
def test_what_python_and_json_write_of_a_list_is_read_back(values):
    def texts(items) -> list[str | None]:
        return [None if item is None else text_of(item) for item in items]

    for written in (str(values), json.dumps(values), json.dumps(values, ensure_ascii=False)):
        assert texts(read_printed(written)) == texts(values)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("[](){}'\"\\, ab1.:<N"), max_size=12))
def test_no_text_is_changed_or_breaks_the_reader(text):
    try:
        read = read_printed(text)
    except DataError:
        return
    assert read is None or read == text or isinstance(read, list)
