"""How long to wait before something that failed is done again. Pure."""

from __future__ import annotations


def backoff_s(first_s: float, most_s: float, failures: int, multiplier: float = 2.0) -> float:
    """The wait after so many failures in a row, from 1: each is `multiplier` times as long as the one before, up to
    `most_s`. Any number of failures is possible: a power too large for a float is the longest wait."""
    try:
        factor = float(multiplier) ** (failures - 1)
    except OverflowError:
        return most_s if first_s else 0.0
    return min(most_s, first_s * factor)
