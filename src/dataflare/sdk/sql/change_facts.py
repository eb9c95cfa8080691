"""What a log says of each change beside its row: when and where it was committed, and in which transaction. Each is a
column behind those of the table, where it is asked for.

Always true: a row of the first read has none of them, because no log says when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from dataflare.errors import ConfigError
from dataflare.model.types import BOOL, STRING, TIMESTAMP_UTC, DataType, parse_type

Fact = Literal["ts", "lsn", "txid", "snapshot"]
TIME = "_ts"
TYPES: Mapping[str, DataType] = {
    TIME: TIMESTAMP_UTC,
    "_lsn": parse_type("int64"),
    "_txid": STRING,
    "_snapshot": BOOL,
}
"""By column, its type."""
DESCRIPTION = (
    "what becomes a column of each row: ts (`_ts`, when it was committed), lsn (`_lsn`, the place in the log, which "
    "grows), txid (`_txid`, its transaction), snapshot (`_snapshot`, whether it is of the first read, where the others "
    "are NULL)"
)


def columns_of(facts: Sequence[Fact]) -> tuple[str, ...]:
    return tuple(f"_{fact}" for fact in dict.fromkeys(facts))


def refuse_taken(names: Sequence[str], facts: Sequence[str], label: str, step: str) -> None:
    """Raises ConfigError (E0411) for a fact whose name a column of the table has. names: of its columns. facts: the names
    of their columns."""
    taken = [name for name in facts if name in names]
    if taken:
        raise ConfigError(
            f"'metadata' writes the column '{taken[0]}', and {label} has one of that name",
            code="E0411",
            step=step,
            help=f"leave '{taken[0][1:]}' out of 'metadata'",
        )
