"""A few rows as an INSERT into their stage, which is sent in one message with the merge that follows it. COPY would need
two more answers of the server, and columnar encoding takes 2.5 ms of CPU for however few rows.

Always true: the rows have the same meaning as the CSV of the same rows. Each value is a literal in quotes without a type,
which the server reads by the type of its column, as it does for COPY. Where that is not certain, there is no INSERT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.postgres.catalog import Connection
from dataflare.connectors.postgres.exactness import Limit, refuse_loss
from dataflare.connectors.postgres.merge import GONE, LEAVING
from dataflare.connectors.postgres.rules import PLACE
from dataflare.connectors.postgres.types import PgType
from dataflare.errors import DataError
from dataflare.model.batch import KIND_COLUMN
from dataflare.model.types import DataType
from dataflare.sdk.sql.names import listed

if TYPE_CHECKING:
    from dataflare.connectors.postgres.ready import Ready

_ROWS_MAX = 200
_CHARACTERS_MAX = 1 << 18
_START = datetime(1970, 1, 1)
_INTEGERS = ("int2", "int4", "int8", "numeric")
_TICKS_US = {"us": 1, "ms": 1_000}


class FewRows(Struct, frozen=True):
    """frame: the rows as they came; first: the place of the first one in its epoch. insertion: the statement. count: of
    its rows, gone: of these, the deletes."""

    frame: pl.DataFrame
    first: int
    insertion: str
    count: int
    gone: int


def few_rows(
    db: Connection, ready: Ready, frame: pl.DataFrame, first: int, types: Mapping[str, DataType]
) -> FewRows | None:
    """The last row of each key, or None where COPY must send them. types: of the columns."""
    target, targets = ready.target, ready.into.columns
    if not target.key or target.op or target.sift or target.sequence is not None:
        return None
    if frame.height > _ROWS_MAX:
        return None
    if db.info.parameter_status("standard_conforming_strings") != "on":
        return None  # a backslash would not stand for itself
    columns = [
        _texts(frame[name], type_, targets[name].type if name in targets else None)
        for name, type_ in types.items()
    ]
    keys = _keys(frame, target.key)
    if keys is None or None in columns or _loses(frame, types, ready.limits):
        return None
    kinds: Sequence[int] = frame[KIND_COLUMN].to_list() if KIND_COLUMN in frame.columns else ()
    places = dict(zip(keys, range(frame.height), strict=True))
    if kinds and target.mode != "mirror":
        kept = (at for at in range(frame.height) if kinds[at] not in LEAVING)
        places = {keys[at]: at for at in kept}
    is_gone = [bool(kinds) and kinds[at] in LEAVING for at in places.values()]
    rows = [
        ",".join([*(column[at] for column in columns if column), f"'{first + at}','{gone}'"])
        for at, gone in zip(places.values(), is_gone, strict=True)
    ]
    values = "),\n(".join(rows)
    # A statement ends at a zero byte.
    if not rows or len(values) > _CHARACTERS_MAX or "\0" in values:
        return None
    names = listed([*types, PLACE, GONE])
    insertion = f"insert into {ready.stage} ({names}) values ({values})"
    return FewRows(frame, first, insertion, len(rows), sum(is_gone))


def _loses(frame: pl.DataFrame, types: Mapping[str, DataType], limits: Mapping[str, Limit]) -> bool:
    try:
        refuse_loss(frame, types, limits)
    except DataError:  # COPY raises it again, with the row
        return True
    return False


def _keys(frame: pl.DataFrame, key: Sequence[str]) -> list[Any] | None:
    """The key of each row, by which Python tells rows apart as Polars does; None where it does not, or a key is NULL."""
    columns = [frame[name] for name in key]
    for column in columns:
        if column.null_count() or not (column.dtype.is_integer() or column.dtype == pl.String):
            return None
    return list(zip(*(column.to_list() for column in columns), strict=True))


def _texts(values: pl.Series, type_: DataType, target: PgType | None) -> list[str] | None:
    """The literals of a column; None where they are not certain to mean the same as its CSV."""
    into = target.resolved(-1)[0].name if target is not None else ""
    if values.dtype != type_.to_polars():
        return None
    if type_.is_text:
        return ["NULL" if v is None else "'" + v.replace("'", "''") + "'" for v in values.to_list()]
    text = _writer(type_, into)
    if text is None:
        return None
    cells = (values.to_physical() if type_.is_temporal else values).to_list()
    try:
        return ["NULL" if v is None else f"'{text(v)}'" for v in cells]
    except OverflowError:  # a time before the year 1 or after 9999
        return None


def _writer(type_: DataType, into: str) -> Callable[[Any], str] | None:
    """What writes a value of a type for a column of the type `into`."""
    if (type_.is_integer and into in _INTEGERS) or (type_.name == "bool" and into == "bool"):
        return str
    if type_.name == "float64" and into == "float8":
        return repr
    if type_.name == "decimal" and into == "numeric":
        return "{:f}".format
    if type_.name == "date" and into == "date":
        return lambda days: str((_START + timedelta(days=days)).date())
    if type_.name == "timestamp" and into == ("timestamptz" if type_.timezone else "timestamp"):
        ticks, zone = _TICKS_US.get(type_.unit or ""), "+00" if type_.timezone else ""
        if ticks is not None:
            return lambda time: f"{_START + timedelta(microseconds=time * ticks)}{zone}"
    return None
