"""The scaling law of visual tokens, fitted to the table that arXiv 2411.03312 publishes."""

import numpy as np
import pytest

from visionthink.compress.scaling import fit_scaling
from visionthink.errors import DataError

SIZES = (0.5, 1.8, 4, 7)
"""Billions of parameters."""
TOKENS = np.array([1, 4, 16, 36, 64, 144, 576])
ACCURACY = np.array(
    [
        [0.3855, 0.3917, 0.4078, 0.4133, 0.4151, 0.4244, 0.4320],
        [0.4333, 0.4519, 0.4528, 0.4597, 0.4609, 0.4758, 0.4808],
        [0.4630, 0.4692, 0.4858, 0.4916, 0.5023, 0.5092, 0.5185],
        [0.4810, 0.4971, 0.5050, 0.5141, 0.5172, 0.5238, 0.5354],
    ]
)
"""Means over benchmarks of visual reasoning (the authors' code)."""
OCR = np.array(
    [
        [0.09786452795, 0.1182958067, 0.1550942008, 0.1910774145, 0.1941969882, 0.221068366, 0.2608343672],
        [0.1052476426, 0.1374539054, 0.1752941354, 0.2073164965, 0.2205697757, 0.2585236455, 0.3095503029],
        [0.1268003646, 0.155895545, 0.1927482015, 0.2320252514, 0.2603975472, 0.2882145317, 0.3460536811],
        [0.1390784633, 0.1642774799, 0.205, 0.2391638418, 0.2618315143, 0.2880269247, np.nan],
    ]
)
"""Of reading text. The last value, a copy of the one above, is left out."""


def test_the_published_table():
    law = fit_scaling(1 - ACCURACY, SIZES, TOKENS)
    assert round(law.product, 3) == 0.591
    assert round(law.alpha, 4) == 0.0709
    assert round(law.beta, 4) == 0.0151
    assert law.D == 0 and law.at_bound == ("D",)
    assert round(law.ratio, 1) == 4.7


def test_with_the_text_counted_the_ratio_is_less_than_half():
    visual, every = fit_scaling(1 - ACCURACY, SIZES, TOKENS), fit_scaling(1 - ACCURACY, SIZES, TOKENS + 50)
    assert round(every.ratio, 1) == 2.1
    assert round(every.squared_error / visual.squared_error, 1) == 4.4  # and fits worse


def test_reading_text_gains_more_from_tokens():
    law = fit_scaling(1 - OCR, SIZES, TOKENS)
    assert law.alpha < law.beta
    assert round(1 - float(law.predict(7, 576)), 3) == 0.321  # what the copied value hides


def test_a_law_is_found_again():
    sizes, tokens = np.array([1, 3, 9, 27]), np.array([1, 2, 4, 8, 16])
    errors = 0.4 * sizes[:, None] ** -0.2 * tokens**-0.1 + 0.05
    law = fit_scaling(errors, sizes, tokens)
    assert (law.product, law.alpha, law.beta, law.D) == pytest.approx((0.4, 0.2, 0.1, 0.05), abs=1e-3)
    assert law.at_bound == () and law.predict(3, 4) == pytest.approx(errors[1, 2], abs=1e-6)


@pytest.mark.parametrize(
    ("errors", "sizes", "tokens", "said"),
    [
        (np.ones((2, 3)), (1, 2), (1, 2), "are [2, 3]"),
        (np.full((2, 2), 0.5), (0, 2), (1, 2), "above 0"),
        (np.full((2, 2), 50.0), (1, 2), (1, 2), "at most 1"),
        (np.full((1, 5), 0.5), (1,), (1, 2, 3, 4, 5), "two N and two T"),
    ],
)
def test_tables_that_cannot_be(errors, sizes, tokens, said):
    with pytest.raises(DataError) as error:
        fit_scaling(errors, sizes, tokens)
    assert said in str(error.value)
