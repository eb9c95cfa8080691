"""`mode: mirror` of a full read: rows that are gone from the source are deleted with the last epoch. Pure.

Always true:
- the keys that have come stand in a table of their own, written in the transactions of the rows; a resumed
  run finds the keys of its committed epochs there;
- only a run that gets every row there is deletes (see `DestinationContext.complete`), in its final epoch;
- more rows than `delete_max` are an error, and then none is deleted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dataflare.connectors.sql.names import listed, quoted
from dataflare.connectors.sql.store import Target
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


def shown(delete_max: float | int) -> str:
    return f"{delete_max:.4g}" if isinstance(delete_max, int) else f"{delete_max * 100:.4g}%"


def effects(mode: str, delete_max: float | int) -> list[str]:
    """What `plan` says of a mirror."""
    if mode != "mirror":
        return []
    many = "rows" if isinstance(delete_max, int) else "of the table's rows"
    return [f"at most {shown(delete_max)} {many} may be gone from the source: more are an error"]


def refuse_too_many(target: Target, gone: int, total: int) -> None:
    """Raises DataError (E0512). gone: rows that would go, of `total` in the table. A share of few rows is
    rounded up to whole ones."""
    limit = target.delete_max
    allowed = limit if isinstance(limit, int) else math.ceil(total * limit - 1e-9)
    if gone > allowed:
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
