"""The option `delete_max` of a mirror: how many rows a run may delete."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from dataflare.errors import DataError

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def parse_delete_max(value: Any) -> float | int:
    """A share (`20%` is 0.2) or a count of rows. Raises ValueError."""
    if isinstance(value, str) and (match := _SHARE.fullmatch(value)):
        share = float(match.group(1)) / 100
        if share <= 1:
            return share
    elif (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
        isinstance(value, float) and 0 <= value < 1
    ):
        return value
    raise ValueError("expected a share such as 20%, or a number of rows")


DeleteMax = Annotated[
    float | int, BeforeValidator(parse_delete_max, json_schema_input_type=str | int)
]


def shown(delete_max: float | int) -> str:
    return f"{delete_max:.4g}" if isinstance(delete_max, int) else f"{delete_max * 100:.4g}%"


def effect(delete_max: float | int, place: str) -> str:
    """The text in `plan` for a mirror. place: table or file."""
    many = "rows" if isinstance(delete_max, int) else f"of the {place}'s rows"
    return f"at most {shown(delete_max)} {many} may be gone from the source: more are an error"


def refuse_too_many(
    delete_max: float | int, *, missing: int, total: int, place: str, step: str, note: str
) -> None:
    """Raises DataError (E0512) if more rows would be deleted than may be. missing: how many, of `total` at the
    place. note: what was left as it was."""
    if missing > rows_allowed(delete_max, total):
        raise DataError(
            f"{place} has {missing:,} of {total:,} rows that are not in the source any more, and "
            f"'delete_max' lets a run delete {shown(delete_max)}",
            code="E0512",
            step=step,
            notes=[note],
            help="if these rows should be deleted, raise 'delete_max' and run again; if the source lacked "
            "rows by mistake, run with --fresh to read it again",
        )


def rows_allowed(delete_max: float | int, total: int) -> int:
    """How many of `total` rows may be deleted. A share is rounded up to whole rows."""
    return delete_max if isinstance(delete_max, int) else math.ceil(total * delete_max - 1e-9)
