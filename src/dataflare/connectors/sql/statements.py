"""`before_sql` and `after_sql` of a destination: what `plan` says of them, and errors that name them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dataflare.errors import ConfigError, DataFlareError, Retry


def effects(before: Sequence[str], after: Sequence[str]) -> list[str]:
    parts = (
        ("before_sql", before, "when the run begins"),
        ("after_sql", after, "after its last rows"),
    )
    return [
        f"runs {name} ({len(each)} statement{'s' if len(each) > 1 else ''}) {when}"
        for name, each, when in parts
        if each
    ]


@contextmanager
def named(step: str, option: str) -> Iterator[None]:
    """What a database says to a user's statement becomes ConfigError (E0412), unless trying again may help."""
    try:
        yield
    except DataFlareError as error:
        if error.retry is not Retry.NEVER:
            raise error.at(step=step) from error.__cause__
        raise ConfigError(
            f"'{option}' is refused: {error.message}",
            code="E0412",
            step=step,
            notes=error.notes,
            help=f"correct the statement in '{option}', and run again",
        ) from error.__cause__
