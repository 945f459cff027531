"""Expressions, read by math-verify's parser (latex2sympy2) and compared by SymPy, to 40 digits.

The parser raises where it does not understand a whole text; texts that it would read otherwise than people do are not given to
it. What costs too much is not either: there is no time limit outside the main thread.
"""

import functools
import re
from typing import Any

from visionthink.rewards.rules.quantity import read_quantity
from visionthink.rewards.rules.text import Finding, Pair, says
from visionthink.rewards.rules.word_lists import READ

_LONGEST = 120
_COMMANDS = "frac|sqrt|pi|cdot|times|pm|infty|theta|alpha|beta|lambda|phi|le|ge|leq|geq|log|ln|sin|cos|tan|cup|cap|in|begin|end"
_TOKENS = re.compile(
    rf"(?>\\(?:{_COMMANDS})(?![A-Za-z])|\\[{{}}\\]|\{{p?matrix\}}|\d++(?:\.\d++)?|\.\d++|[A-Za-z](?![A-Za-z])|[+\-*/^_()\[\]{{}}=<>,|&]|\s)++"
)
_SIGNS = {"×": "times", "·": "cdot", "π": "pi", "∞": "infty", "≤": "le", "≥": "ge", "±": "pm", "θ": "theta"}
_MARKS = re.compile(r"\\[a-z]|[\^√π∞≤≥<>]|\d\s*[a-z]\b|\)\s*\(|[a-z]\(|[\[(][^()\[\]]*,|\d\s*[+*/]\s*\w|\|")
"""One of these makes a text mathematical: 555-0134 and T O Z are not."""

_MISREAD = re.compile(
    r"^\d+(?:\s*[-/]\s*\d+)+$|\d\s+\.?\d|[A-Za-z]\s+[A-Za-z]\b|\d\.\d*\.\d|\d,\d{3}(?!\d)|,\s*$|^\s*,|\b[eE]\b|=.*=|\b[A-Z]\b\s*=|log(?!_)|"
    r"\d/\d+\s*[A-Za-z(\\]|\^\s*-?\d+\s*[/A-Za-z]|\^\s*[A-Za-z]\s*/|\\(?:sin|cos|tan)\s*\(?\s*\d"
)
"""What the parser reads otherwise: 3 4 as 7, spans as differences, thousands as lists, logarithms of an unknown base."""
_COSTLY = re.compile(
    r"\^\s*[({]?[^)}\s]*\^|\^\s*[({]?\s*-?\d{4,}|\d{40,}|[)\]}]\s*\^\s*[({]?\s*(?:\d{2,}|[a-z])|\^\s*[({][^)}]*[*·×]|"
    r"\\(?:sin|cos|tan)[^+\-]*\^|(?:\|[^|]*){5}|(?:\\(?:sin|cos|tan|ln|sqrt)[^\\]*){5}|(?:[(\[{][^(\[{]*){12}"
)
_PRODUCT = re.compile(r"\s*(\d+)\s*(?:x|×|\*|by)\s*(\d+)\s*")
_VALUE = re.compile(r"-?(?:[\d.]+%?|\d+/\d+|\d*\\frac\{\d+\}\{\d+\})")
_OPERATION = re.compile(r"\d\s*[-+*/×·^]\s*[\d(\\]|√|\\sqrt|\\(?:times|cdot)|[})]\s*[-+]")
_ASKS_FOR_A_FORM = re.compile(r"\b(?:simpl\w+|reduce|factor\w*|expand|express|rewrite|convert)\b", re.IGNORECASE)


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Any | None:
    """The whole text as SymPy has it, or None."""
    from latex2sympy2_extended import latex2sympy

    text = text.strip().rstrip(".").strip("$ ").replace("**", "^")
    text = re.sub(r"√\s*\(([^()]*)\)|√\s*(\w+)|\bsqrt\(([^()]*)\)", lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}", text)
    text = re.sub("|".join(_SIGNS), lambda m: rf"\{_SIGNS[m[0]]} ", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", re.sub(r"(?<![\d.}^])(\d+)\s+(\d+)\s*/\s*(\d+)", r"(\1+\2/\3)", text))
    if len(text) > _LONGEST or not _TOKENS.fullmatch(text) or _MISREAD.search(text) or _COSTLY.search(text):
        return None
    try:
        return latex2sympy(text)
    except Exception:  # a parser of free text raises nearly anything; what it cannot read is not decided
        return None


