"""Change some columns of rows that are in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from dataflare.connectors.postgres.catalog import Connection, Table
from dataflare.connectors.postgres.copying import Copier
from dataflare.connectors.postgres.exactness import Limit
from dataflare.sdk.sql.names import listed, quoted
from dataflare.sdk.sql.store import Target
from dataflare.sdk.sql.tables import not_there

_STAGE = '"_dataflare_update"'


def update(
    db: Connection, target: Target, into: Table, frame: pl.DataFrame, limits: Mapping[str, Limit],
    errors: Callable[[], Any],
) -> None:  # fmt: skip
    """frame: the key and the columns that change, each key once. Raises DataError (E0554) for a row that is not there."""
    same = " and ".join(f"t.{quoted(n)} = s.{quoted(n)}" for n in target.key)
    sets = ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in frame.columns if n not in target.key)
    with errors():
        db.execute(
            f"create temporary table {_STAGE} on commit drop as select {listed(frame.columns)} from {into.sql} "
            "with no data"
        )
    types = {name: target.schema[name] for name in frame.columns}
    columns = {name: column.type for name, column in into.columns.items()}
    copier = Copier(db, errors, _STAGE, types, columns, (), limits)
    copier.send(copier.encode(frame))
    with errors():
        missing = db.execute(
            f"select {listed(target.key, 's.')} from {_STAGE} s where not exists "
            f"(select from {into.sql} t where {same}) limit 1"
        ).fetchone()
        if missing is not None:
            raise not_there(target, missing)
        if sets:
            db.execute(f"update {into.sql} t set {sets} from {_STAGE} s where {same}")
        db.execute(f"drop table {_STAGE}")
