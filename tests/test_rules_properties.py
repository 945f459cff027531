"""The border of the rules judge: whatever two texts are, a verdict uses the whole of them, or there is none."""

from __future__ import annotations

import re
import time

import pytest
from babel.numbers import format_decimal
from hypothesis import given, settings
from hypothesis import strategies as st

from visionthink.rewards.judge import Answer
from visionthink.rewards.rules.judge import RulesJudge

COMMON = {"deadline": None, "derandomize": True}
LOCALES = ("en", "de", "fr", "de_CH", "en_IN", "sv", "pt_BR", "it")
PIECES = (
    "5|-3|0.5|1,234|1.234|3,5|10^-20|1e400|½|٣|三|50%|$5|€|12 cm|cm|°C|kg/m^3|A|(B)|Ｃ|①|yes|no|not|or|2020-03-05|03/04/2020|"
    "3:30 pm|March|\\frac{1}{2}|\\sqrt{2}|x = 3|$|{|}|[1, 2)|and|,|;|\n|答案是|红|。|**|\\boxed{|i cannot|Score: 1|nan|inf|None|"
    "\x00|\u202e|🙂"
).split("|")
QUESTIONS = (
    "",
    "How many cars?",
    "Which? A. 5 B. 12 cm C. x",
    "图中？（A）红（B）蓝",
    "What is the change in °C?",
    "Wie viele sind es?",
)
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join))


def verdict(prediction: str, reference: str, question: str = "", closed: bool = False) -> str:
    return RulesJudge(closed=closed).compare([Answer(question, prediction, (reference,))])[0].verdict


@settings(max_examples=200, **COMMON)
@given(texts, texts, st.sampled_from(QUESTIONS), st.booleans())
def test_any_two_texts_have_a_verdict(prediction, reference, question, closed):
    assert verdict(prediction, reference, question, closed) in ("correct", "wrong", "unscored")


@settings(max_examples=150, **COMMON)
@given(texts)
def test_a_text_is_not_wrong_against_itself(text):
    assert verdict(text, text) != "wrong" or not re.search(r"\w", text)


@settings(max_examples=150, **COMMON)
@given(st.decimals(min_value=-(10**9), max_value=10**9, places=2), st.sampled_from(LOCALES), st.sampled_from(LOCALES))
def test_a_number_of_one_language_is_not_wrong_in_another(number, one, other):
    a, b = (format_decimal(number, locale=locale) for locale in (one, other))
    assert verdict(a, b) != "wrong"


@settings(max_examples=150, **COMMON)
@given(
    st.sampled_from(
        ("12 cm", "5", "50%", "$5", "1/2", "\\frac{3}{4}", "2020-03-05", "3:30 pm", "x^2+1", "[1, 2]", "3, 4", "yes", "B")
    ),
    st.sampled_from(
        (" per second", " zorp", "^2", " + 1", " = 7", " or 6", " not", "!?", " -", " million", "x", " 7", ", 9", " BC", "°")
    ),
)
def test_a_tail_that_is_not_understood_is_not_dropped(answer, tail):
    assert verdict(answer + tail, answer) != "correct"


@settings(max_examples=150, **COMMON)
@given(st.integers(-400, 400), st.integers(-400, 400), st.sampled_from(("1e{}", "10^{{{}}}", "1 \\times 10^{{{}}}", "1·10^{}")))
def test_powers_of_ten_are_compared_exactly(power, other, form):
    found = verdict(form.format(power), f"1e{other}")
    scale = abs(power - other) in (3, 6, 9)  # "in thousands" may be left out
    assert found == ("correct" if power == other else "unscored" if scale else "wrong")


@pytest.mark.parametrize(
    "prediction, reference, question",
    [
        ("İ", "B", "Which? A. red B. blue"),
        ("1 km^1500", "1 m^1500", ""),
        ("1 km^99999999", "1 m^99999999", ""),
        ("5 m^9^9^9", "5 m", ""),
        ("√2 = 1.41421356237309504880168872420969807!", "√2", ""),
        ("99999999999999999999999999999999 / 日", "5", ""),
        ("|x|" * 40, "x", ""),
        ("\\sqrt{x+\\sqrt{x+\\sqrt{x+1}}}=1", "\\sqrt{x+\\sqrt{x+\\sqrt{x}}}=1", ""),
        ("\\sin(" * 12 + "x" + ")" * 12, "x", ""),
        (", ".join(f"\\frac{{1}}{{{n}}}" for n in range(2, 22)), ", ".join(f"x^{n}" for n in range(2, 22)), ""),
        ("*a " * 20000, "5 km", ""),
        ("「" * 8000, "5 km", ""),
        ("ﷺ" * 20000, "5 km", ""),
        ("red", "blue", "①" * 4000),
        ("6", "5 km", "in km " * 20000),
        ("10^{10^{10}}", "5", ""),
        ("9" * 100_000, "5", ""),
    ],
)
def test_no_text_costs_much(prediction, reference, question):
    verdict("5 cm", "5 m")  # libraries are loaded once
    verdict("x^2", "x^3")
    started = time.process_time()
    for closed in (False, True):
        assert verdict(prediction, reference, question, closed) != "correct"
    assert time.process_time() - started < 2
