"""Expressions, through `math-verify`. Its time limits need the main thread, so what costs too much is not given to it."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any

from visionthink.rewards.rules.finding import Finding, Pair

_MARKS = re.compile(
    r"\\(?:d?frac|sqrt|pi|cdot|times|pm|infty|theta|alpha|le|ge|left|log|ln|sin|cos|tan)|[√π∞≤≥^=<>]|\)\s*\(|[\[(][^()\[\]]*,[^()\[\]]*[\])]|\d[a-z]\b|\|"
)
_WORDS = re.compile(r"[^\W\d_]{4,}")
_COSTLY = re.compile(
    r"\^\s*[({]?[^)}\s]*\^|\^\s*[({]?\s*-?\d{4,}|\d{16,}|!|\\(?:int|sum|prod|lim|binom)|[)\]}]\s*\^\s*[({]?\s*(?:\d{2,}|[a-z])|"
    r"\^\s*[({][^)}]*[*·×]|\\(?:sin|cos|tan)[^+\-]*\^"
)
"""Towers of powers, sums and the like: what is cheap to write and not to compute."""
_SIGNS = {
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "−": "-",
    "°": r"^\circ ",
}
LONGEST = 120


def _latex(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    text = re.sub(r"^\$+|\$+$|^\\[(\[]|\\[)\]]$", "", text).strip()
    text = re.sub(r"√\s*\(([^()]*)\)|√\s*(\w+)", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    for sign, latex in _SIGNS.items():
        text = text.replace(sign, latex)
    text = re.sub(r"(?<![\d.])(\d+) (\d+)/(\d+)", r"(\1+\2/\3)", text)
    return re.sub(r"\bsqrt\(([^()]*)\)", r"\\sqrt{\1}", text).replace("**", "^")


@functools.cache
def _tools() -> tuple[Any, Any]:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify.parse, math_verify.verify


def _readable(text: str) -> bool:
    bare = re.sub(r"\\[a-zA-Z]+", "", text)
    return 0 < len(text) <= LONGEST and not _COSTLY.search(text) and not _WORDS.search(bare)


_UNIT = re.compile(r"(?:\\(?:text|mathrm)\s*\{[^}]*\}|(?<=[\s\d}π)])[a-zA-Z]{2,3})(?:\^?\{?[²³23]\}?)?\s*$")
_CLAIM = re.compile(r"\d\s*=|^\s*(?:[<>≤≥]|\\[lg]e)")
_PLAIN = re.compile(
    r"(?:\\(?:[dt]?frac|sqrt|pi|cdot|infty|left|right|[lg]eq?)|[\d.,+*/^(){}\[\]$=<>≤≥π√-]|(?<!\d)[a-hj-z](?![a-z])|\d[xyzn](?![a-z]))+"
)
"""Forms whose inequality can be relied on: no functions, no degrees, no imaginary unit."""


def _suffix(text: str) -> str:
    found = _UNIT.search(text.strip().rstrip("$. "))
    return re.sub(r"[\s{}\\]|text|mathrm", "", found[0]) if found else ""


_PRODUCT = re.compile(r"(\d+)\s*(?:x|×|\\times|by)\s*(\d+)")


def same_maths(pair: Pair) -> Finding | None:
    """Applies where either side has mathematical marks and both have no words. Equal values or forms are the same; only numbers
    that differ by more than 1 % are different."""
    if not (_MARKS.search(pair.said) or _MARKS.search(pair.wanted)) or not (_readable(pair.said) and _readable(pair.wanted)):
        return None
    products = [_PRODUCT.fullmatch(t.strip().strip("$ ")) for t in (pair.said, pair.wanted)]
    if any(products):  # of a size, 3 x 4 is neither 4 x 3 nor 12
        return "same" if all(products) and products[0].groups() == products[1].groups() else "unsure"  # type: ignore[union-attr]
    if _suffix(pair.said) != _suffix(pair.wanted) or any(_CLAIM.search(t) for t in (pair.said, pair.wanted)):
        return "unsure"  # cm² and cm³ would be dropped, and 2+2=5 read as 5
    parse, verify = _tools()
    try:
        said, wanted = (parse(f"${_latex(t)}$", parsing_timeout=None, raise_on_error=True) for t in (pair.said, pair.wanted))
        if not said or not wanted or isinstance(said[0], str) or isinstance(wanted[0], str):
            return None
        if verify(wanted, said, timeout_seconds=None, raise_on_error=True):
            return "same"
        plain = all(_PLAIN.fullmatch(re.sub(r"\s", "", t)) for t in (pair.said, pair.wanted))
        return "different" if plain and _differ(said[0], wanted[0]) else "unsure"
    except Exception:  # a parser of free text raises nearly anything; what it cannot read is not decided
        return None


def _differ(said: Any, wanted: Any) -> bool:
    """Whether two parsed answers of one kind differ for certain: numbers by more than 1 %, expressions and equations at a few
    points, inequalities at one, intervals and tuples as such."""
    import sympy

    said, wanted = _bare(said, wanted), _bare(wanted, said)
    kinds = (sympy.Expr, sympy.Eq, sympy.core.relational.Relational, sympy.Interval, sympy.Tuple)
    kind = next((k for k in kinds if isinstance(said, k) and isinstance(wanted, k)), None)
    if kind is sympy.Interval:
        return bool(said != wanted)
    if kind is sympy.Tuple:
        return len(said) != len(wanted) or any(_differ(a, b) for a, b in zip(said, wanted, strict=True))
    if kind is None:
        return False
    symbols = sorted(said.free_symbols | wanted.free_symbols, key=str)
    if kind is sympy.Expr:
        return any(_far(said.subs(point), wanted.subs(point)) for point in _points(symbols))
    if kind is sympy.Eq:  # the same where the sides' differences are proportional
        a, b = said.lhs - said.rhs, wanted.lhs - wanted.rhs
        ratios = [complex((a / b).subs(point)) for point in _points(symbols) if b.subs(point) != 0]
        return any(abs(r - ratios[0]) > 1e-6 * max(1, abs(ratios[0])) for r in ratios)
    return any(bool(said.subs(point)) != bool(wanted.subs(point)) for point in _points(symbols, range(-20, 21)))


def _bare(value: Any, other: Any) -> Any:
    """The right side of `x = ...`, where the other answer leaves `x =` out."""
    import sympy

    named = isinstance(value, sympy.Eq) and value.lhs.is_Symbol and not isinstance(other, sympy.core.relational.Relational)
    return value.rhs if named else value


def _points(symbols: list[Any], values: Sequence[int] = (2, 3, 5, 7)) -> list[dict[Any, int]]:
    """Values for the symbols: others for each, but the same where there is one symbol only."""
    return [{s: v + 11 * i for i, s in enumerate(symbols)} for v in values] if symbols else [{}]


def _far(a: Any, b: Any) -> bool:
    a, b = complex(a), complex(b)
    return abs(a - b) > 0.01 * max(abs(a), abs(b))
