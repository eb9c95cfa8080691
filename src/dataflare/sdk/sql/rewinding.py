"""Take the rows of later epochs back, as far as a table can."""

from __future__ import annotations

from msgspec.structs import replace

from dataflare.errors import CheckpointError
from dataflare.sdk.sql.marker import MarkerRow, rewind_marker
from dataflare.sdk.sql.store import TableStore, Target


def take_back(
    store: TableStore, target: Target, row: MarkerRow, epoch: int, rows_kept: int | None
) -> None:
    """Bring a step's table and its marker row back to an epoch. rows_kept: the rows that the run had written then;
    None if none of them are valid."""
    can_rewind = target.mode != "append" or row.rows_total == 0
    moved = rewind_marker(row, target, epoch, can_rewind=can_rewind)
    goes_back = rows_kept is None or row.epoch > epoch
    staged = target.mode != "overwrite" or not goes_back or store.trim(target, rows_kept or 0)
    if rows_kept and not staged:
        raise CheckpointError(
            f"table '{target.table}' was already replaced by checkpoint {row.epoch} and "
            f"cannot be reset to checkpoint {epoch}",
            code="E0705",
            step=target.step,
            help="run with --fresh to build it again",
        )
    if moved is not None:
        if row.epoch > epoch and rows_kept is not None:
            moved = replace(moved, rows_total=rows_kept)
        store.write_marker(target, moved)
