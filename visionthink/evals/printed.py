"""Lists that were written as text, by Python's `str()` or as JSON, read back whole or refused.

Files without types (lmms-eval's logs, CSV copies of benchmarks) hold `str()` of a list: "['red', 'crimson']". What is written so
is read with the digits it has. What numpy writes (no commas), bytes, calls such as `Decimal('1.10')`, mappings and sets have no
such reading, and are refused instead of being taken for the text of an answer.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from visionthink.cells import Number, Refused
from visionthink.errors import DataError

NOTHING = ("", "None", "nan", "NaT", "<NA>")
"""What `str()` makes of a value that is missing, in Python and pandas."""

_WORDS: dict[str, Any] = {
    **dict.fromkeys((*NOTHING, "null", "NaN")),
    **dict.fromkeys(("True", "true"), True),
    **dict.fromkeys(("False", "false"), False),
    **{word: Refused(word) for word in ("inf", "-inf", "Infinity", "-Infinity")},
}
_OBJECT = (
    r"(?:(?:np|numpy|torch|pd|pandas|datetime|decimal|fractions|collections|uuid|pathlib)\.[\w.]+"
    r"|array|tensor|Decimal|Fraction|Timestamp|Timedelta|UUID|PosixPath|OrderedDict|defaultdict|Counter|deque"
    r"|set|frozenset|bytearray|range)\("
)
_TOKEN = re.compile(
    rf"""(?P<bytes>[bB](?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))
    |(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<word>(?:{"|".join(filter(None, _WORDS))})(?![\w]))
    |(?P<object>{_OBJECT}|<[\w.]+[ ][^>]*\b0x[0-9A-Fa-f]+>)
    |(?P<mark>[\[\](){{}},:])
    |(?P<space>\s+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def read_printed(text: str) -> Any:
    """The list that a text is the written form of, as cells; None for what stands for nothing; any other text as it is.

    A tuple is told from text in round brackets by the texts in it, or by a comma at its end: "(3, 4)" and "(A)" are text, and so
    are half-open intervals, words in brackets, matrices, and sets of numbers.

    Raises:
        DataError: it is the written form of something else; the message says of what.
    """
    stripped = text.strip()
    if stripped in NOTHING:
        return None
    if re.match(rf"{_OBJECT}.*\)$", stripped, re.DOTALL):
        raise DataError(f"written as Python writes {stripped.partition('(')[0]}(...), not text")
    tokens = [match for match in _TOKEN.finditer(stripped) if match.lastgroup != "space"]
    kinds = [str(match.lastgroup) for match in tokens]
    if len(tokens) == 1 and kinds[0] in ("bytes", "object"):
        raise DataError("bytes as Python writes them, not text" if kinds[0] == "bytes" else "an object of Python, not text")
    opening = stripped[0]
    if opening not in "[({":
        return text
    quoted = len(kinds) > 1 and kinds[1] in ("text", "bytes")
    if stripped[-1] != {"[": "]", "(": ")", "{": "}"}[opening]:
        if opening == "[" and quoted:
            raise DataError("a list whose end is missing")
        return text
    inner, kinds = tokens[1:-1], kinds[1:-1]
    if opening == "{":
        return _in_braces(text, inner, kinds)
    shape = "".join(match[0] if kind == "mark" else _LETTERS[kind] for match, kind in zip(inner, kinds, strict=True))
    if opening == "(" and not ((quoted and "," in shape) or re.fullmatch(r"n(,n)*,?|[vt],|", shape)):
        return text
    if "p" in shape:
        raise DataError("a list with objects of Python, not of texts")
    if re.fullmatch(r"([tvn](,[tvn])*,?)?", shape):
        return [_value(match) for match in inner if match.lastgroup != "mark"]
    if re.search("[tvn][tvn]", shape) and not re.search(r"[^tvn,]", shape):
        raise DataError("a list without commas between its values, as numpy writes it")
    if shape.startswith("[") and "t" in shape and not re.search(r"[^tvn,\[\]]", shape):  # of numbers alone it is a matrix
        raise DataError("a list of lists, not of texts")
    if quoted:
        raise DataError("a list that cannot be read")
    return text


_LETTERS = {"text": "t", "bytes": "t", "number": "v", "word": "n", "object": "p", "other": "o"}


def _in_braces(text: str, inner: list[re.Match[str]], kinds: list[str]) -> str:
    """Sets of mathematics are text."""
    if not inner or (len(inner) > 1 and kinds[0] != "other" and inner[1][0] == ":"):
        raise DataError("a mapping, not text")
    if kinds[0] in ("text", "bytes", "object"):
        raise DataError("a set, not text")
    return text


def _value(token: re.Match[str]) -> Any:
    written = token[0]
    if token.lastgroup == "bytes":
        return Refused("bytes")
    if token.lastgroup == "number":
        return Number(written)
    if token.lastgroup == "word":
        return _WORDS[written]
    if written.startswith('"'):
        try:
            return json.loads(written, strict=False)
        except ValueError:
            pass  # with escapes that are Python's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(written.replace("\n", "\\n").replace("\r", "\\r"))
        except (ValueError, SyntaxError):
            raise DataError(f"a list that holds {written[:40]}, which cannot be read") from None
