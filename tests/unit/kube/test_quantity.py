"""Quantities come out as the API server gives them back."""

from __future__ import annotations

import pytest

from bud.errors import InvalidError
from bud.kube.quantity import canonical, parse, readable


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("4", "4"),
        (4, "4"),
        ("1024Mi", "1Gi"),
        ("1536Mi", "1536Mi"),
        ("16Gi", "16Gi"),
        ("0.5Gi", "512Mi"),
        ("1.5Gi", "1536Mi"),
        ("2000", "2k"),
        ("1G", "1G"),
        ("1000M", "1G"),
        ("100u", "100u"),
        ("0", "0"),
        ("1e3", "1k"),
    ],
)
def test_the_canonical_form_of_a_quantity(given: str | int, expected: str) -> None:
    assert canonical(given) == expected


@pytest.mark.parametrize("given", ["", "abc", "4 cores", "16GiB", "--1"])
def test_what_is_not_a_quantity_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(InvalidError, match="such as 500m"):
        parse(given)


@pytest.mark.parametrize(
    ("given", "expected"), [(0, "0"), (900, "900"), (1536, "1.5Ki"), (2_500_000_000, "2.3Gi"), (16 * 1024**3, "16Gi")]
)
def test_a_size_for_people(given: int, expected: str) -> None:
    assert readable(given) == expected
