"""Which values are taken for numbers."""

import math

import pytest

from genaf_hf.values.numbers import is_number


@pytest.mark.parametrize("value", [0, -3, 0.5, 2**63 - 1])
def test_finite_numbers_are(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, 2**63, math.nan, -math.inf, "1", None])
def test_what_has_no_finite_value_or_more_than_64_bits_is_none(value):
    assert not is_number(value)
