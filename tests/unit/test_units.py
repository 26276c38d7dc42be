"""Durations and quantities: one canonical spelling per value."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.units import canonical_duration, canonical_quantity, duration_seconds, quantity_value


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("90s", 90, "1m30s"),
        ("1m30s", 90, "1m30s"),
        ("1.5h", 5400, "1h30m"),
        ("500ms", 0.5, "500ms"),
        ("0s", 0, "0s"),
        ("3600s", 3600, "1h"),
    ],
)
def test_durations(text, seconds, canonical):
    assert duration_seconds(text) == seconds
    assert canonical_duration(text) == canonical


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "-1s", "1m 30s", "1,5s"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write it like 30s"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("1024Mi", 2**30, "1Gi"),
        ("0.5", Fraction(1, 2), "500m"),
        ("1000m", 1, "1"),
        (2, 2, "2"),
        ("1.5Gi", 3 * 2**29, "1536Mi"),
        ("0", 0, "0"),
        ("1500k", 1_500_000, "1500k"),
        ("2000", 2000, "2k"),
        ("1.1n", Fraction(11, 10**10), "2n"),
        ("0.0000000001", Fraction(1, 10**10), "1n"),
    ],
)
def test_quantities(text, value, canonical):
    assert quantity_value(text) == value
    assert canonical_quantity(text) == canonical


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1GiB", "-1", "1e3"])
def test_what_is_no_quantity_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write it like 500m"):
        quantity_value(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
def test_the_canonical_quantity_has_the_same_value_and_is_its_own_canonical_form(number, suffix):
    text = f"{number}{suffix}"
    canonical = canonical_quantity(text)
    assert quantity_value(canonical) == quantity_value(text)
    assert canonical_quantity(canonical) == canonical


@given(st.integers(0, 999_999))
def test_the_canonical_duration_has_the_same_length(milliseconds):
    canonical = canonical_duration(f"{milliseconds}ms")
    assert round(duration_seconds(canonical) * 1000) == milliseconds
    assert canonical_duration(canonical) == canonical
