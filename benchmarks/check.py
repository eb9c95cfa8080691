"""What a result holds, in figures that do not depend on the order of its rows.

`python -m benchmarks.check FILE OTHER` prints what differs, a line each. It is a process of its own, so
that its memory is in nobody's way. A folder stands for all files in it of the kind its files have.
"""

from __future__ import annotations

import sys
from pathlib import Path

TIMES = ("created_at", "at", "seen")
BOOKKEEPING = ("diff", "time", "_dlt_id", "_dlt_load_id")
"""Columns that a tool adds for itself."""


def facts(path: Path) -> dict[str, object]:
    """Row count, and a checksum per column."""
    import polars as pl

    rows = _scan(path)
    names = rows.collect_schema()
    checks = [pl.len().alias("rows")]
    for name, dtype in sorted(names.items()):
        column = pl.col(name)
        if name in BOOKKEEPING:
            continue
        if name in TIMES:
            checks.append(_second(column, dtype).sum().alias(name))
        elif dtype.is_float() or dtype.is_decimal():
            # To the cent: engines may differ in the last bit of a product.
            cents = (column.cast(pl.Float64) * 100).round()
            checks.append(cents.cast(pl.Int64).sum().alias(name))
        elif dtype.is_integer():
            checks.append(column.cast(pl.Int64).sum().alias(name))
        else:
            text = column.cast(pl.String)
            checks.append((text.hash(7) // 2**20).sum().alias(name))
    return rows.select(checks).collect(engine="streaming").row(0, named=True)


def _scan(path: Path) -> object:
    import polars as pl

    files = [path] if path.is_file() else sorted(f for f in path.rglob("*.*") if f.is_file())
    if path.is_dir():
        kind = next((f.suffix for f in files if f.suffix in (".parquet", ".csv")), ".ndjson")
        files = [f for f in files if f.suffix == kind]
    if files[0].suffix == ".parquet":
        return pl.scan_parquet(files)
    if files[0].suffix == ".csv":
        return pl.scan_csv(files)
    return pl.scan_ndjson(files)


def _second(column: object, dtype: object) -> object:
    import polars as pl

    assert isinstance(column, pl.Expr)
    if dtype == pl.String:
        column = column.str.slice(0, 19).str.replace(" ", "T").str.to_datetime("%Y-%m-%dT%H:%M:%S")
    return column.dt.epoch("s")


def differences(path: Path, other: Path) -> list[str]:
    """What is not the same in two results, in words."""
    ours, theirs = facts(path), facts(other)
    return [
        f"{name}: {ours.get(name)} here, {theirs.get(name)} there"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


if __name__ == "__main__":
    for line in differences(Path(sys.argv[1]), Path(sys.argv[2])):
        print(line)
