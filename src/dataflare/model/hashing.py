"""The key hash. It is the same on every machine, process and version; test vectors pin it.

splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) for
fixed-width values, xxh3 for text and bytes, over canonical values: integers as int64, -0.0 as 0.0,
one NaN, decimals as text without trailing zeros, times in microseconds UTC, NULL one constant.
Columns fold with `h = mix(h * 3 ^ column)`. The top 7 bits of the hash are the key group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dataflare.errors import InternalError

if TYPE_CHECKING:
    import polars as pl

KEY_GROUPS = 128
HASH_ID = "splitmix64/xxh3 v1"
_NULL = 0x9E3779B97F4A7C15
_SEED = 0x243F6A8885A308D3
_MASK = (1 << 64) - 1


def hash_columns(
    frame: pl.LazyFrame, columns: Sequence[str], name: str, *, seed: int = 0
) -> pl.LazyFrame:
    """Add `name`: UInt64 hash of the values in `columns`.

    Built with successive `with_columns`: one nested expression would repeat its input at every xor.
    """
    import polars as pl

    schema = frame.collect_schema()
    start = mix_int((_SEED + seed * _NULL) & _MASK)
    frame = frame.with_columns(pl.lit(start, pl.UInt64).alias(name))
    for column in columns:
        part = canonical_bits(pl.col(column), schema[column])
        frame = frame.with_columns(part.alias("__dataflare_part"))
        frame = _mixed(frame, "__dataflare_part")
        folded = (pl.col(name) * 3) ^ pl.col("__dataflare_part").fill_null(pl.lit(_NULL, pl.UInt64))
        frame = _mixed(frame.with_columns(folded.alias(name)), name)
    return frame.drop("__dataflare_part", strict=False)


def key_group(hash_value: pl.Expr) -> pl.Expr:
    """The key group (0 to 127) of a hash."""
    import polars as pl

    return (hash_value // (1 << 57)).cast(pl.UInt8)


def _mixed(frame: pl.LazyFrame, name: str) -> pl.LazyFrame:
    import polars as pl

    value = pl.col(name)
    golden = pl.lit(_NULL, pl.UInt64)
    frame = frame.with_columns((value + golden).alias(name))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        frame = frame.with_columns((value ^ (value // (1 << shift))).alias(name))
        frame = frame.with_columns((value * pl.lit(factor, pl.UInt64)).alias(name))
    return frame.with_columns((value ^ (value // (1 << 31))).alias(name))


def mix_int(value: int) -> int:
    """The same finaliser for one Python integer."""
    value = (value + _NULL) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def canonical_bits(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """64 bits that are equal exactly for equal values (text: its xxh3). NULL stays NULL."""
    import polars as pl

    if dtype.is_integer() or dtype == pl.Boolean:
        if dtype == pl.UInt64:
            return value
        return value.cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    if dtype.is_float():
        wide = value.cast(pl.Float64)
        plain = pl.when(wide == 0).then(pl.lit(0.0)).when(wide.is_nan()).then(pl.lit(float("nan")))
        return plain.otherwise(wide).reinterpret(dtype=pl.UInt64)
    if dtype == pl.Date:
        return value.cast(pl.Int32).cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    if isinstance(dtype, pl.Datetime):
        return value.dt.cast_time_unit("us").cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    if isinstance(dtype, pl.Duration):
        return value.dt.cast_time_unit("us").cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    if dtype == pl.Time:
        return value.cast(pl.Int64).reinterpret(dtype=pl.UInt64)
    if dtype.is_decimal():
        return _text_hash(_decimal_text(value), pl.String())
    if dtype in (pl.String, pl.Binary) or isinstance(dtype, (pl.Categorical, pl.Enum)):
        return _text_hash(value, dtype)
    if dtype == pl.Null:
        return pl.lit(None, pl.UInt64)
    if isinstance(dtype, (pl.Struct, pl.List, pl.Array)):
        text = pl.struct(_plain(value, dtype).alias("v")).struct.json_encode()
        return pl.when(value.is_not_null()).then(_text_hash(text, pl.String()))
    raise InternalError(f"no canonical bits for {dtype}")


def _decimal_text(value: pl.Expr) -> pl.Expr:
    import polars as pl

    return value.cast(pl.String).str.replace(r"(\.\d*?)0+$", "${1}").str.strip_suffix(".")


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A nested value that JSON can hold. Equal values give equal JSON."""
    import polars as pl

    if isinstance(dtype, pl.Struct):
        parts = [
            _plain(value.struct.field(f.name), f.dtype).alias(str(i))  # type: ignore[arg-type]
            for i, f in enumerate(dtype.fields)
        ]
        return pl.when(value.is_not_null()).then(pl.struct(parts))
    if isinstance(dtype, pl.Array):
        return _plain(value.arr.to_list(), pl.List(dtype.inner))
    if isinstance(dtype, pl.List):
        return value.list.eval(_plain(pl.element(), dtype.inner))  # type: ignore[arg-type]
    if dtype == pl.Binary:
        return value.bin.encode("hex")
    if dtype.is_decimal():
        return _decimal_text(value)
    if dtype.is_float():
        return pl.when(value == 0).then(pl.lit(0.0)).otherwise(value.cast(pl.Float64))
    if isinstance(dtype, (pl.Datetime, pl.Duration)):
        return value.dt.cast_time_unit("us").cast(pl.Int64)
    return value


def _text_hash(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    import polars as pl

    if dtype != pl.Binary:
        value = value.cast(pl.String)
    return pl.when(value.is_not_null()).then(digest(value, "nchash", "xxh3_64"))


def digest(value: pl.Expr, namespace: str, method: str, **options: Any) -> pl.Expr:
    """A digest of texts or bytes, by the polars-hash plug-in. The plug-in is loaded on the first call.

    `namespace` is 'chash' (cryptographic) or 'nchash'.
    """
    import polars_hash  # noqa: F401  registers the namespaces

    digested: pl.Expr = getattr(getattr(value, namespace), method)(**options)
    return digested
