"""The same work by hand: `python -m benchmarks.references ENGINE IN_KIND OUT_KIND IN OUT [CUSTOMERS]`.

Each is the best way we know to write it with that engine: schemas given, timestamps parsed by their
format, everything in one streaming query. No engine is imported that does not run.
"""

from __future__ import annotations

import sys

COLUMNS = ("order_id", "customer_id", "status", "amount", "country", "email", "created_at", "sku")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"


def by_polars(kind: str, out_kind: str, source: str, out: str, customers: str | None) -> None:
    import polars as pl

    text = {
        "order_id": pl.Int64,
        "customer_id": pl.Int64,
        "status": pl.String,
        "amount": pl.Float64,
        "country": pl.String,
        "email": pl.String,
        "created_at": pl.String,
        "sku": pl.String,
    }
    if kind == "csv":
        rows = pl.scan_csv(source, schema=text)
    elif kind == "ndjson":
        rows = pl.scan_ndjson(source, schema=text)
    else:
        rows = pl.scan_parquet(source)
    rows = rows.filter(pl.col("status") == "completed")
    if customers is not None:
        table = pl.scan_parquet(customers).select("id", "category", "priority")
        rows = rows.join(table, left_on="customer_id", right_on="id", how="left")
    if kind != "parquet":
        rows = rows.with_columns(pl.col("created_at").str.to_datetime(TIME_FORMAT, time_unit="us"))
    rows = rows.with_columns(
        (pl.col("amount") * 1.2).alias("gross"),
        pl.col("country").str.to_uppercase(),
        pl.col("email").str.replace(r"^(.).*@", "${1}***@"),
    )
    if out_kind == "parquet":
        rows.sink_parquet(out, compression="zstd")
    else:
        rows.sink_ndjson(out)


DERIVED = """order_id, customer_id, status, amount, upper(country) AS country,
    regexp_replace(email, '^(.).*@', '\\1***@') AS email, created_at, sku"""


def _select(orders: str, customers: str | None) -> str:
    joined = f" LEFT JOIN {customers} c ON o.customer_id = c.id" if customers else ""
    more = ", category, priority" if customers else ""
    return f"""SELECT {DERIVED}{more}, amount * 1.2 AS gross FROM {orders} o{joined}
        WHERE status = 'completed'"""


def by_duckdb(kind: str, out_kind: str, source: str, out: str, customers: str | None) -> None:
    import duckdb

    columns = """{order_id: 'BIGINT', customer_id: 'BIGINT', status: 'VARCHAR', amount: 'DOUBLE',
        country: 'VARCHAR', email: 'VARCHAR', created_at: 'TIMESTAMP', sku: 'VARCHAR'}"""
    rows = {
        "csv": f"read_csv('{source}', header = true, columns = {columns})",
        "ndjson": f"read_ndjson('{source}', columns = {columns})",
        "parquet": f"read_parquet('{source}')",
    }[kind]
    table = f"read_parquet('{customers}')" if customers else None
    target = "FORMAT parquet, COMPRESSION zstd" if out_kind == "parquet" else "FORMAT json"
    duckdb.connect().execute(f"COPY ({_select(rows, table)}) TO '{out}' ({target})")


def by_datafusion(kind: str, out_kind: str, source: str, out: str, customers: str | None) -> None:
    from datafusion import SessionContext

    context = SessionContext()
    columns = """(order_id BIGINT, customer_id BIGINT, status VARCHAR, amount DOUBLE, country VARCHAR,
        email VARCHAR, created_at TIMESTAMP, sku VARCHAR)"""
    stored = {"csv": "CSV", "ndjson": "JSON", "parquet": "PARQUET"}[kind]
    options = " OPTIONS ('format.has_header' 'true')" if kind == "csv" else ""
    given = "" if kind == "parquet" else columns
    context.sql(
        f"CREATE EXTERNAL TABLE orders {given} STORED AS {stored} LOCATION '{source}'{options}"
    )
    if customers:
        context.sql(f"CREATE EXTERNAL TABLE customers STORED AS PARQUET LOCATION '{customers}'")
    target = (
        "STORED AS PARQUET OPTIONS ('format.compression' 'zstd(3)')"
        if out_kind == "parquet"
        else "STORED AS JSON"
    )
    select = _select("orders", "customers" if customers else None)
    context.sql(f"COPY ({select}) TO '{out}' {target}").collect()


def main(arguments: list[str]) -> None:
    engine, kind, out_kind, source, out, *more = arguments
    by = {"polars": by_polars, "duckdb": by_duckdb, "datafusion": by_datafusion}[engine]
    by(kind, out_kind, source, out, more[0] if more else None)


if __name__ == "__main__":
    main(sys.argv[1:])
