"""Convert the driver's columns to DataFlare's types. Never raises: a value that does not fit
becomes NULL.

Always true: a NULL for a value that is not NULL means that it does not fit; no value is rounded.
"""

from __future__ import annotations

import polars as pl

from dataflare.model.types import DataType
from dataflare.sdk.sql.text_values import decoded_text

# The driver returns infinity and times after the year 294246 as numbers before the first possible
# date.
_FIRST_DAY = -2_440_588
# Polars cannot write a date after the year 262142.
_LAST_DAY = 95_026_236
_DAY_US = 86_400_000_000
_INTERVAL = (
    r"^(?:(?P<days>-?\d+) days?)?(?:(?:^| )(?P<sign>[+-])?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)"
    r"(?:\.(?P<us>\d{1,6}))?)?$"
)


def decoded(raw: pl.Series, type_: DataType, *, as_text: bool) -> pl.Series:
    """as_text: the column was fetched as text, because the contract has another type than the
    column."""
    if as_text:
        return _of_text(_text(raw), type_)
    match type_.name:
        case "string" | "json":
            return _text(raw)
        case "decimal":
            return _decimal(_text(raw), type_)
        case "duration":
            return _interval(_text(raw))
        case "date" | "timestamp":
            return _within(raw.cast(type_.to_polars()), type_)
        case "list":
            assert type_.item is not None
            return _list(raw, type_)
    return raw if raw.dtype == type_.to_polars() else raw.cast(type_.to_polars())


def _text(raw: pl.Series) -> pl.Series:
    return raw if raw.dtype == pl.String else raw.cast(pl.String)


def _nulls(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    return pl.Series(series.name, [None], dtype=dtype).new_from_index(0, series.len())


def _of_text(text: pl.Series, type_: DataType) -> pl.Series:
    if type_.name == "duration":
        return _interval(text).cast(type_.to_polars())
    if type_.name == "binary":
        return text.str.strip_prefix("\\x").str.decode("hex", strict=False)
    return decoded_text(text, type_)


def _decimal(text: pl.Series, type_: DataType) -> pl.Series:
    """`nan` and `inf` do not fit, and no digit is dropped."""
    values = text.cast(type_.to_polars(), strict=False)
    digits = text.str.len_bytes() - text.str.find(".", literal=True) - 1
    long = digits > (type_.scale or 0)
    if not long.any():
        return values
    exact = text.str.contains(rf"^-?\d*(?:\.\d{{0,{type_.scale}}}0*)?$")
    return values.zip_with(exact.fill_null(True), _nulls(text, type_.to_polars()))


def _within(values: pl.Series, type_: DataType) -> pl.Series:
    unit = 1 if type_.name == "date" else _DAY_US
    good = values.to_physical().is_between(_FIRST_DAY * unit, (_LAST_DAY + 1) * unit, closed="left")
    if good.all():
        return values
    return values.zip_with(good.fill_null(True), _nulls(values, type_.to_polars()))


def _interval(text: pl.Series) -> pl.Series:
    parts = text.str.extract_groups(_INTERVAL).struct.unnest()
    whole = {
        name: parts[name].cast(pl.Int64, strict=False).fill_null(0) for name in ("days", *"hms")
    }
    fraction = parts["us"].str.pad_end(6, "0").cast(pl.Int64, strict=False).fill_null(0)
    clock = ((whole["h"] * 60 + whole["m"]) * 60 + whole["s"]) * 1_000_000 + fraction
    signed = clock.zip_with((parts["sign"] != "-").fill_null(True), -clock)
    total: pl.Series = (whole["days"] * 86_400_000_000 + signed).cast(pl.Duration("us"))
    is_interval = text.str.contains(_INTERVAL.replace("?P<", "?<")) & (text != "")
    durations = total.zip_with(is_interval.fill_null(False), _nulls(text, pl.Duration("us")))
    return durations.rename(text.name)


def _list(raw: pl.Series, type_: DataType) -> pl.Series:
    """A list does not fit if one of its elements does not fit."""
    item = type_.item
    assert item is not None
    target = type_.to_polars()
    if item.name in ("string", "json", "binary", "bool") or item.is_integer or item.is_float:
        return raw if raw.dtype == target else raw.cast(target)
    flat = raw.explode(empty_as_null=False, keep_nulls=False)
    values = decoded(flat, item, as_text=False)
    has_misfit = (values.is_null() & flat.is_not_null()).any()
    if has_misfit:
        fit = pl.Series([_fits(each, item) for each in raw], dtype=pl.Boolean)
        raw = raw.zip_with(
            fit, pl.Series(raw.name, [None], dtype=raw.dtype).new_from_index(0, len(raw))
        )
    lists = raw.to_frame("v").select(
        pl.col("v").list.eval(
            pl.element().map_batches(
                lambda each: decoded(each, item, as_text=False), return_dtype=item.to_polars()
            )
        )
    )
    return lists.to_series().alias(raw.name)


def _fits(values: pl.Series | None, item: DataType) -> bool:
    if values is None:
        return True
    decoded_values = decoded(values, item, as_text=False)
    return not bool((decoded_values.is_null() & values.is_not_null()).any())
