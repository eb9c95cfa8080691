"""The option `max_errors`: how many rows of a step may fail."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from dataflare.errors import DataError


def too_many_errors(step: str, errors: int, allowed: str) -> DataError:
    """The error (E0530) of a step with more failed rows than it may have. allowed: in words."""
    return DataError(
        f"step '{step}': {errors:,} rows failed, more than max_errors allows ({allowed})",
        code="E0530",
        step=step,
        notes=["the rows since the last checkpoint, and their dead letters, are not kept"],
        help="fix the data or the workflow, or raise max_errors: a run that comes to its end "
        "keeps a dead letter of each row",
    )


def end_search(step: str, refused: int, most: int | None) -> None:
    """Raise DataError (E0530) when a writer has found more refused rows than the step may have: to look for the others
    costs a call for each. most: None for no bound."""
    if most is not None and refused > most:
        raise too_many_errors(step, refused, f"{most:,}")


class Bound(Struct, frozen=True):
    """How many refused rows a search may find. counts: whether a row that was refused with this error is refused for good."""

    step: str
    most: int | None
    counts: Callable[[DataError], bool] = lambda error: True
