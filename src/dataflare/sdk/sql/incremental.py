"""Incremental reading: find the rows that are new since the last run. Pure; the reader passes
sorted rows.

Always true, for a table in which rows are only added or get a greater cursor value:
- a row is returned once for each cursor value that it has, also if it arrives late, inside `lag`;
- if a run ends between rows with the same cursor value, they are not lost and not doubled: the rows from the greatest value less `lag` on are remembered by a hash of key and cursor value;
- equal rows without a key are counted, so a second equal row is new.

The position contains the hashes of the window: eight bytes for each row of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Self

import polars as pl
from msgspec import Struct, field
from msgspec.structs import replace

from dataflare.errors import ConfigError, DataError
from dataflare.model.hashing import digest
from dataflare.model.types import DataType
from dataflare.sdk.sql.config import Incremental
from dataflare.sdk.sql.originals import original, original_row

CURSOR = "__dataflare_cursor"
"""The cursor in comparable form: Int64 or Int128 for numbers and times, Float64 or String."""
DAY_S = 86_400
PER_SECOND = {"s": 1_000, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_HASH, IDENTITY, _TIMES, _BEFORE = (
    "__dataflare_hash",
    "__dataflare_identity",
    "__dataflare_times",
    "__dataflare_before",
)
_STEP = 0x9E37_79B9_7F4A_7C15
_JSON_MAX = 2**63
_GROWING = ("date", "timestamp", "string", "decimal")
_MOMENT_TEXT = (
    r"^\d{4}-\d{2}-\d{2}([ Tt])\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s?([Zz]|[+-]\d{2}(?::?\d{2})?)?$"
)
_MOMENT = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:")


class State(Struct, frozen=True):
    """last: the greatest cursor value returned, None if there was none. hashes: of the rows
    returned from the window [last - lag, last]. nulls_done: whether the rows without a cursor value
    were returned. null_rows: how many these are."""

    last: Any = None
    hashes: frozenset[int] = field(default_factory=frozenset)
    nulls_done: bool = False
    null_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        great = isinstance(self.last, int) and abs(self.last) >= _JSON_MAX
        return {
            "last": {"int": str(self.last)} if great else self.last,
            "seen": _pack(self.hashes),
            "nulls_done": self.nulls_done,
            "null_rows": self.null_rows,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        last = data["last"]
        if isinstance(last, Mapping):
            last = int(last["int"])
        return cls(last, _unpack(data["seen"]), data["nulls_done"], data["null_rows"])

    def finished(self) -> State:
        """The state from which the next run starts."""
        hashes = self.hashes if self.last is not None else frozenset()
        return replace(self, hashes=hashes, nulls_done=True)


def _pack(hashes: frozenset[int]) -> str:
    return base64.b64encode(b"".join(h.to_bytes(8, "little") for h in sorted(hashes))).decode()


def _unpack(text: str) -> frozenset[int]:
    raw = base64.b64decode(text)
    return frozenset(int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8))


def check_cursor(name: str, type_: DataType, config: Incremental) -> None:
    """Refuse a column that cannot grow, and a lag that does not fit it. Raises ConfigError (E0413)."""
    if not (type_.is_integer or type_.is_float or type_.name in _GROWING):
        raise ConfigError(
            f"column '{name}' is {type_}, which cannot show which rows are new",
            code="E0413",
            help="take a column of numbers or times that grows",
        )
    if config.lag and type_.name == "string":
        raise ConfigError(
            f"'lag' needs a column of numbers or times, and '{name}' is string",
            code="E0413",
            help="leave 'lag' out, or choose a column of numbers or times",
        )


def check_settings(relation: Any, config: Incremental) -> Any:
    """The cursor column of a relation. Raises an error if it or a column of the key is missing, or if it
    cannot grow."""
    column = relation.column(config.column)
    for name in config.key:
        relation.column(name)
    check_cursor(column.name, column.type, config)
    return column


def refuse_initial(name: str, type_: DataType, value: Any) -> ConfigError:
    """The error for an initial value that is not a value of the cursor column."""
    return ConfigError(
        f"initial_value {value!r} does not fit column '{name}', which is {type_}",
        code="E0413",
        help="write 'initial_value' as a value of the column's type",
    )


def refuse_cast(column: Any) -> None:
    """Raises E0413 if the step's `schema` changes the type of the cursor column."""
    if column.as_text:
        raise ConfigError(
            f"'schema' makes column '{column.name}' {column.type}, and an incremental column is read "
            "by its own type",
            code="E0413",
            help="leave the column out of 'schema', and cast it in a map",
        )


def plain_text(value: Any) -> str:
    return value.isoformat(" ") if hasattr(value, "isoformat") else str(value)


def first_cursor(
    column: Any,
    value: Any,
    typed: Callable[[str], pl.Series],
    spelled: Callable[[Any], str] = plain_text,
) -> Any:
    """The config's first value in the comparable form of cursors. typed: its text as a value of the column, NULL if
    that does not fit. Raises ConfigError (E0413)."""
    if value is None:
        return None
    text = spelled(value)
    if column.type.name == "string":
        return text
    cursor = cursor_values(typed(text))[0]
    if cursor is None:
        raise refuse_initial(column.name, column.type, value)
    return cursor


