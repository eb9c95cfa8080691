"""`mode: mirror` of a full read: rows that are gone from the source are deleted with the last epoch. Pure.

Always true:
- the keys that have come stand in a table of their own, written in the transactions of the rows; a resumed
  run finds the keys of its committed epochs there;
- only a run that gets every row there is deletes (see `DestinationContext.complete`), in its final epoch;
- more rows than `delete_max` are an error, and then none is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataflare.connectors.delete_max import effect, rows_allowed, shown
from dataflare.connectors.sql.names import listed, quoted
from dataflare.connectors.sql.store import Target
from dataflare.errors import DataError


def effects(mode: str, delete_max: float | int) -> list[str]:
    """What `plan` says of a mirror."""
    return [effect(delete_max, "table")] if mode == "mirror" else []


def refuse_too_many(target: Target, gone: int, total: int) -> None:
    """Raises DataError (E0512). gone: rows that would go, of `total` in the table. A share of few rows is
    rounded up to whole ones."""
    limit = target.delete_max
    if gone > rows_allowed(limit, total):
        raise DataError(
            f"table '{target.table}' has {gone:,} of {total:,} rows that are not in the source any more, and "
            f"'delete_max' lets a run delete {shown(limit)}",
            code="E0512",
            step=target.step,
            notes=["no row was deleted"],
            help="if these rows are to go, raise 'delete_max' and run again; if the source lacked rows by "
            "mistake, run with --fresh to read it again",
        )


def seen_creation(key: Sequence[str], place: str, seen: str) -> str:
    """The statement that makes the table of keys, with the types of the table."""
    return f"create table {seen} as select {listed(key)} from {place} where false"


def counts(key: Sequence[str], place: str, seen: str) -> str:
    """The query of how many rows would go, of how many."""
    return (
        f"select (select count(*) from {place} as t where {_unseen(key, seen)}), "
        f"(select count(*) from {place})"
    )


def deletion(key: Sequence[str], place: str, seen: str) -> str:
    return f"delete from {place} as t where {_unseen(key, seen)}"


def _unseen(key: Sequence[str], seen: str) -> str:
    same = " and ".join(f"t.{quoted(name)} = n.{quoted(name)}" for name in key)
    return f"not exists (select 1 from {seen} as n where {same})"


def gone_keys(
    key: Sequence[str], place: str, seen: str, stage: str, staged: Mapping[str, str]
) -> str:
    """The statement that forgets the keys of deleted rows. staged: by column, the key in `stage` as s."""
    same = " and ".join(f"{staged[name]} = n.{quoted(name)}" for name in key)
    there = " and ".join(f"t.{quoted(name)} = n.{quoted(name)}" for name in key)
    return (
        f"delete from {seen} as n where exists (select 1 from {stage} as s where {same}) "
        f"and not exists (select 1 from {place} as t where {there})"
    )
