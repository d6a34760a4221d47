"""Kubernetes quantities: parsing, and the canonical form in which the API server gives them back.

Rules: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ — no precision is lost, no
fractional digits, the largest suffix with a whole number, in the family (binary or decimal) that was given.
"""

from __future__ import annotations

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from bud.errors import InvalidError

_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}


def parse(quantity: str | int) -> Decimal:
    """Value of a quantity. Raises `InvalidError` when it does not parse."""
    try:
        return Decimal(parse_quantity(quantity))
    except ValueError as error:
        raise InvalidError(
            f'"{quantity}" is not a Kubernetes quantity, such as 500m, 4 or 16Gi', reason="InvalidQuantity"
        ) from error


def canonical(quantity: str | int) -> str:
    """The form in which the API server stores it: `1000m` is `1`, `0.5` is `500m`, `1024Mi` is `1Gi`."""
    value = parse(quantity)
    if str(quantity).endswith("i") and value == value.to_integral_value():
        return binary(int(value))
    exponent = -3
    scaled = (value * 10**9).to_integral_value(rounding="ROUND_UP")
    while exponent < 6 and scaled and scaled % 1000 == 0:
        scaled, exponent = scaled / 1000, exponent + 1
    return f"{int(scaled)}{_DECIMAL[exponent]}" if scaled else "0"


def binary(value: int) -> str:
    """A number of bytes with the largest binary suffix that leaves it whole."""
    power = 0
    while power < len(_BINARY) - 1 and value and value % 1024 == 0:
        value, power = value // 1024, power + 1
    return f"{value}{_BINARY[power]}"


def readable(value: int) -> str:
    """A number of bytes for people, as in `2.3Gi`; not exact."""
    number, power = float(value), 0
    while number >= 1024 and power < len(_BINARY) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f}{_BINARY[power]}" if power and number < 10 else f"{number:.0f}{_BINARY[power]}"
