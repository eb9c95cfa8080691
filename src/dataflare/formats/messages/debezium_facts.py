"""What a change of Debezium says of itself beside its row (`source`), as columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dataflare.model.types import BOOL, INT64, STRING, TIMESTAMP_UTC, DataType

TYPES: Mapping[str, DataType] = {
    "_ts": TIMESTAMP_UTC,
    "_lsn": INT64,
    "_txid": STRING,
    "_snapshot": BOOL,
}
_BLOCK = "transaction id"
_FILE = 1 << 40
"""The greatest size of a file of a binary log."""


def facts_of(sources: Sequence[Mapping[str, Any] | None], names: Sequence[str]) -> list[pl.Series]:
    """sources: of each change; None where it has none. names: of the columns."""
    found: list[pl.Series] = []
    for name in names:
        values = [None if source is None else _READ[name](source) for source in sources]
        if name == "_ts":
            times = pl.Series(values, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
            found.append(times.alias(name))
        else:
            found.append(pl.Series(name, values, dtype=TYPES[name].to_polars()))
    return found


def with_transaction(
    source: Mapping[str, Any] | None, transaction: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """A source with the id in its change's `transaction`, which is there with `provide.transaction.metadata`."""
    if source is None or not transaction:
        return source
    return {**source, _BLOCK: transaction.get("id")}


def _microseconds(source: Mapping[str, Any]) -> int | None:
    if _is_snapshot(source):
        return None
    finer, plain = source.get("ts_us"), source.get("ts_ms")
    if isinstance(finer, int):
        return finer
    return plain * 1_000 if isinstance(plain, int) else None


def _place(source: Mapping[str, Any]) -> int | None:
    """Of PostgreSQL the number of the place; of MySQL file and offset as one number, as `cdc` of `mysql` gives it."""
    lsn, file, offset = source.get("lsn"), source.get("file"), source.get("pos")
    if _is_snapshot(source):
        return None
    if isinstance(lsn, int):
        return lsn
    number = str(file).rpartition(".")[2]
    return int(number) * _FILE + offset if isinstance(offset, int) and number.isdigit() else None


def _transaction(source: Mapping[str, Any]) -> str | None:
    if _is_snapshot(source):
        return None
    found = source.get("txId")
    if found is None:
        found = source.get("gtid")
    if found is None:
        found = source.get(_BLOCK)
    return None if found is None else str(found)


def _is_snapshot(source: Mapping[str, Any]) -> bool:
    """Debezium writes true, first, last, incremental ... or false."""
    return str(source.get("snapshot") or "false").lower() != "false"


_READ = {
    "_ts": _microseconds, "_lsn": _place, "_txid": _transaction, "_snapshot": _is_snapshot,
}  # fmt: skip