def null_warning(name: str) -> str:
    return f"column '{name}' is NULL (such rows are read by the first run only)"


def refuse_order(name: str, type_text: str) -> ConfigError:
    """The error for a column whose order in the database is not the order of its text."""
    return ConfigError(
        f"column '{name}' is {type_text}, whose order is not that of its text, so it cannot show "
        "which rows are new",
        code="E0413",
        help="take a column of numbers, times or plain text that grows, or a query that makes one",
    )


def text_ranges(bound: str) -> list[tuple[str, str | None]]:
    """The ranges of text that may be at or after `bound`, in the order of its bytes: from the first
    of each pair up to the second. A time with a blank sorts before all times of its day with a T;
    it must be read so that it can be refused."""
    blank = with_blank(bound)
    return [(bound, None)] + ([] if blank == bound else [(blank, f"{bound[:10]}!")])


def with_blank(text: str) -> str:
    """A time with a T, written with a blank instead."""
    return f"{text[:10]} {text[11:]}" if _MOMENT.match(text) else text


def cursor_values(typed: pl.Series) -> pl.Series:
    """Typed values in the form in which they are compared and stored in JSON; decimals as whole
    numbers of their last digit."""
    if isinstance(typed.dtype, pl.Decimal):
        return typed.to_physical().cast(pl.Int128)
    if typed.dtype == pl.String or typed.dtype.is_float():
        return typed
    if typed.dtype == pl.UInt64:
        return typed.cast(pl.Int64)
    return typed.to_physical().cast(pl.Int64)


def lag_of(type_: DataType, lag: float) -> float | int:
    """Config seconds, or a number, in the units of `cursor_values`."""
    if type_.name == "timestamp":
        return round(lag * PER_SECOND[type_.unit or "us"])
    if type_.name == "date":
        return -int(-lag // DAY_S)
    if type_.name == "decimal":
        return int(Decimal(str(lag)).scaleb(type_.scale or 0))
    return lag if type_.is_float else round(lag)


def decimal_text(units: int, scale: int) -> str:
    """The decimal for a whole number of last digits from `cursor_values`, as text."""
    digits = str(abs(units)).zfill(scale + 1)
    sign, cut = "-" if units < 0 else "", len(digits) - scale
    return f"{sign}{digits[:cut]}.{digits[cut:]}" if scale else sign + digits


def cursor_text(bound: Any, type_: DataType) -> str:
    """A cursor value as text for a database."""
    if type_.name == "decimal":
        return decimal_text(bound, type_.scale or 0)
    if not type_.is_temporal:
        return repr(bound) if isinstance(bound, float) else str(bound)
    value = pl.Series([bound], dtype=pl.Int64)
    if type_.name == "date":
        return str(value.cast(pl.Int32).cast(pl.Date).dt.to_string("%Y-%m-%d")[0])
    unit: Any = "ms" if type_.unit == "s" else type_.unit or "us"
    text = str(value.cast(pl.Datetime(unit)).dt.to_string("%Y-%m-%d %H:%M:%S%.9f")[0])
    if type_.timezone is not None:
        return text[:-3] + "+00"
    return text if unit == "ns" else text[:-3]


def refuse_cursor(place: str, name: str, type_: DataType, value: Any) -> DataError:
    """The error for a value of the cursor column that does not fit the column's type."""
    return DataError(
        f"{place}: the cursor column '{name}' is {type_}, and {str(value)[:80]!r} does not fit",
        code="E0501",
        help="leave such rows out with a query, or choose another column",
    )


def lower_bound(state: State, lag: Any, initial: Any) -> Any:
    """The smallest cursor value to read; None reads all rows."""
    if state.last is None:
        return initial
    bound = state.last if isinstance(state.last, str) else state.last - lag
    return bound if initial is None else max(bound, initial)


def _shapes(text: pl.Series) -> pl.Series:
    """The format of each time in the text, as far as it decides the order as text: the separator,
    the offset, and the length if a Z follows the digits. NULL for other text."""
    parts = text.str.extract_groups(_MOMENT_TEXT).struct.unnest()
    separator, zone = parts.to_series(0), parts.to_series(1).fill_null("")
    length = text.str.len_bytes().cast(pl.String)
    length = length.zip_with(
        zone.str.to_uppercase() == "Z", pl.Series([""]).new_from_index(0, text.len())
    )
    return separator + zone + length


def row_hashes(frame: pl.DataFrame) -> pl.Series:
    """A hash for each row over the text of all columns, the same in each version and on each
    machine."""
    frame = frame.with_columns(
        pl.Series(
            name, [original_row({"v": original(frame[name], at)}) for at in range(frame.height)]
        )
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.List | pl.Struct) and pl.Binary in dtype_names(dtype)
    )
    parts = [
        pl.when(pl.col(name).is_null()).then(pl.lit("\x00")).otherwise(_text_of(name, dtype))
        for name, dtype in frame.schema.items()
    ]
    text = frame.select(pl.concat_str(parts, separator="\x1f").alias("text"))
    return text.select(digest(pl.col("text"), "nchash", "xxh3_64")).to_series()


