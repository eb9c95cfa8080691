"""`before_sql` and `after_sql` of a destination: their text in `plan`, and their errors. Pure."""

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


def refuse(type_: str, before: Sequence[str], after: Sequence[str], *, possible: bool) -> None:
    """Raises ConfigError (E0413) for statements that a database cannot run."""
    if possible or not (before or after):
        return
    option = "before_sql" if before else "after_sql"
    raise ConfigError(
        f"'{option}' needs a database that runs statements, and {type_} is not one",
        code="E0413",
        help=f"leave '{option}' out",
    )


@contextmanager
def user_statement(step: str, option: str) -> Iterator[None]:
    """Convert a database's error about a user's statement into ConfigError (E0412), unless a retry
    may help."""
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
