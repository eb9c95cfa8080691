"""The case that copies Parquet files between places of an object store, beside Polars."""

from __future__ import annotations

from functools import partial

from benchmarks.streams.case import OURS, Bench, Outcome, Way, asked, by_hand, compared, workflow

BUCKET = "lake"
FILES = 8


def s3_to_s3(bench: Bench) -> Outcome:
    """The server keeps its objects in memory and is written in Python, so it takes a part of the time on both sides."""
    rows = bench.rows(4_000_000) // FILES * FILES
    server = bench.server("aws")
    client = server.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for number in range(FILES):
        path = bench.scratch / "part.parquet"
        asked("write_parquet", path, "json", rows // FILES)
        client.upload_file(str(path), BUCKET, f"in/part-{number}.parquet")
    storage = {**server.options, "region": "us-east-1"}

    def emptied(folder: str) -> None:
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=folder).get("Contents", [])
        for each in listed:
            client.delete_object(Bucket=BUCKET, Key=each["Key"])

    def count(folder: str) -> int:
        return asked("s3_rows", server.endpoint, f"s3://{BUCKET}/{folder}")

    definition = {
        "sources": {
            "orders": {
                "type": "file",
                "config": {"path": f"s3://{BUCKET}/in/*.parquet", "storage": storage},
            }
        },
        "transformations": {
            "paid": {
                "type": "filter",
                "inputs": ["orders"],
                "config": {"condition": "amount > 5000"},
            }
        },
        "destinations": {
            "out": {
                "type": "file",
                "inputs": ["paid"],
                "config": {"path": f"s3://{BUCKET}/ours/", "format": "parquet", "storage": storage},
            }
        },
    }
    ours = Way(
        OURS,
        workflow(bench, "s3_to_s3", definition),
        partial(count, "ours"),
        partial(emptied, "ours"),
    )
    command = by_hand(
        "s3_copy", server.endpoint, f"s3://{BUCKET}/in/*.parquet", f"s3://{BUCKET}/theirs"
    )
    theirs = Way("polars", command, partial(count, "theirs"), partial(emptied, "theirs"))
    expected = asked("passing", rows // FILES, "json", "amount > 5000") * FILES
    title = "S3 to S3, Parquet, half of the rows, beside Polars"
    return compared(bench, title, [ours, theirs], rows, 0.9, expected)
