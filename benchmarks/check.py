"""What a result holds, in figures that do not depend on the order of its rows.

`python -m benchmarks.check FILE OTHER` prints what differs, a line each. It is a process of its own, so
that its memory is in nobody's way.
"""

from __future__ import annotations

import sys
from pathlib import Path


def facts(path: Path) -> dict[str, object]:
    """Row count, and a checksum per column."""
    import polars as pl

    rows = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_ndjson(path)
    names = rows.collect_schema()
    checks = [pl.len().alias("rows")]
    for name, dtype in sorted(names.items()):
        column = pl.col(name)
        if name == "created_at":
            checks.append(_second(column, dtype).sum().alias(name))
        elif dtype.is_float():
            # To the cent: engines may differ in the last bit of a product.
            checks.append((column * 100).round().cast(pl.Int64).sum().alias(name))
        elif dtype.is_integer():
            checks.append(column.cast(pl.Int64).sum().alias(name))
        else:
            text = column.cast(pl.String)
            checks.append((text.hash(7) // 2**20).sum().alias(name))
    return rows.select(checks).collect(engine="streaming").row(0, named=True)


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
