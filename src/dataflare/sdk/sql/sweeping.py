"""`mode: mirror` of a full read: rows that are not in the source any more are deleted with the last
epoch. Pure.

Always true:
- the keys that have arrived are in a separate table, written in the transactions of the rows; a resumed run finds the keys of its committed epochs there;
- only a run that gets every row of the source deletes (see `DestinationContext.complete`), in its final epoch;
- if rows of the run failed before they arrived, no row is deleted: the missing key may be theirs;
- more rows than `delete_max` are an error, and then no row is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from dataflare.sdk.delete_max import effect, refuse_too_many
from dataflare.sdk.sql import soft_deletes
from dataflare.sdk.sql.names import listed, quoted

if TYPE_CHECKING:
    from dataflare.sdk.sql.sql_markers import SqlMarkers
    from dataflare.sdk.sql.store import Target


class Sweep(Struct, frozen=True):
    """How it ended. gone: the rows whose key did not come. left_out: how many rows of the run failed
    before they came here; if any, no row was deleted."""

    gone: int
    left_out: int = 0

    def to_json(self) -> dict[str, int]:
        """As `Committer.published` tells it."""
        if self.left_out:
            return {"deleted": 0, "not_deleted": self.gone}
        return {"deleted": self.gone}


def effects(mode: str, delete_max: float | int) -> list[str]:
    """What `plan` says of a mirror."""
    return [effect(delete_max, "table")] if mode == "mirror" else []


def refuse_deletes(target: Target, missing: int, total: int) -> None:
    """Raises DataError (E0512) if too many rows would be deleted. missing: how many, of `total` in
    the table."""
    refuse_too_many(
        target.delete_max,
        missing=missing,
        total=total,
        place=f"table '{target.table}'",
        step=target.step,
        note="no row was deleted",
    )


def keys_creation(key: Sequence[str], place: str, keys_table: str) -> str:
    """The statement that creates the table of keys, with the types of the target's table."""
    return f"create table {keys_table} as select {listed(key)} from {place} where false"


def sweep(store: SqlMarkers, target: Target, place: str, keys_table: str, *, delete: bool) -> int:
    """Count the rows whose key did not arrive in this run, with `delete` delete them, and drop the table
    of keys. Raises DataError (E0512) if it would delete too many, and the library's exceptions."""
    is_there = soft_deletes.is_there(target)
    not_arrived = _not_arrived(target.key, keys_table)
    gone = f"where {not_arrived} and {is_there}"
    total = f"select count(*) from {place} as t where {is_there}"
    query = f"select (select count(*) from {place} as t {gone}), ({total})"
    ((missing, total),) = store.rows(query)
    if delete:
        refuse_deletes(target, missing, total)
        if missing and target.deleted_at is not None:
            store.run(soft_deletes.marking(target, place, "", [not_arrived], store.now()))
        elif missing:
            store.run(f"{store.deleting(place, 't')} {gone}")
    store.discard(keys_table)
    return int(missing)


def _not_arrived(key: Sequence[str], keys_table: str) -> str:
    same = " and ".join(f"t.{quoted(name)} = n.{quoted(name)}" for name in key)
    return f"not exists (select 1 from {keys_table} as n where {same})"


def deleted_keys(
    store: SqlMarkers, key: Sequence[str], place: str, keys_table: str, stage: str,
    staged: Mapping[str, str],
) -> str:  # fmt: skip
    """The statement that removes the keys of deleted rows. staged: by column, the key in `stage` as
    s."""
    same = " and ".join(f"{staged[name]} = n.{quoted(name)}" for name in key)
    is_in_table = " and ".join(f"t.{quoted(name)} = n.{quoted(name)}" for name in key)
    return (
        f"{store.deleting(keys_table, 'n')} where exists (select 1 from {stage} as s where {same}) "
        f"and not exists (select 1 from {place} as t where {is_in_table})"
    )
