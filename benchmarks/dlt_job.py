"""The files' job as one writes it for dlt: `python dlt_job.py KIND SOURCE OUT`, with dlt's own Python.

The quick way: Arrow batches through a resource, the work on them by `pyarrow.compute`, Parquet files out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dlt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet


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


def main(kind: str, source: str, out: str) -> None:
    here = Path.cwd()
    pipeline = dlt.pipeline(
        "orders",
        destination=dlt.destinations.filesystem(bucket_url=out),
        dataset_name="made",
        pipelines_dir=str(here / "pipelines"),
    )
    pipeline.run(orders(kind, source), loader_file_format="parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