def dtype_names(dtype: Any) -> set[Any]:
    """The classes of a type and of all types in it. (Polars cannot write bytes as JSON.)"""
    inner = [dtype.inner] if isinstance(dtype, pl.List) else []
    if isinstance(dtype, pl.Struct):
        inner = [field.dtype for field in dtype.fields]
    return {dtype.base_type()}.union(*(dtype_names(each) for each in inner))


def _text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype == pl.Binary:
        return column.bin.encode("hex")
    if isinstance(dtype, pl.List | pl.Struct):
        return pl.struct(column).struct.json_encode()
    if dtype.is_temporal():
        column = column.to_physical()
    return column.cast(pl.String)


class Window:
    """Finds new rows page by page, in the order of the cursor, NULLs first."""

    def __init__(self, state: State, lag: Any, initial: Any) -> None:
        self._start, self._lag, self._initial = state, lag, initial
        self._last = state.last
        self._old = state.hashes
        self._null_rows = state.null_rows
        self._nulls_done = state.nulls_done
        self._recent: pl.DataFrame | None = None
        self._shape: tuple[str, str] | None = None
        if isinstance(state.last, str):
            self._refuse_formats(pl.Series([state.last], dtype=pl.String))

    @property
    def bound(self) -> Any:
        return lower_bound(self._start, self._lag, self._initial)

    def state(self) -> State:
        recent = [] if self._recent is None else self._recent[IDENTITY].to_list()
        hashes = self._old | frozenset(recent)
        return State(self._last, hashes, self._nulls_done, self._null_rows)

    def take(self, cursor: pl.Series, identity: pl.Series) -> pl.Series:
        """Which rows of the next page are new. cursor: see CURSOR. identity: of each row,
        UInt64."""
        if cursor.dtype == pl.String:
            self._refuse_formats(cursor)
        page = pl.DataFrame({CURSOR: cursor, _HASH: identity})
        self._refuse_disorder(cursor)
        page = self._identified(page)
        new = ~page[IDENTITY].is_in(list(self._old))
        if self.bound is not None:
            new &= (cursor >= self.bound).fill_null(True)
        nulls = cursor.is_null()
        if self._start.nulls_done:
            new &= ~nulls
        self._null_rows += int((new & nulls).sum())
        self._remember(page)
        return new

    def _identified(self, page: pl.DataFrame) -> pl.DataFrame:
        """Number equal rows, so that each of them has a different identity."""
        recent = page.clear() if self._recent is None else self._recent
        counts = recent.group_by(_HASH).len(_BEFORE)
        counted = page.join(counts, on=_HASH, how="left", maintain_order="left").with_columns(
            (pl.int_range(pl.len()).over(_HASH) + pl.col(_BEFORE).fill_null(0))
            .cast(pl.UInt64)
            .alias(_TIMES)
        )
        return counted.select(
            CURSOR,
            _HASH,
            (pl.col(_HASH) + pl.col(_TIMES) * pl.lit(_STEP, pl.UInt64)).alias(IDENTITY),
        )

    def _refuse_formats(self, cursor: pl.Series) -> None:
        """Refuse times in several formats: they do not sort as text."""
        shapes = pl.DataFrame({"shape": _shapes(cursor), "text": cursor}).drop_nulls()
        for shape, text in shapes.unique("shape", keep="first", maintain_order=True).rows():
            first = self._shape
            if first is None:
                self._shape = first = (shape, text)
            if shape != first[0]:
                raise DataError(
                    "the values of the incremental column are times that are written in several ways, "
                    f"such as '{first[1]}' and '{text}', and as text they are not in order",
                    code="E0508",
                    help="read the column as a time, with schema: {COLUMN: timestamp}, or by a query that "
                    "gives it one format",
                )

    def _refuse_disorder(self, cursor: pl.Series) -> None:
        values = cursor.drop_nulls()
        if values.len() and not values.is_sorted():
            raise DataError(
                "the values of the incremental column are not in order: it seems to hold several "
                "formats",
                code="E0508",
                help="read it by a query that gives it one format",
            )

    def _remember(self, page: pl.DataFrame) -> None:
        values = page[CURSOR].drop_nulls()
        recent = page if self._recent is None else pl.concat([self._recent, page])
        if values.len():
            self._nulls_done = True
            greatest = values[-1]
            if self._start.last is None or greatest > self._start.last:
                # Rows arrive in cursor order, so a remembered row that was not read before this one
                # was deleted.
                self._old = frozenset()
            self._last = greatest if self._last is None else max(self._last, greatest)
            bound = self._last if isinstance(self._last, str) else self._last - self._lag
            recent = recent.filter(pl.col(CURSOR) >= bound)
        self._recent = recent
