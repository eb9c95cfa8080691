"""For dlt: `files KIND SOURCE OUT`, `load SOURCE DSN SCHEMA` or `unload DSN OUT`.

The quick ways: Arrow batches through a resource, the work on them by `pyarrow.compute`; into PostgreSQL by
files for COPY, several at a time; out of it by ConnectorX in a stream of Arrow batches.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from dlt.destinations import filesystem, postgres

BATCH_ROWS = 250_000


def pipeline(destination: object, dataset: str) -> dlt.Pipeline:
    here = Path.cwd() / "pipelines"
    return dlt.pipeline(
        "job", destination=destination, dataset_name=dataset, pipelines_dir=str(here)
    )


# --- files to Parquet -----------------------------------------------------------------------------


def batches(kind: str, source: str) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        yield from pyarrow.parquet.ParquetFile(source).iter_batches(500_000)
    else:
        block = pyarrow.csv.ReadOptions(block_size=32 << 20)
        yield from pyarrow.csv.open_csv(source, read_options=block)


@dlt.resource(name="orders", write_disposition="replace")
def orders(kind: str, source: str) -> Iterator[pa.Table]:
    for batch in batches(kind, source):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.equal(rows["status"], "completed"))
        made = {
            "gross": pc.multiply(rows["amount"], 1.2),
            "country": pc.utf8_upper(rows["country"]),
            "email": pc.replace_substring_regex(rows["email"], r"^(.).*@", r"\1***@"),
        }
        for name, column in made.items():
            if name in rows.column_names:
                rows = rows.set_column(rows.column_names.index(name), name, column)
            else:
                rows = rows.append_column(name, column)
        yield rows


def files(kind: str, source: str, out: str) -> None:
    job = pipeline(filesystem(bucket_url=out), "made")
    job.run(orders(kind, source), loader_file_format="parquet")


# --- into and out of PostgreSQL -------------------------------------------------------------------


@dlt.resource(
    name="customers",
    primary_key="id",
    write_disposition={"disposition": "merge", "strategy": "upsert"},
)
def customers(source: str) -> Iterator[pa.Table]:
    for batch in pyarrow.parquet.ParquetFile(source).iter_batches(BATCH_ROWS):
        yield pa.Table.from_batches([batch])


def load(source: str, dsn: str, schema: str) -> None:
    # Files that are normalized and loaded side by side.
    os.environ.setdefault("NORMALIZE__WORKERS", "2")
    os.environ.setdefault("DATA_WRITER__FILE_MAX_ITEMS", str(BATCH_ROWS))
    pipeline(postgres(dsn), schema).run(customers(source), loader_file_format="csv")


def unload(dsn: str, out: str) -> None:
    from dlt.sources.sql_database import sql_table

    # The catalog is read by psycopg2, which dlt brings; the rows by ConnectorX.
    rows = sql_table(
        dsn.replace("postgresql:", "postgresql+psycopg2:", 1),
        table="given",
        backend="connectorx",
        chunk_size=BATCH_ROWS,
        reflection_level="full_with_precision",
        backend_kwargs={"return_type": "arrow_stream", "conn": dsn},
    )
    job = pipeline(filesystem(bucket_url=out), "made")
    job.run(rows, loader_file_format="parquet", write_disposition="replace")


if __name__ == "__main__":
    {"files": files, "load": load, "unload": unload}[sys.argv[1]](*sys.argv[2:])