def same_maths(pair: Pair) -> Finding | None:
    """Applies where both whole texts are mathematical. Equal values or forms are the same, others different or not sure."""
    if any(products := [_PRODUCT.fullmatch(text) for text in pair.texts]):  # of a size, 3 x 4 is neither 4 x 3 nor 12
        return "same" if all(products) and products[0].groups() == products[1].groups() else "unsure"  # type: ignore[union-attr]
    if says(pair.question, READ):
        return None
    if not any(_MARKS.search(text) for text in pair.texts):
        return None
    if any(quantity.kind != "plain" for text in pair.texts if (quantity := read_quantity(text))):
        return None
    said, wanted = (_read(t) for t in pair.texts)
    if said is None or wanted is None:
        return None
    try:
        finding = _compare(said, wanted, rounded="." in pair.said + pair.wanted)
    except Exception:  # as above, of SymPy
        return None
    form = said.free_symbols and _ASKS_FOR_A_FORM.search(pair.question)
    to_be_worked_out = _VALUE.fullmatch(pair.wanted) and _OPERATION.search(pair.said) and not _VALUE.fullmatch(pair.said)
    return "unsure" if finding == "same" and (form or to_be_worked_out) else finding


def _compare(said: Any, wanted: Any, *, rounded: bool) -> Finding:
    """Exactly where both are rational, else at points; equations, sets, intervals and matrices by their parts."""
    import sympy

    if said == wanted:
        return "unsure" if isinstance(said, sympy.Eq) and not said.free_symbols else "same"  # 2+2=5 claims something
    parts = [
        v.args if isinstance(v, sympy.FiniteSet) else list(v) if isinstance(v, sympy.MatrixBase) else None for v in (said, wanted)
    ]
    if (
        parts[0] is not None
        and parts[1] is not None
        and len(parts[0]) == len(parts[1]) < 9
        and getattr(said, "shape", 0) == getattr(wanted, "shape", 0)
    ):
        pairs = [[_compare(a, b, rounded=rounded) for b in parts[1]] for a in parts[0]]
        matched = [row.index("same") for row in pairs if "same" in row]
        whole = list(range(len(pairs)))
        return "same" if (sorted(matched) if isinstance(said, sympy.FiniteSet) else matched) == whole else "unsure"
    if isinstance(said, sympy.Eq) and isinstance(wanted, sympy.Eq):
        said, wanted = said.lhs - said.rhs, wanted.lhs - wanted.rhs
        ratios = [sympy.N((said / wanted).subs(p), 40) for p in _points(said.free_symbols | wanted.free_symbols)]
        return "same" if all(abs(r - ratios[0]) < 1e-25 * abs(r) for r in ratios) else "unsure"
    if not (isinstance(said, sympy.Expr) and isinstance(wanted, sympy.Expr)) or said.free_symbols != wanted.free_symbols:
        return "unsure"
    if any(s.name in ("i", "E", "e", "C", "c", "K", "k") for s in said.free_symbols):
        return "unsure"  # the imaginary unit, a constant of integration
    if said.is_Rational and wanted.is_Rational:
        return "different"
    gaps = []
    for point in _points(said.free_symbols):
        a, b = (sympy.N(e.subs(point), 40) for e in (said, wanted))
        gaps.append(float(abs(a - b) / max(abs(a), abs(b))) if a != b else 0.0)
    if max(gaps) < 1e-25:
        return "same" if said.free_symbols or (max(abs(a), abs(b)) < 10**12 and (said - wanted).equals(0)) else "unsure"
    return "unsure" if gaps[0] < (0.05 if rounded else 1e-12) or said.has(sympy.pi) != wanted.has(sympy.pi) else "different"


def _points(symbols: Any) -> list[dict[Any, Any]]:
    """Values for the symbols, on both sides of 0 and of 1."""
    import sympy

    ordered = sorted(symbols, key=str)
    values = (sympy.Rational(1009, 997), sympy.Rational(-613, 457), sympy.Rational(211, 523), sympy.Rational(-97, 401))
    return [{s: v + sympy.Rational(i, 7) for i, s in enumerate(ordered)} for v in values] if ordered else [{}]
